"""`/v1/dead-letters`: what is no event, looked at, mended and put back by admins."""

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from starlette.responses import Response

from clickwell.kafka import KafkaLog
from clickwell.serving.api.access import requires
from clickwell.serving.api.keys import Scope
from clickwell.serving.api.problems import Problem
from clickwell.serving.api.services import services_of
from clickwell.serving.letters.book import Filter, Letter, State
from clickwell.serving.letters.check import Done
from clickwell.serving.letters.mend import changed, encoded
from clickwell.serving.letters.read import read_book
from clickwell.serving.letters.replay import Replayer
from clickwell.serving.letters.view import Choice, LetterDetail, LetterView, detail_of, value_of, view_of
from clickwell.settings import Settings

MAX_SHOWN = 1000
MAX_NAMED = 1000

router = APIRouter(prefix="/v1/dead-letters", tags=["dead letters"], dependencies=[requires(Scope.ADMIN)])

Name = Annotated[str, Field(min_length=1, max_length=300)]


class LetterPage(BaseModel):
    """Letters in the order in which their records came, the latest ones of all that meet the conditions."""

    total: int
    reasons: dict[str, int]
    letters: list[LetterView]


class Fix(BaseModel):
    """How letters are mended: by a whole event, or by setting fields of what there is."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    event: dict[str, JsonValue] | None = None
    """The event that is to be put back instead."""
    set: dict[Name, JsonValue] | None = None
    """Field, or `metadata.` and a field, to value; null removes it."""


class Chosen(BaseModel):
    """Which letters: by name, by condition, or all."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    ids: list[Name] = Field(default_factory=list, max_length=MAX_NAMED)
    """Names, as the list has them."""
    reasons: list[Name] = Field(default_factory=list, max_length=100)
    """Only those with one of these reasons."""
    topics: list[Name] = Field(default_factory=list, max_length=100)
    """Only those from these topics."""
    all: bool = False
    """All letters, when there is neither name nor condition."""


class Outcomes(BaseModel):
    """What became of the letters."""

    fixed: int
    replayed: int
    already: int
    invalid: int
    letters: list[Done]


Topic = Annotated[str, Path(min_length=1, max_length=249)]
Number = Annotated[int, Path(ge=0, lt=2**63)]


@router.get("")
async def list_letters(
    request: Request,
    reason: Annotated[list[Name] | None, Query()] = None,
    topic: Annotated[list[Name] | None, Query()] = None,
    state: Annotated[list[State] | None, Query()] = None,
    since: Annotated[datetime | None, Query(alias="from")] = None,
    until: Annotated[datetime | None, Query(alias="to")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_SHOWN)] = 100,
) -> LetterPage:
    """Return the latest dead letters that meet the conditions."""
    wanted = Filter(
        reasons=tuple(reason or ()),
        topics=tuple(topic or ()),
        since_ms=_epoch_ms(since),
        until_ms=_epoch_ms(until),
        states=tuple(state or ()),
    )
    book = await asyncio.to_thread(read_book, services_of(request).settings)
    found = list(book.select(wanted))
    return LetterPage(
        total=len(found),
        reasons=Counter(letter.reason for letter in found),
        letters=[view_of(letter) for letter in found[-limit:]],
    )


@router.get("/{topic}/{partition}/{offset}")
async def get_letter(request: Request, topic: Topic, partition: Number, offset: Number) -> LetterDetail:
    """Return one letter with its value."""
    letter = await _find(request, topic, partition, offset)
    return await asyncio.to_thread(detail_of, _log(request), letter)


@router.get(
    "/{topic}/{partition}/{offset}/raw",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
async def get_raw(request: Request, topic: Topic, partition: Number, offset: Number) -> Response:
    """Return the value of the bad record, byte for byte."""
    letter = await _find(request, topic, partition, offset)
    value = await asyncio.to_thread(value_of, _log(request), letter)
    return Response(value or b"", media_type="application/octet-stream")


@router.post("/{topic}/{partition}/{offset}/fix")
async def fix_letter(request: Request, topic: Topic, partition: Number, offset: Number, fix: Fix) -> Outcomes:
    """Note what is to be put back for a letter, if it is a valid event; the original stays as it is."""
    if (fix.event is None) == (fix.set is None):
        raise Problem(400, "bad_request", "a letter is mended either by `event` or by `set`")
    letter = await _find(request, topic, partition, offset)

    def mend(value: bytes | None) -> bytes:
        return encoded(fix.event) if fix.event is not None else changed(value, fix.set or {})

    def work(settings: Settings) -> list[Done]:
        with Replayer(settings) as replayer:
            return list(replayer.fix(Choice([letter.id]).of(replayer.book), mend))

    return await _do(request, work)


@router.post("/replay")
async def replay_letters(request: Request, which: Chosen) -> Outcomes:
    """Put letters back into their topics; each counts once, however often it is asked for."""
    choice = Choice(which.ids, Filter(reasons=tuple(which.reasons), topics=tuple(which.topics)), every=which.all)

    def work(settings: Settings) -> list[Done]:
        with Replayer(settings) as replayer:
            return list(replayer.replay(choice.of(replayer.book)))

    return await _do(request, work)


# A second replay would only fence the first.
_turn = asyncio.Lock()


async def _do(request: Request, work: Any) -> Outcomes:
    async with _turn:
        done: list[Done] = await asyncio.to_thread(work, services_of(request).settings)
    counts = Counter(one.outcome for one in done)
    return Outcomes(
        fixed=counts["fixed"],
        replayed=counts["replayed"],
        already=counts["already"],
        invalid=counts["invalid"],
        letters=done,
    )


async def _find(request: Request, topic: str, partition: int, offset: int) -> Letter:
    book = await asyncio.to_thread(read_book, services_of(request).settings)
    letter = book.find(f"{topic}/{partition}/{offset}")
    if letter is None:
        raise Problem(404, "not_found", "there is no such dead letter")
    return letter


def _log(request: Request) -> KafkaLog:
    return KafkaLog(services_of(request).settings.kafka)


def _epoch_ms(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
