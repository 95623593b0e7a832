"""Traffic of all kinds at once: a service with the library, pages over HTTP, any Kafka client, and people who go."""

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from confluent_kafka import KafkaError, Message

from clickwell.errors import BufferFullError
from clickwell.producers.deliveries import Delivery
from clickwell.producers.emitter import Emitter
from clickwell.settings import Settings
from tests.faults.people import People
from tests.processes import wait_for

# Events a second of each way.
CLIENT_RATE, LIBRARY_RATE, HTTP_RATE = 400, 60, 60
USERS = 2000
# Documents of searches have names of their own: what happens to them is counted by search.
SHOWN = [f"shown-{number}" for number in range(200)]
# One erasure in so many seconds, on average.
ERASURE_SECONDS = 4.0
# What is ahead of the broker's clock by more than this is refused.
TOO_FAR_AHEAD_MS = 300_000
HTTP_SECONDS = 10.0


class Skewed(People):
    """People whose clocks may be wrong.

    Attributes:
        skew_ms: added to every time that is said.
    """

    skew_ms = 0

    def event(self) -> dict[str, Any]:
        """Return one event."""
        event = super().event()
        if self.skew_ms < 0 and "timestamp" in event:
            event["timestamp"] += self.skew_ms
        return event

    def early(self) -> None:
        """Send an event that nobody could name for an erasure, by the wrong clock."""
        now_ms = time.time_ns() // 1_000_000
        event = {"feature_id": "doc-early", "interaction_type": ["click"], "timestamp": now_ms + self.skew_ms}
        event["interaction_id"] = f"{self.rng.getrandbits(80):x}"
        self.produce(json.dumps(event).encode(), poison=self.skew_ms > TOO_FAR_AHEAD_MS)


