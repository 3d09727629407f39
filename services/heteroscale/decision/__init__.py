"""Signals become coordinated commands."""
