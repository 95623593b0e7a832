"""The limit: fetch, decode and group, nothing else. No validation, no dedup, no Redis, nothing survives a crash.

python limit.py BOOTSTRAP REDIS_URL FOLDER EVENTS

Counts are written once, after the end. Only its progress goes to Redis meanwhile: one SET for each fetch of 10,000.
"""

import sys

import msgspec
import redis
from confluent_kafka import Consumer
from counting import APPLIED, COUNTED, LONG_VIEW_MS, SLOT_MS


class Details(msgspec.Struct, gc=False):
    """The metadata that clickwell decodes."""

    query: str | None = None
    duration_ms: int | None = None
    device: str | None = None


class Row(msgspec.Struct, gc=False):
    """The fields that clickwell decodes, their values unchecked."""

    feature_id: str
    interaction_type: tuple[str, ...]
    timestamp: int
    metadata: Details
    interaction_id: str | None = None
    position: int | None = None
    user_id: str | None = None
    session_id: str | None = None
    retriever_id: str | None = None
    execution_id: str | None = None
    sent_at: int | None = None


def main(bootstrap: str, url: str, events: int) -> None:
    client = redis.Redis.from_url(url)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "limit",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            # The default of 1,000 ms pauses a consumer that has fetched ahead, which costs it two thirds of its rate.
            "fetch.queue.backoff.ms": 10,
        }
    )
    consumer.subscribe(["interactions.v1"])
    decode = msgspec.json.Decoder(Row).decode
    # Signals of each combination of types, without and with a long view.
    known: dict[tuple[str, ...], tuple[tuple[str, ...], tuple[str, ...]]] = {}
    counts: dict[tuple[str, int, tuple[str, ...]], int] = {}
    done = 0
    while done < events:
        messages = consumer.consume(10_000, 0.2)
        for message in messages:
            row = decode(message.value())
            types = row.interaction_type
            signals = known.get(types)
            if signals is None:
                plain = tuple(sorted(COUNTED & {*types}))
                signals = known[types] = plain, (*plain, "long_view") if "click" in types else plain
            duration = row.metadata.duration_ms
            found = signals[duration is not None and duration >= LONG_VIEW_MS]
            if found:
                cell = row.feature_id, row.timestamp // SLOT_MS, found
                counts[cell] = counts.get(cell, 0) + 1
        if messages:
            done += len(messages)
            client.set(APPLIED, done)
    pipeline = client.pipeline(transaction=False)
    for (document, slot, found), n in counts.items():
        for signal in found:
            pipeline.hincrby(f"counts:{document}", f"{signal}:{slot}", n)
    pipeline.execute()
    consumer.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[4]))
