"""What sends events to Kafka: the emitters, the file publisher and the simulator."""
