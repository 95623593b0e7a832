"""`clickwell up`, `down`, `status`, `worker`, `sink`: run the local stack, and workers and sinks anywhere."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import clickwell
from clickwell import logs, tracing
from clickwell.cli import output
from clickwell.cli.output import DataOption, JsonOption, MetricsPortOption
from clickwell.errors import DependencyError, StackError, UsageError
from clickwell.settings import Settings

if TYPE_CHECKING:
    from clickwell.devstack.status import Status

# The stack stops in less than 20 s; whoever waits for it waits a little longer.
_DOWN_SECONDS = 25.0
_POLL_SECONDS = 0.1

PortOption = Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the usual port, else a free one.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command, examples in (
        (up, ("clickwell up", "clickwell up --detach --workers 2")),
        (down, ("clickwell down", "clickwell down --data /srv/clickwell")),
        (status, ("clickwell status", "clickwell status --json")),
        (sink, ("clickwell sink", "CLICKWELL_LAKE=s3://bucket/lake clickwell sink")),
        (worker, ("clickwell worker", "CLICKWELL_REDIS__URL=redis://cache:6379/0 clickwell worker --instance-id a")),
    ):
        app.command(epilog=output.examples(*examples))(command)


def up(
    *,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when it is ready; `down` stops it.")] = False,
    only: Annotated[
        str, typer.Option(metavar="PARTS", help="Run these parts only.")
    ] = "kafka,redis,worker,sink,eraser,insights,api",
    workers: Annotated[int, typer.Option(min=1, max=64, help="Number of workers.")] = 1,
    kafka_port: PortOption = None,
    redis_port: PortOption = None,
    api_port: PortOption = None,
    data: DataOption = None,
    json: JsonOption = False,
    detached: Annotated[bool, typer.Option("--detached", hidden=True)] = False,
) -> None:
    """Start Kafka, Valkey, workers, a sink, the HTTP API and what it shows, and keep them running."""
    from clickwell.devstack.stack import PARTS, Stack
    from clickwell.devstack.state import supervisor_pid

    parts = tuple(part.strip() for part in only.split(",") if part.strip())
    if not parts or (set(parts) - set(PARTS)):
        raise UsageError(f"--only {only!r} names no part or an unknown one", fix=f"choose from {','.join(PARTS)}")
    folder = Settings.load(data).data
    if pid := supervisor_pid(folder):
        output.done(f"Already up in {folder} (process {pid})")
        _show_addresses(folder, json=json)
        return
    began = time.monotonic()
    if detach:
        options = {
            "--only": only,
            "--workers": workers,
            "--kafka-port": kafka_port,
            "--redis-port": redis_port,
            "--api-port": api_port,
        }
        _run_detached(folder, [f"{name}={value}" for name, value in options.items() if value is not None])
        _show_ready(folder, began, f"`clickwell down{_data_option(data)}`", json=json)
        return
    output.note(f"clickwell {clickwell.__version__} · data in {folder} (kept)")
    stack = Stack(
        folder,
        parts=parts,
        workers=workers,
        kafka_port=kafka_port,
        redis_port=redis_port,
        api_port=api_port,
        note=output.note,
        done=output.done,
        warn=output.warn,
    )
    with stack:
        try:
            if not detached:
                _show_ready(folder, began, "Ctrl-C", json=json)
            stack.watch(threading.Event())
        except (KeyboardInterrupt, SystemExit):
            output.note("stopping, counts are safe")
            raise


def down(*, data: DataOption = None, json: JsonOption = False) -> None:
    """Stop the local stack and keep its data."""
    from clickwell.devstack.state import StackState, supervisor_pid

    folder = Settings.load(data).data
    pid = supervisor_pid(folder)
    began = time.monotonic()
    if pid is None:
        StackState.remove(folder)
        output.done(f"Nothing is up in {folder}")
    else:
        _end(pid, folder)
        output.done(f"Stopped in {time.monotonic() - began:.1f} s, data kept in {folder}")
    if json:
        output.emit({"stopped": pid is not None, "data": folder})


def status(*, data: DataOption = None, json: JsonOption = False) -> None:
    """Show what runs, where it listens and how far workers lag."""
    from clickwell.devstack.status import look

    seen = look(Settings.load(data))
    if json:
        output.emit(seen)
    else:
        _show_status(seen)
    if seen.state != "up":
        raise typer.Exit(DependencyError.exit_code)


def worker(
    *,
    instance_id: Annotated[
        str, typer.Option(help="Name of this worker. With one that stays the same, a restart moves no partitions.")
    ] = "",
    metrics_port: MetricsPortOption = None,
    data: DataOption = None,
) -> None:
    """Run one worker: it applies events from Kafka to Redis."""
    try:
        from clickwell.stream_processors.worker import run_worker
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed", fix="pip install 'clickwell[stream]'") from None

    overrides = {"worker": {"instance_id": instance_id}} if instance_id else {}
    settings = Settings.load(data, **overrides, **output.metrics_on(metrics_port))
    logs.set_up(settings.log)
    tracing.set_up(settings.tracing, "worker")
    raise typer.Exit(run_worker(settings, output.fail))


def sink(
    *,
    new_topic: Annotated[
        bool, typer.Option("--new-topic", help="Go on after a topic was deleted and created again.")
    ] = False,
    metrics_port: MetricsPortOption = None,
    data: DataOption = None,
) -> None:
    """Run one sink: it writes events from Kafka to the lake, every event once."""
    try:
        from clickwell.sinks.sink import accept_new_topics, run_sink
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed", fix="pip install 'clickwell[sink]'") from None

    settings = Settings.load(data, **output.metrics_on(metrics_port))
    logs.set_up(settings.log)
    tracing.set_up(settings.tracing, "sink")
    if new_topic:
        accept_new_topics(settings)
    raise typer.Exit(run_sink(settings))


def _run_detached(folder: Path, options: list[str]) -> None:
    """Start the supervisor in a session of its own, show what it says, and return when it is ready."""
    from clickwell.devstack.state import StackState

    log = folder / "log" / "up.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        sink = log.open("wb")
    except OSError as error:
        raise StackError(f"{folder} cannot be used: {error.strerror}", fix="choose another `--data` folder") from None
    command = [sys.executable, "-m", "clickwell", "up", "--detached", f"--data={folder}", *options]
    with sink, log.open(encoding="utf-8", errors="replace") as said:
        supervisor = subprocess.Popen(  # noqa: S603  # our own command
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            env={**os.environ, "PYTHONUTF8": "1"},
        )
        try:
            while True:
                ended = supervisor.poll() is not None
                state = StackState.read(folder)
                ready = state is not None and state.ready and state.pid == supervisor.pid
                sys.stderr.write(said.read())
                if ended:
                    raise typer.Exit(supervisor.returncode or StackError.exit_code)
                if ready:
                    return
                time.sleep(_POLL_SECONDS)
        except (KeyboardInterrupt, SystemExit):
            supervisor.terminate()
            supervisor.wait()
            raise


def _end(pid: int, folder: Path) -> None:
    from clickwell.devstack.state import supervisor_pid

    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        raise StackError(f"process {pid} belongs to somebody else", fix="stop it as that user") from None
    deadline = time.monotonic() + _DOWN_SECONDS
    while supervisor_pid(folder) == pid:
        if time.monotonic() > deadline:
            output.warn(f"process {pid} did not stop within {_DOWN_SECONDS:.0f} s and is killed")
            os.kill(pid, signal.SIGKILL)
            deadline += _DOWN_SECONDS
        time.sleep(_POLL_SECONDS)


def _show_ready(folder: Path, began: float, stop: str, *, json: bool) -> None:
    from clickwell.devstack.state import StackState

    state = StackState.read(folder)
    api = next((part.address for part in state.components if part.name == "api"), "") if state else ""
    dashboard = f" Dashboard: {api}/dashboard" if api else ""
    output.note(f"Ready in {time.monotonic() - began:.1f} s.{dashboard}")
    _show_addresses(folder, json=json)
    output.note(f"next: `clickwell simulate --rate 200` · stop: {stop} · logs: {folder / 'log'}")


def _show_addresses(folder: Path, *, json: bool) -> None:
    from clickwell.devstack.state import StackState

    if json:
        state = StackState.read(folder)
        output.emit(state.model_dump(exclude={"ready"}) if state else {})
        output.flush()


def _data_option(data: Path | None) -> str:
    return f" --data {data}" if data else ""


def _show_status(seen: "Status") -> None:
    output.note(f"{seen.state} · data in {seen.data}" + (f" · process {seen.pid}" if seen.pid else ""))
    output.table(
        ["part", "state", "address", "pid", "version", "run by"],
        [
            [
                part.name,
                "up" if part.up else "down",
                part.address or "-",
                part.pid or "-",
                part.version or "-",
                "clickwell" if part.origin == "embedded" else "you",
            ]
            for part in seen.components
        ],
    )
    for report in seen.workers:
        lanes = ", ".join(f"{lane} {lag:,}" for lane, lag in report.lag_by_lane().items()) or "no partitions"
        output.note(f"worker {report.id} (process {report.pid} on {report.host}) lag: {lanes}")
    behind = ", ".join(f"{name} {lag:,}" for name, lag in seen.lag.items() if name.startswith("lake/"))
    if behind:
        output.note(f"sink lag: {behind}")
