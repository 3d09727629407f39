"""Telemetry becomes windowed signals."""
