"""Kafka to Redis: chunks of records, decoded by column, applied exactly once beside their offsets."""
