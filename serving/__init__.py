"""What rerankers and people read: boosts, counts, trending documents, progress. Reads Redis, never writes it."""
