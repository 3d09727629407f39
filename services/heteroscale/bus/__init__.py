"""How records travel: one Log protocol with a Kafka and an in-memory implementation, and dead letters."""
