"""Engines' figures in: the page parser and the publisher."""
