"""What is written in an afternoon: poll, validate with pydantic, collect dicts, write a Parquet file every 50,000.

Run as `naive_sink.py KAFKA FOLDER`. Offsets are committed after each file, so a crash in between repeats events.
"""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import Consumer

from clickwell.schemas.interactions import Interaction

kafka, folder = sys.argv[1], Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
consumer = Consumer(
    {"bootstrap.servers": kafka, "group.id": "naive", "auto.offset.reset": "earliest", "enable.auto.commit": False}
)
consumer.subscribe(["interactions.v1"])
rows: list[dict] = []
written = 0
while True:
    message = consumer.poll(1.0)
    if message is not None and message.error() is None:
        event = Interaction.model_validate_json(message.value())
        row = event.model_dump(exclude={"metadata"})
        row |= {name: event.metadata.get(name) for name in ("query", "duration_ms", "device")}
        row["metadata_json"] = str(event.metadata)
        row |= {"partition": message.partition(), "offset": message.offset(), "received_at": message.timestamp()[1]}
        rows.append(row)
    if len(rows) >= 50_000 or (message is None and rows):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"part-{written:012d}.parquet", compression="zstd")
        consumer.commit(asynchronous=False)
        written += len(rows)
        (folder / "progress.part").write_text(str(written))
        (folder / "progress.part").replace(folder / "progress")
        rows = []
