"""Quix Streams with a batching sink, as its guide writes one: a batch of a partition is one pipeline.

python quix.py BOOTSTRAP REDIS_URL FOLDER
"""

import sys
from pathlib import Path

import redis
from counting import count, fill
from quixstreams import Application
from quixstreams.sinks import BatchingSink, SinkBatch


class CountingSink(BatchingSink):
    """Adds the counts of a batch to Redis; called at every checkpoint."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._client = redis.Redis.from_url(url)

    def write(self, batch: SinkBatch) -> None:
        """Send one pipeline."""
        pipeline = self._client.pipeline(transaction=False)
        fill(pipeline, count(item.value for item in batch), batch.size)
        pipeline.execute()


def main(bootstrap: str, url: str, folder: str) -> None:
    app = Application(
        broker_address=bootstrap,
        consumer_group=Path(folder).name,  # new for each run
        auto_offset_reset="earliest",
        state_dir=folder,
        # The default of 5 s would hold events back for that long; clickwell makes them visible within one.
        commit_interval=1.0,
        loglevel="WARNING",
    )
    stream = app.dataframe(app.topic("interactions.v1", value_deserializer="json"))
    stream.sink(CountingSink(url))
    app.run()


if __name__ == "__main__":
    main(*sys.argv[1:4])