class Senders:
    """All who send. As a context manager they send until it is left; then everything that was taken is in the log.

    Args:
        settings: of who reaches the servers without a proxy.
        emitter: the same for the library, whose broker is behind one.
        api: port of the API.
        seed: the same seed makes the same events, apart from their times.

    Attributes:
        acknowledged: ids of interactions and searches that somebody was told are taken, by who said so.
        places: (topic, partition, offset) of what the broker acknowledged to the plain client -> hash of the value.
        asked: ids of the erasures that were asked for.
        errors: one sentence for each sender that could not do its work.
    """

    def __init__(self, settings: Settings, emitter: Settings, api: int, seed: int) -> None:
        self.people = Skewed(settings.kafka.bootstrap_servers, seed, USERS, poison=0.004)
        self.people.on_delivery = self._delivered
        self.acknowledged: dict[str, set[str]] = {"library": set(), "HTTP": set()}
        self.places: dict[tuple[str, int, int], int] = {}
        self.asked: set[str] = set()
        self.errors: list[str] = []
        self._library, self._api, self._seed = emitter, api, seed
        self._stopped = threading.Event()
        ways = (self._client, self._service, self._pages, self._erasures)
        self._threads = [
            threading.Thread(target=self._told, args=(way,), name=way.__name__, daemon=True) for way in ways
        ]

    @property
    def skew_ms(self) -> int:
        """By how much the clocks of the plain client are wrong."""
        return self.people.skew_ms

    @skew_ms.setter
    def skew_ms(self, ms: int) -> None:
        self.people.skew_ms = ms

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Send until the context is left, then wait until the broker has everything."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            for thread in self._threads:
                thread.join(150)
                if thread.is_alive():
                    self.errors.append(f"{thread.name}: could not get rid of its events")

    def _told(self, way: Any) -> None:
        try:
            way()
        except BaseException as error:  # noqa: BLE001  # told by who waits for the threads
            self.errors.append(f"{way.__name__}: {error!r}")

    def _paced(self, rate: float) -> Iterator[None]:
        """Yield so often a second, until it is over."""
        began, given = time.monotonic(), 0
        while not self._stopped.wait(0.02):
            for _ in range(int((time.monotonic() - began) * rate) - given):
                given += 1
                yield

    def _client(self) -> None:
        """Send as any Kafka client does: interactions of all sorts, searches, poison and repeats."""
        for number, _ in enumerate(self._paced(CLIENT_RATE)):
            if number % 40 == 0:
                self._plain_search(number)
            elif self.people.skew_ms > 0 and number % 3 == 0:
                self.people.early()
            else:
                self.people.send()
        self.people.flush()

    def _plain_search(self, number: int) -> None:
        rng, now_ms = self.people.rng, time.time_ns() // 1_000_000
        search = {"execution_id": f"c{number}", "query": "tent", "results": rng.sample(SHOWN, rng.randrange(6))}
        value = json.dumps(search | {"timestamp": now_ms, "arm": number % 2}).encode()
        for _ in range(1 + (rng.random() < 0.1)):
            self.people.hand("searches.v1", value, search["execution_id"])
        if rng.random() < 0.05:
            self.people.hand("searches.v1", b"{", poison=True)

    def _service(self) -> None:
        """Emit what a service shows and sees clicked, with the library."""
        rng = random.Random(f"{self._seed} library")
        with Emitter(self._library) as emitter:

            def told(delivery: Delivery) -> None:
                assert delivery.outcome != "failed", delivery
                self.acknowledged["library"].add(delivery.id)

            for number, _ in enumerate(self._paced(LIBRARY_RATE / 3)):
                search, clicks = self._visit(rng, f"l{number}")
                try:
                    emitter.emit_search(search, on_delivery=told)
                    for click in clicks:
                        emitter.emit(click, on_delivery=told)
                except BufferFullError:
                    continue
            left = emitter.flush(100)
            assert not left, f"{left} events could not be delivered"

    def _pages(self) -> None:
        """Post what pages see, again and again with the same ids until it is answered with 202."""
        rng = random.Random(f"{self._seed} http")
        with httpx2.Client(base_url=f"http://127.0.0.1:{self._api}", timeout=HTTP_SECONDS) as client:
            for number, _ in enumerate(self._paced(HTTP_RATE / 12)):
                visits = [self._visit(rng, f"h{number}-{each}") for each in range(4)]
                searches = [search for search, _ in visits]
                clicks = [click for _, clicks in visits for click in clicks]
                self._post(client, "searches", searches, "execution_id")
                self._post(client, "interactions", clicks, "interaction_id")

    def _post(self, client: httpx2.Client, what: str, events: list[dict[str, Any]], name: str) -> None:
        def taken() -> list[dict[str, Any]]:
            try:
                answer = client.post(f"/v1/retrievers/{what}", json=events)
            except httpx2.HTTPError:
                return []
            assert answer.status_code in {202, 503}, f"{answer.status_code} {answer.text}"
            return answer.json()["results"] if answer.status_code == 202 else []

        verdicts = wait_for(taken, 120, "the API to take events")
        assert {each["verdict"] for each in verdicts} <= {"accepted", "duplicate"}, verdicts
        self.acknowledged["HTTP"].update(each[name] for each in verdicts)

    def _visit(self, rng: random.Random, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return a search and what was done with its results."""
        now_ms = time.time_ns() // 1_000_000
        user = f"user-{rng.randrange(USERS)}"
        who = {} if user in self.people.gone else {"user_id": user}
        shown = rng.sample(SHOWN, 5)
        said = {**who, "execution_id": name, "timestamp": now_ms}
        clicks = [
            {
                **said,
                "interaction_id": f"{name}.{position}",
                "feature_id": shown[position],
                "interaction_type": [rng.choice(("click", "click", "purchase"))],
                "position": position,
            }
            for position in rng.sample(range(5), 2)
        ]
        if who:
            self.people.ids.extend(click["interaction_id"] for click in clicks)
        return {**said, "query": "shoes", "results": shown}, clicks

    def _erasures(self) -> None:
        """Ask for people, visits and events to be forgotten, now and then twice."""
        rng = random.Random(f"{self._seed} erasures")
        for number, _ in enumerate(self._paced(1 / ERASURE_SECONDS)):
            user = rng.randrange(USERS)
            names = {"user_id": f"user-{user}", "session_id": f"visit-{user}-{rng.randrange(5)}"}
            if self.people.ids:
                names["interaction_id"] = rng.choice(self.people.ids)
            kind = rng.choice(sorted(names))
            self.people.gone.add(names[kind])
            self.asked.add(name := f"e{number}")
            self.people.ask(name, 1 + (number % 5 == 0), **{kind: names[kind]})

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        assert error is None, error
        self.places[message.topic(), message.partition(), message.offset()] = hash(message.value())


def spooling(settings: Settings, broker: str, spool: Path) -> Settings:
    """Return the settings of a service that keeps what the broker does not take."""
    kafka = settings.kafka.model_copy(update={"bootstrap_servers": broker})
    emitter = settings.emitter.model_copy(update={"spool": spool})
    return settings.model_copy(update={"kafka": kafka, "emitter": emitter})
