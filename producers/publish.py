"""Sends the events of files, one JSON object a line."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from clickwell.clock import SystemClock
from clickwell.errors import DecodeError
from clickwell.producers import metarank, sessions, ubi
from clickwell.producers.connection import DELIVERY_SECONDS
from clickwell.producers.dialects import NOT_APPLICABLE
from clickwell.producers.files import Line
from clickwell.producers.records import Kind, Record, interaction_record, search_record
from clickwell.schemas.interactions import MAX_TIMESTAMP_MS, Interaction
from clickwell.schemas.searches import Search
from clickwell.schemas.wire import decode_object, parse_object
from clickwell.settings import EmitterSettings, Settings

Format = Literal["native", "sessions", "ubi", "metarank"]

# Bad lines that are described; all are counted.
SHOWN_REJECTS = 10
# A file waits for the broker, for which a running service would not.
PATIENCE_SECONDS = 60.0
# Larger batches cost the broker and this process less; a file has no reader who waits for its first event.
LINGER_MS = 50.0
# How often progress is told, in lines.
_STEP = 500


@dataclass(frozen=True)
class Form:
    """How a line is read.

    Attributes:
        format: `native`, a line is an interaction or, with `results` or without `feature_id` and `interaction_type`, a
            search; `sessions`, `ubi`, `metarank`: see the modules of these names in `clickwell.producers`.
        retriever: retriever_id of the events of a session log, and of those of other tools that name none.
        long_view_ms: a click of a session log that lasted this long is a long_view too.
        first_position: the `ordinal` of the uppermost result in UBI.
    """

    format: Format = "native"
    retriever: str = "default"
    long_view_ms: int = 30_000
    first_position: int = ubi.FIRST_POSITION


class Survey(NamedTuple):
    """What a first look at the lines tells.

    Attributes:
        lines: how many there are.
        last_ms: the latest event time of the valid lines, None if none has a time.
        dated: whether times are of the calendar; if not, they only make sense after a shift.
    """

    lines: int
    last_ms: int | None
    dated: bool


@dataclass(frozen=True)
class Reject:
    """One line that is not a valid event: where it stands, the reason's short name, and a sentence."""

    file: str
    line: int
    reason: str
    message: str


@dataclass
class Published:
    """What became of the lines.

    Attributes:
        sent: events that were handed over, by kind.
        acked: of them, those that the broker acknowledged.
        rejected: lines that are not valid, by reason; nothing of such a line was sent.
        rejects: the first of them.
        not_applicable: lines of another tool that are valid there, but no interaction or search.
        seconds: until the last acknowledgement.
    """

    sent: Counter[Kind] = field(default_factory=Counter)
    acked: Counter[Kind] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    rejects: list[Reject] = field(default_factory=list)
    not_applicable: int = 0
    seconds: float = 0.0


class Taken(Protocol):
    """How many events of one kind are known to be where they belong."""

    @property
    def acked(self) -> int: ...  # noqa: D102


class Target(Protocol):
    """What takes the events: an `Emitter`, or something with its manners."""

    @property
    def stats(self) -> Mapping[Any, Taken]: ...  # noqa: D102
    def send(self, record: Record) -> object: ...  # noqa: D102
    def flush(self, timeout: float) -> object: ...  # noqa: D102


def patient(settings: Settings) -> Settings:
    """Return settings whose emitter waits for a slow broker rather than spool or refuse: a file can be sent again."""
    own = {"block_seconds": PATIENCE_SECONDS, "linger_ms": LINGER_MS, "spool": None}
    emitter = settings.emitter.model_dump() | own
    return settings.model_copy(update={"emitter": EmitterSettings(**emitter)})


