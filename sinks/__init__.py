"""From Kafka to the lake: every event once, in Parquet files behind a Delta transaction log."""
