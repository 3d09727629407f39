"""Specs as people write them: read, judged and advised upon; pure."""
