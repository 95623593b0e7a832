"""Workers that are killed, frozen, replaced and interrupted, each time followed by the recount."""


import pytest

from .harness import Stack, wait_for

pytestmark = [pytest.mark.fault, pytest.mark.broker]


@pytest.mark.parametrize(
    "name", ["before_apply", "between_shards", "after_apply", "before_dead_letter", "after_dead_letter"]
)
def test_killed_at_a_failpoint(stack: Stack, name: str) -> None:
    """A worker that is killed at the 1st, 2nd, 5th and 20th visit of a place leaves exact counts."""
    visits = [f"{name}:{visit}" for visit in (1, 2, 5, 20)]
    with stack.load(seed=1, poison=0.02):
        (worker,) = stack.work(failpoints=visits, static=True)
        wait_for(lambda: len(worker.exits) == len(visits), 90, "four kills")
    assert worker.exits == [-9] * len(visits)
    stack.assert_exact()
