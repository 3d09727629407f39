"""What is reserved, as truth: one protocol with a Redis and an in-memory implementation that behave alike."""
