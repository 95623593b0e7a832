"""A stock Faust agent, as its guide writes one: `take` a batch, count it, send one pipeline.

python stock_faust.py BOOTSTRAP REDIS_URL FOLDER
"""

import sys
from pathlib import Path

import faust
from counting import count, fill
from redis.asyncio import Redis

bootstrap, url, folder = sys.argv[1:4]
client = Redis.from_url(url)
app = faust.App(
    Path(folder).name,  # the consumer group, new for each run
    broker=f"kafka://{bootstrap}",
    datadir=folder,
    value_serializer="json",
    consumer_auto_offset_reset="earliest",
    web_enabled=False,
)
topic = app.topic("interactions.v1")


@app.agent(topic)
async def popularity(stream: faust.Stream) -> None:
    async for events in stream.take(1000, within=1):
        pipeline = client.pipeline(transaction=False)
        fill(pipeline, count(events), len(events))
        await pipeline.execute()


if __name__ == "__main__":
    sys.argv[1:] = ["worker", "--without-web", "-l", "warn"]
    app.main()
