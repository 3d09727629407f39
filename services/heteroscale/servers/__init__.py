"""Real Kafka and Redis for this machine: given, in containers, native or embedded."""
