"""The whole stack through its commands: up, a second up, status, restarts, down, and every way to end."""

import json
import os
import signal
import subprocess
import time

import pytest
import redis

from clickwell.devstack.process import free_port, is_free
from clickwell.devstack.stack import Stack
from clickwell.devstack.state import StackState, supervisor_pid
from clickwell.devstack.status import look
from clickwell.devstack.valkey import ValkeyServer
from clickwell.errors import StackError
from clickwell.settings import Settings
from tests.processes import CLICKWELL, is_gone, wait_for

pytestmark = pytest.mark.broker


@pytest.fixture
def supervisor(tmp_path):
    """A function that runs `clickwell up` in the foreground and returns the process once it is ready."""
    running = []

    def start(*options):
        # A port of its own: the usual one may be taken by somebody else while a server is down.
        ports = [f"--redis-port={free_port()}", f"--kafka-port={free_port()}"]
        command = [*CLICKWELL, "up", "--data", str(tmp_path), "--json", *ports, *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        running.append(process)
        return process, json.loads(process.stdout.readline() or "null")

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_the_stack_from_up_to_down(clickwell, tmp_path):
    """Up with real servers and a worker, found by every command, kept data, down without a trace."""
    up = clickwell("up", "--detach", "--data", tmp_path, "--json")
    assert up.returncode == 0, up.stderr
    told = json.loads(up.stdout)
    pids = [part["pid"] for part in told["components"]] + [told["pid"]]
    try:
        parts = ["kafka", "redis", "sink", "eraser", "insights", "api", "worker-1"]
        assert [part["name"] for part in told["components"]] == parts
        assert "✓ Kafka 4.3.0" in up.stderr
        assert "Ready in" in up.stderr
        settings = Settings.load(tmp_path)
        assert settings.kafka.bootstrap_servers == told["kafka"]["bootstrap_servers"]
        assert settings.redis.url == told["redis"]["url"]

        again = clickwell("up", "--data", tmp_path, "--json")
        assert again.returncode == 0
        assert "Already up" in again.stderr
        assert json.loads(again.stdout)["redis"] == told["redis"]

        status = clickwell("status", "--data", tmp_path, "--json")
        assert status.returncode == 0
        seen = json.loads(status.stdout)
        assert seen["state"] == "up"
        assert [part["up"] for part in seen["components"]] == [True] * len(told["components"])
        assert [worker["pid"] for worker in seen["workers"]] == [told["components"][-1]["pid"]]
        assert seen["lag"]["popularity"] == 0
        assert seen["lag"].keys() <= {*settings.worker.lanes, "lake/interactions", "lake/searches"}
        assert "kafka\tup" in clickwell("status", "--data", tmp_path).stdout

        worker = told["components"][-1]["pid"]
        os.kill(worker, signal.SIGKILL)
        restarted = wait_for(lambda: _pid_of("worker-1", tmp_path, other_than=worker), 30, "another worker")
        pids.append(restarted)
        wait_for(lambda: any(report.pid == restarted for report in look(settings).workers), 30, "its report")
    finally:
        began = time.monotonic()
        down = clickwell("down", "--data", tmp_path)
        assert down.returncode == 0
        assert time.monotonic() - began < 20
    wait_for(lambda: all(is_gone(pid) for pid in pids), 30, "the end of every process")
    assert not (tmp_path / "stack.json").exists()
    assert clickwell("down", "--data", tmp_path, "--json").stdout == f'{{"stopped":false,"data":"{tmp_path}"}}\n'
    assert clickwell("status", "--data", tmp_path, CLICKWELL_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1").returncode == 4


def _pid_of(name, data, *, other_than):
    state = StackState.read(data)
    pid = next((part.pid for part in state.components if part.name == name), None) if state else None
    return pid if pid != other_than else None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_the_foreground_stack(supervisor, tmp_path, number, code):
    """Ctrl-C and SIGTERM stop everything in order, say so at once, and leave the data."""
    process, told = supervisor("--only", "redis")
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == code
    assert "stopping, counts are safe" in said
    assert is_gone(told["components"][0]["pid"])
    assert not (tmp_path / "stack.json").exists()
    assert (tmp_path / "valkey" / "appendonlydir").is_dir()


def test_a_killed_supervisor_leaves_no_child_and_no_obstacle(supervisor, clickwell, tmp_path):
    """kill -9 of the supervisor ends its children; the file it left does not mislead the next commands."""
    process, told = supervisor("--only", "redis")
    process.kill()
    process.communicate()
    wait_for(lambda: is_gone(told["components"][0]["pid"]), 30, "the end of its child")
    assert supervisor_pid(tmp_path) is None
    status = clickwell("status", "--data", tmp_path, "--json")
    assert status.returncode == 4
    assert json.loads(status.stdout)["state"] == "down"
    _, again = supervisor("--only", "redis")
    assert again["components"][0]["pid"] != told["components"][0]["pid"]


def test_a_crashed_server_starts_again_on_its_port(supervisor, tmp_path):
    """The supervisor brings back a server that died; its data and its address are the same."""
    _, told = supervisor("--only", "redis")
    first = told["components"][0]["pid"]
    with redis.Redis.from_url(told["redis"]["url"]) as client:
        client.set("kept", "1")
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: _pid_of("redis", tmp_path, other_than=first), 30, "another Valkey")
        wait_for(lambda: look(Settings.load(tmp_path)).state == "up", 30, "the stack to be up")
        assert client.get("kept") == b"1"


def test_servers_of_the_users_own_are_used_and_left_alone(supervisor, fresh_redis, monkeypatch):
    """An address in the environment is used as it is, shown as yours, and still runs after the stack has ended."""
    monkeypatch.setenv("CLICKWELL_REDIS__URL", fresh_redis.url)
    process, told = supervisor("--only", "redis")
    assert told["redis"] == {"url": fresh_redis.url}
    assert told["components"][0] | {"version": ""} == {
        "name": "redis",
        "origin": "yours",
        "address": fresh_redis.url,
        "pid": None,
        "version": "",
        "metrics": "",
    }
    process.terminate()
    process.communicate(timeout=20)
    assert fresh_redis.answers()


@pytest.mark.parametrize(
    ("name", "value", "only"),
    [
        ("CLICKWELL_REDIS__URL", "redis://:secret@127.0.0.1:1/0", "redis"),
        ("CLICKWELL_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1", "kafka"),
    ],
)
def test_servers_of_the_users_own_must_answer(clickwell, tmp_path, name, value, only):
    """A wrong address is one clear line with exit code 4, and no password in it."""
    run = clickwell("up", "--data", tmp_path, "--only", only, **{name: value})
    assert run.returncode == 4
    assert "127.0.0.1:1" in run.stderr
    assert name in run.stderr
    assert "secret" not in run.stderr
    assert "Traceback" not in run.stderr


def test_a_given_port_that_is_taken_is_an_error(clickwell, tmp_path, fresh_redis):
    """In the foreground and detached alike: the port is named, the exit code is 4, nothing keeps running."""
    for mode in ([], ["--detach"]):
        options = ["--only", "redis", "--redis-port", fresh_redis.port]
        run = clickwell("up", "--data", tmp_path / "new", *options, *mode)
        assert run.returncode == 4
        assert f"port {fresh_redis.port} is taken" in run.stderr
        assert supervisor_pid(tmp_path / "new") is None
        assert not (tmp_path / "new" / "stack.json").exists()


def test_the_usual_port_gives_way_to_a_free_one(tmp_path):
    """Without a given port the stack starts beside whatever is there, and says where."""
    usual = ValkeyServer(tmp_path / "usual", 6379) if is_free(6379) else None
    if usual:
        usual.start()
    warnings = []
    try:
        with Stack(tmp_path / "stack", parts=("redis",), warn=warnings.append) as stack:
            assert stack.settings.redis.url != "redis://127.0.0.1:6379/0"
            assert any("port 6379 is taken" in warning for warning in warnings)
    finally:
        if usual:
            usual.stop()


def test_a_folder_has_one_stack(tmp_path):
    """The second stack of a folder is refused with the way out."""
    with Stack(tmp_path, parts=("redis",), redis_port=free_port()):
        with pytest.raises(StackError, match="already runs") as caught:
            Stack(tmp_path, parts=("redis",)).start()
        assert "clickwell down" in caught.value.fix
        assert StackState.read(tmp_path)


def test_a_worker_that_cannot_start_ends_the_start(tmp_path, monkeypatch, kafka, fresh_redis):
    """The reason that stands in the worker's log is shown, and the folder is free again."""
    with redis.Redis.from_url(fresh_redis.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    monkeypatch.setenv("CLICKWELL_KAFKA__BOOTSTRAP_SERVERS", kafka)
    monkeypatch.setenv("CLICKWELL_REDIS__URL", fresh_redis.url)
    with pytest.raises(StackError, match="worker-1 ended while it started") as caught:
        Stack(tmp_path).start()
    assert "evicts keys" in caught.value.why
    assert "worker-1.log" in caught.value.fix
    assert supervisor_pid(tmp_path) is None


@pytest.mark.parametrize("arguments", [["--only", "kafka,lake"], ["--only", ""], ["--workers", "0"]])
def test_wrong_options_are_usage_errors(clickwell, tmp_path, arguments):
    """What cannot work is refused before anything starts."""
    run = clickwell("up", "--data", tmp_path, *arguments)
    assert run.returncode == 2
    assert list(tmp_path.iterdir()) == []