def survey(lines: Iterable[Line], form: Form, advance: Callable[[int], None] = lambda _: None) -> Survey:
    """Read all lines for their event times; sends nothing."""
    count, last, dated = 0, None, None
    for line in _told(lines, advance):
        count += 1
        try:
            if form.format == "sessions":
                session = sessions.parse_line(line.content)
                dated = session.has_date if dated is None else dated
                searched = session.time_ms(line.place)
                times = [searched, *sessions.click_times(session, searched)]
            else:
                content = _event(line, form)
                # Any time is good here: a shift may bring it back from the future.
                event = parse_object(_model(content), content, received_ms=MAX_TIMESTAMP_MS)
                times = [] if content.get("timestamp") is None else [event.timestamp or 0]
        except DecodeError:
            continue  # counted when it is sent
        last = max([*times, *([] if last is None else [last])], default=None)
    return Survey(count, last, dated is not False)


def publish(
    lines: Iterable[Line],
    emitter: Target,
    form: Form,
    *,
    shift_ms: int = 0,
    advance: Callable[[int], None] = lambda _: None,
) -> Published:
    """Send the events of all lines and wait until they are acknowledged; bad lines are counted and left out.

    Args:
        lines: read once.
        emitter: has settings as `patient` makes them, if it is an `Emitter`.
        form: how a line is read.
        shift_ms: added to each event time; events without a time happen now.
        advance: called with a number of lines now and then.

    Raises:
        InputError: a file cannot be read to its end; what came before it is on its way.
        BufferFullError: the broker takes nothing.
    """
    started, clock = time.monotonic(), SystemClock()
    result = Published()
    before: dict[Kind, int] = {kind: counts.acked for kind, counts in emitter.stats.items()}
    read = _session_records if form.format == "sessions" else _event_records
    for line in _told(lines, advance):
        try:
            records = read(line, form, shift_ms, clock.now_ms())
        except DecodeError as error:
            if error.reason == NOT_APPLICABLE:
                result.not_applicable += 1
                continue
            result.rejected[error.reason] += 1
            if len(result.rejects) < SHOWN_REJECTS:
                result.rejects.append(Reject(line.file, line.number, error.reason, error.message))
            continue
        for record in records:
            emitter.send(record)
            result.sent[record.kind] += 1
    emitter.flush(DELIVERY_SECONDS)
    result.acked = Counter({kind: counts.acked - before[kind] for kind, counts in emitter.stats.items()})
    result.seconds = time.monotonic() - started
    return result


def _told(lines: Iterable[Line], advance: Callable[[int], None]) -> Iterator[Line]:
    """Yield the lines, and tell how many there were now and then."""
    count = 0
    for count, line in enumerate(lines, 1):  # the last count is needed below
        if count % _STEP == 0:
            advance(_STEP)
        yield line
    advance(count % _STEP)


def _event_records(line: Line, form: Form, shift_ms: int, now_ms: int) -> list[Record]:
    content = _event(line, form)
    model = _model(content)
    if shift_ms and content.get("timestamp") is not None:
        # Checked as it stands in the file, so that a shift neither mends nor breaks a line that it should not.
        own = parse_object(model, content, received_ms=MAX_TIMESTAMP_MS).timestamp
        content = {**content, "timestamp": (own or 0) + shift_ms}
    event = parse_object(model, content, received_ms=now_ms)
    return [search_record(event, now_ms) if isinstance(event, Search) else interaction_record(event, now_ms)]


def _session_records(line: Line, form: Form, shift_ms: int, now_ms: int) -> list[Record]:
    session = sessions.parse_line(line.content)
    searched = session.time_ms(line.place) + shift_ms
    return sessions.records(session, searched, retriever=form.retriever, long_view_ms=form.long_view_ms, now_ms=now_ms)


def _event(line: Line, form: Form) -> dict[str, Any]:
    content = _decode(line.content)
    if form.format == "ubi":
        return ubi.to_event(content, retriever=form.retriever, first_position=form.first_position)
    return metarank.to_event(content, retriever=form.retriever) if form.format == "metarank" else content


def _decode(content: bytes) -> dict[str, Any]:
    event = decode_object(content)
    try:
        str(content, "utf-8")
    except ValueError as error:
        raise DecodeError("bad_json", str(error)) from None
    return event


def _model(content: dict[str, Any]) -> type[Interaction | Search]:
    is_search = "results" in content or not ("feature_id" in content or "interaction_type" in content)
    return Search if is_search else Interaction
