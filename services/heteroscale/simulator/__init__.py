"""A world of engines, traffic and faults around the real loop."""
