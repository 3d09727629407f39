"""The outcome: traces x policies x settings x seeds, and what each cost and gave."""
