"""From the lake to models: pairs into adapters and rankers, and the proof that they help.

Needs no Kafka and no Redis.
"""
