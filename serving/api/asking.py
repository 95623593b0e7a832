"""What routes that ask the lake share: texts that it can hold, and how many ask it at once."""

import asyncio
from collections.abc import Callable
from typing import Annotated, ParamSpec, TypeVar

from fastapi import Query
from pydantic import AfterValidator

from clickwell.schemas.interactions import MAX_FEATURE_ID, MAX_ID

P = ParamSpec("P")
T = TypeVar("T")


def no_nul(text: str) -> str:
    """Return a text that the lake may hold.

    Raises:
        ValueError: it cannot.
    """
    if "\0" in text:
        raise ValueError("holds the NUL character")
    return text


Text = Annotated[str, Query(min_length=1, max_length=MAX_ID), AfterValidator(no_nul)]
FeatureId = Annotated[str, Query(min_length=1, max_length=MAX_FEATURE_ID), AfterValidator(no_nul)]


class Turns:
    """Lets so many questions run at once, each in a thread; they use all cores, so more would only wait for each other.

    Args:
        most: how many.
    """

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)

    async def take(self, ask: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Wait for a turn, call, and return the answer."""
        async with self._free:
            return await asyncio.to_thread(ask, *args, **options)
