"""Puts dead letters back into their topics, each once.

A record that was put back must not be put back again: not by a second command, not after a crash, not by two replays
at the same time, and not only as long as the workers remember ids, which is an hour or two. So:

1. One at a time. All replays share one `transactional.id`. Whoever starts ends the transaction of the one before and
   fences it: the broker takes nothing from it any more, even if it was only frozen and wakes up hours later.
2. Before the events of a batch are sent, the *intent* is committed, with the offset that each would have at the
   earliest.
3. Then the events and their `replayed` marks are sent in one transaction.
4. Whoever finds an intent without its mark looks into the log: workers and sinks read what is not committed too, so a
   record that was sent counts, whether its transaction ended well or not. It lies there, at or behind the intended
   offset, with its letter's name in the header `replay_of`, or it never will, because of 1. Only then is it sent.

The guarantee: a letter's record lies in its topic at most once, and once as soon as a replay has said so. It holds as
long as the dead-letters topic keeps the letter, whose marks lie behind it. What it does not cover is the sender, who
may have mended and sent the event too: that counts once only under the same `interaction_id`, within the dedup window.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaError as Report
from confluent_kafka import KafkaException, Message, Producer

from clickwell.clock import SystemClock
from clickwell.dead_letters import batches
from clickwell.errors import KafkaError
from clickwell.failpoints import Failpoints
from clickwell.kafka import KafkaLog, librdkafka_config
from clickwell.producers.connection import MAX_RECORD_BYTES
from clickwell.producers.records import TOPIC_OF, Record
from clickwell.schemas.keys import murmur2
from clickwell.schemas.topics import DEAD_LETTERS
from clickwell.schemas.wire import headers
from clickwell.serving.letters.book import Book, Letter, Origin, Place
from clickwell.serving.letters.check import Done, checked, mended
from clickwell.serving.letters.read import read_book
from clickwell.settings import Settings

TRANSACTIONAL_ID = "clickwell-dead-letters"
# Letters of one transaction. Each transaction leaves a marker in every partition that it touches, over which the
# workers have to step; and the values of a batch are in memory at once.
BATCH = 500
BATCH_BYTES = 64 << 20
# A batch takes well below a second. After this the broker ends it, so that a killed replay does not keep readers of
# committed records waiting for longer.
TRANSACTION_SECONDS = 30.0
REPLAY_OF = "replay_of"

# What a fenced producer hears, depending on which step it is at.
_FENCED = {Report._FENCED, Report.PRODUCER_FENCED, Report.INVALID_PRODUCER_EPOCH}  # noqa: SLF001  # librdkafka's own


class Replayer:
    """Mends dead letters and puts them back; a context manager, with the guarantee that this module describes.

    Entering ends and fences whichever replay was at work before, and reads all letters into `book`. Not thread-safe.

    Args:
        settings: where Kafka is.
        failpoints: for fault tests.

    Raises:
        KafkaError: the broker is away, or another replay has taken over: what was not told as done is settled by the
            next one.
    """

    book: Book

    def __init__(self, settings: Settings, failpoints: Failpoints | None = None) -> None:
        self._settings = settings
        self._log = KafkaLog(settings.kafka)
        self._failpoints = failpoints or Failpoints()
        self._clock = SystemClock()
        self._producer = Producer(
            {
                **librdkafka_config(settings.kafka),
                "transactional.id": TRANSACTIONAL_ID,
                "transaction.timeout.ms": int(TRANSACTION_SECONDS * 1000),
                "message.max.bytes": MAX_RECORD_BYTES,
                "linger.ms": 5,
                "log_level": 0,
            }
        )

    def __enter__(self) -> Self:
        with _errors():
            self._producer.init_transactions(TRANSACTION_SECONDS)
        self.book = read_book(self._settings)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Whatever is still queued belongs to a transaction that will not be committed.
        self._producer.purge()
        self._producer.flush(1)

    def fix(self, letters: Iterable[Letter], mend: Callable[[bytes | None], bytes]) -> Iterator[Done]:
        """Note what is to be put back instead of the originals, where it is a valid event; yield what became of each.

        Args:
            letters: those to mend; a fix of a fix starts from the former.
            mend: makes the event from what would be put back without it; may raise a `DecodeError`.

        Raises:
            KafkaError: see the class.
        """
        for batch in batches(letters, lambda letter: letter.size, BATCH, BATCH_BYTES):
            self._settle(batch)
            good, others = mended(self._log, batch, mend, self._clock.now_ms())
            with self._transaction():
                for letter, value in good:
                    self._mark(letter, "fix", value, on_delivery=partial(_remember_fix, letter))
            yield from others
            yield from (Done(letter.id, "fixed") for letter, _ in good)

    def replay(self, letters: Iterable[Letter]) -> Iterator[Done]:
        """Put letters back, batch by batch, and yield what became of each once that is certain.

        Raises:
            KafkaError: see the class.
        """
        for batch in batches(letters, lambda letter: letter.size, BATCH, BATCH_BYTES):
            self._settle(batch)
            good, others = checked(self._log, batch, self._clock.now_ms())
            yield from others
            if not good:
                continue
            targets = self._targets([record for _, record in good])
            with self._transaction():
                for (letter, _), target in zip(good, targets, strict=True):
                    self._mark(letter, "intent", target=str(target))
            self._failpoints.visit("after_intent")
            with self._transaction():
                for (letter, record), target in zip(good, targets, strict=True):
                    self._send(letter, record, target.partition)
                self._producer.flush(TRANSACTION_SECONDS)
                self._failpoints.visit("after_replay")
                for letter, _ in good:
                    self._mark(letter, "replayed")
            for letter, _ in good:
                letter.replayed = True
                yield Done(letter.id, "replayed")

    def _targets(self, records: Sequence[Record]) -> list[Origin]:
        """Return where each record would lie at the earliest."""
        topics = {TOPIC_OF[record.kind] for record in records}
        known = {topic: self._log.describe(topic) for topic in topics}
        ends = {topic: self._log.latest(topic, range(partitions)) for topic, (_, partitions) in known.items()}
        found = []
        for record in records:
            topic = TOPIC_OF[record.kind]
            topic_id, partitions = known[topic]
            partition = murmur2(record.key) % partitions
            found.append(Origin(topic_id, partition, ends[topic][partition]))
        return found

    def _settle(self, letters: Iterable[Letter]) -> None:
        """Find out which of the letters that were about to be put back have been, and say so in the topic."""
        unsettled = [letter for letter in letters if letter.state == "unsettled"]
        sent = self._sent(unsettled)
        put_back = [letter for letter in unsettled if letter.origin in sent]
        if put_back:
            with self._transaction():
                for letter in put_back:
                    self._mark(letter, "replayed")
        for letter in unsettled:
            letter.replayed, letter.target = letter.origin in sent, None

    def _sent(self, letters: Sequence[Letter]) -> set[Origin]:
        """Return the origins of those letters whose records lie where they were about to be put, or behind that."""
        begins: dict[str, dict[int, int]] = {topic: {} for topic in {letter.topic for letter in letters}}
        for topic, begin in begins.items():
            topic_id, _ = self._log.describe(topic)
            for letter in letters:
                # In a topic that was made anew since, nothing that was there counts any more.
                if letter.topic == topic and letter.target is not None and letter.target.topic_id == topic_id:
                    _, partition, offset = letter.target
                    begin[partition] = min(offset, begin.get(partition, offset))
        found = set()
        for topic, begin in begins.items():
            for record in self._log.read(topic, begin, self._log.latest(topic, begin)):
                if origin := record.headers.get(REPLAY_OF):
                    found.add(Origin.parse(origin))
        return found

    def _send(self, letter: Letter, record: Record, partition: int) -> None:
        said = headers(record.kind, record.id, "dead-letters")
        self._producer.produce(
            TOPIC_OF[record.kind],
            record.value,
            record.key,
            partition,
            headers=[*said, (REPLAY_OF, str(letter.origin).encode())],
        )
        self._producer.poll(0)

    def _mark(
        self,
        letter: Letter,
        kind: str,
        value: bytes | None = None,
        *,
        target: str = "",
        on_delivery: Callable[[Report | None, Message], None] = lambda *_: None,
    ) -> None:
        said = {"mark": kind, "letter": str(letter.origin), **({"target": target} if target else {})}
        self._producer.produce(
            DEAD_LETTERS.name,
            value,
            letter.id.encode(),
            letter.place.partition,
            headers=[(name, text.encode()) for name, text in said.items()],
            on_delivery=on_delivery,
        )
        self._producer.poll(0)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit what is produced within it, all or nothing."""
        with _errors():
            self._producer.begin_transaction()
            try:
                yield
                # Delivery reports come from here; committing would only wait for what they tell.
                self._producer.flush(TRANSACTION_SECONDS)
                self._producer.commit_transaction(TRANSACTION_SECONDS)
            except BaseException:
                with suppress(KafkaException):
                    self._producer.abort_transaction(TRANSACTION_SECONDS)
                raise


def _remember_fix(letter: Letter, error: Report | None, message: Message) -> None:
    if error is None:
        letter.fix = Place(message.partition() or 0, message.offset() or 0)


@contextmanager
def _errors() -> Iterator[None]:
    """Tell the client's errors in this project's words.

    Raises:
        KafkaError: see `Replayer`.
    """
    try:
        yield
    except KafkaException as error:
        report = error.args[0]
        if report.code() in _FENCED:
            raise KafkaError(
                "another replay of dead letters has taken over",
                why="there is one at a time, and the later one wins",
                fix="run this again when the other one is done; nothing is put back twice",
            ) from None
        raise KafkaError(f"dead letters cannot be put back: {report.str()}") from None
