"""Alerts and corrected popularity come round on their timers, whatever fails meanwhile."""

import pytest

from clickwell.analytics.timers import RETRY_SECONDS, Job, jobs, turn
from clickwell.errors import LakeError, NoTableError
from clickwell.settings import CorrectedSettings, Settings


def done(log, name, outcome=""):
    """Work that notes its name, and fails if it is given an error."""

    def work():
        log.append(name)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return work


def test_each_job_has_its_own_pause():
    """At the start all are due; later those whose time has come."""
    log = []
    todo = [Job("a", 900, done(log, "a")), Job("b", 3600, done(log, "b"))]
    assert turn(todo, 10.0) == 910.0
    assert turn(todo, 909.0) == 910.0
    assert turn(todo, 910.0) == 1810.0
    assert log == ["a", "b", "a"]


@pytest.mark.parametrize("error", [LakeError("away"), NoTableError("no searches yet"), KeyError("a defect")])
def test_what_failed_is_tried_again_soon(error):
    """A lake that is away or empty costs the others nothing, and neither does what nobody foresaw."""
    log = []
    todo = [Job("a", 900, done(log, "a", error)), Job("b", 30, done(log, "b", error)), Job("c", 900, done(log, "c"))]
    turn(todo, 0.0)
    assert log == ["a", "b", "c"]
    assert [job.due for job in todo] == [RETRY_SECONDS, 30.0, 900.0]


def test_corrected_popularity_can_be_left_to_the_command(tmp_path):
    """A pause of 0 means that nobody publishes it by itself."""
    settings = Settings.load(tmp_path, corrected=CorrectedSettings(every_seconds=0))
    assert [job.name for job in jobs(settings)] == ["alerts"]
