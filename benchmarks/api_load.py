"""Sends events to the API over many connections and tells what it was told. Runs as a process of its own.

Prints one JSON object: requests and events by outcome, the rate, and percentiles of the time to a 202. Ids of events
that were answered with 202 go to a file, one on each line.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path
from urllib.parse import urlsplit

_MISSED_SECONDS = 0.2


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--address", required=True)
    options.add_argument("--seconds", type=float, default=3600)
    options.add_argument("--requests", type=int, default=1 << 60, help="end after so many, if that is sooner")
    options.add_argument("--batch", type=int, default=100)
    options.add_argument("--connections", type=int, default=16)
    options.add_argument("--rate", type=float, default=0, help="events a second in all; 0: as fast as they are taken")
    options.add_argument("--name", default="load")
    options.add_argument("--ids", type=Path, required=True)
    options.add_argument("--retry", action="store_true", help="send again what was not answered with 202")
    load = Load(options.parse_args())
    asyncio.run(load.run())
    print(json.dumps(load.report()))


class Load:
    """The traffic of all connections."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.at = urlsplit(options.address)
        self.next = 0
        self.accepted: list[str] = []
        self.seconds: list[float] = []
        self.outcomes: dict[str, int] = {}
        self.began = 0.0
        self.took = 0.0

    async def run(self) -> None:
        """Send on all connections until the time is over."""
        self.began = time.perf_counter()
        await asyncio.gather(*(self.connection(number) for number in range(self.options.connections)))
        self.took = time.perf_counter() - self.began
        self.options.ids.write_text("\n".join(self.accepted))

    async def connection(self, number: int) -> None:
        """Send one request after another; at a given rate, each at its own time."""
        pause = self.options.connections * self.options.batch / self.options.rate if self.options.rate else 0.0
        due = self.began + pause * number / self.options.connections
        streams = None
        most = self.options.requests * self.options.batch
        while (now := time.perf_counter()) - self.began < self.options.seconds and self.next < most:
            if pause:
                await asyncio.sleep(max(0.0, due - now))
            ids, request = self.request()
            # A late request counts its wait, too: people do not stop coming because a server is slow.
            begun = due if pause else time.perf_counter()
            due += pause
            while True:
                try:
                    streams = streams or await asyncio.open_connection(self.at.hostname, self.at.port)
                    status = await self.exchange(*streams, request)
                except (OSError, asyncio.IncompleteReadError):
                    streams, status = None, 0
                self.outcomes[str(status)] = self.outcomes.get(str(status), 0) + 1
                if status == 202:
                    self.accepted += ids
                    self.seconds.append(time.perf_counter() - begun)
                    break
                await asyncio.sleep(_MISSED_SECONDS)
                if not self.options.retry:
                    break
        if streams:
            streams[1].close()

    def request(self) -> tuple[list[str], bytes]:
        """Return the ids of a batch, and the request that sends it."""
        first, self.next = self.next, self.next + self.options.batch
        ids = [f"{self.options.name}-{n:09d}" for n in range(first, self.next)]
        events = [
            f'{{"interaction_id":"{event_id}","feature_id":"doc-{n * 7919 % 30000}","interaction_type":["click"],'
            f'"position":{n % 10},"user_id":"u{n % 5000}","session_id":"s{n % 9000}",'
            f'"metadata":{{"query":"running shoes {n % 300}","duration_ms":4200,"device":"mobile"}}}}'
            for n, event_id in enumerate(ids, first)
        ]
        body = (events[0] if self.options.batch == 1 else f"[{','.join(events)}]").encode()
        head = (
            f"POST /v1/retrievers/interactions HTTP/1.1\r\nHost: {self.at.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return ids, head.encode() + body

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
        """Send a request and return the status of the answer."""
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(size)
        return int(head[9:12])

    def report(self) -> dict[str, object]:
        """Return what happened."""
        times = sorted(self.seconds)

        def at(share: float) -> float | None:
            return round(times[min(len(times) - 1, int(share * len(times)))] * 1000, 1) if times else None

        return {
            "accepted": len(self.accepted),
            "outcomes": self.outcomes,
            "events_per_second": round(len(self.accepted) / self.took),
            "requests_per_second": round(len(times) / self.took),
            "p50_ms": at(0.5),
            "p99_ms": at(0.99),
            "max_ms": at(1),
        }


if __name__ == "__main__":
    main()
