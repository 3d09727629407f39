"""Recorded topics through the live cores."""
