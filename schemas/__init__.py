"""The contracts: events, topics, Redis keys and rings. Imports no client library."""
