"""Fleets as other tools write them, read into nodes with a place; pure."""
