"""Placements are carried out and acknowledged."""
