"""A real Kafka and a real Valkey on this machine, from Python packages alone, and the workers beside them."""
