"""The lock and the file that a stack leaves in its data folder, and what is made of workers' reports."""

import json
import stat
import subprocess
import sys

from clickwell.devstack.process import free_port, reserve
from clickwell.devstack.state import Component, StackLock, StackState, supervisor_pid
from clickwell.devstack.status import without_password
from clickwell.serving.workers import WorkerReport
from clickwell.settings import Settings

HOLD = """
import sys
from pathlib import Path
from clickwell.devstack.state import StackLock
lock = StackLock(Path(sys.argv[1]))
print(lock.acquire(), flush=True)
sys.stdin.read()
"""


def hold(folder):
    """Let another process try to take the lock of a folder and then wait; return it and what it said."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline().strip()


def test_one_stack_a_folder(tmp_path):
    """The second process does not get the lock, and everybody can tell who has it."""
    first, said = hold(tmp_path / "new")
    assert said == "True"
    assert not StackLock(tmp_path / "new").acquire()
    assert supervisor_pid(tmp_path / "new") == first.pid
    first.communicate()
    assert supervisor_pid(tmp_path / "new") is None


def test_a_kill_frees_the_lock(tmp_path):
    """No stale lock is left that somebody would have to remove by hand."""
    first, _ = hold(tmp_path)
    first.kill()
    first.communicate()
    lock = StackLock(tmp_path)
    assert lock.acquire()
    assert lock.held
    lock.release()
    assert not lock.held


def test_nothing_runs_in_a_folder_that_is_not_there(tmp_path):
    """Asking makes no folder."""
    assert supervisor_pid(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


def test_settings_read_what_the_stack_writes(tmp_path, monkeypatch):
    """The addresses of stack.json are settings, below the environment."""
    state = StackState(
        kafka={"bootstrap_servers": "127.0.0.1:1234"},
        redis={"url": "redis://127.0.0.1:4321/0"},
        pid=1,
        started_ms=2,
        clickwell="0",
        components=[Component(name="kafka", address="127.0.0.1:1234")],
    )
    state.write(tmp_path)
    assert StackState.read(tmp_path) == state
    monkeypatch.setenv("CLICKWELL_REDIS__URL", "redis://other:1/0")
    settings = Settings.load(tmp_path)
    assert settings.kafka.bootstrap_servers == "127.0.0.1:1234"
    assert settings.redis.url == "redis://other:1/0"


def test_only_the_owner_reads_the_file(tmp_path):
    """A Redis address may hold a password."""
    StackState(pid=1, started_ms=2, clickwell="0").write(tmp_path)
    assert stat.S_IMODE((tmp_path / "stack.json").stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [tmp_path / "stack.json"]


def test_a_missing_or_foreign_file_is_no_state(tmp_path):
    """What another version wrote is not misread."""
    assert StackState.read(tmp_path) is None
    (tmp_path / "stack.json").write_text(json.dumps({"kafka": 1}))
    assert StackState.read(tmp_path) is None
    StackState.remove(tmp_path)
    StackState.remove(tmp_path)
    assert StackState.read(tmp_path) is None


def test_lag_is_summed_by_lane():
    """Partitions of one lane are one number."""
    report = WorkerReport(id="a", lag={"popularity/x/0": 3, "popularity/x/1": 4, "trending/x/0": 5})
    assert report.lag_by_lane() == {"popularity": 7, "trending": 5}


def test_passwords_are_not_shown():
    """Addresses are shown without user and password."""
    assert without_password("rediss://user:se@cret@host:1/0") == "rediss://host:1/0"
    assert without_password("redis://host:1/0") == "redis://host:1/0"


def test_a_port_is_promised_to_one_process_only():
    """A stack that is starting keeps its port from another one, although nothing listens there yet."""
    port = free_port()
    assert reserve(port)
    assert reserve(port)
    code = f"from clickwell.devstack.process import reserve; print(reserve({port}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout == "False\n"
