"""What every process needs: settings, the clock and the ticker, logs, metrics, health and life cycle."""
