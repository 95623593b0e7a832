"""Workers that are told to stop, whatever else is broken."""

import time

import pytest

from .harness import Stack, ended

pytestmark = [pytest.mark.fault, pytest.mark.broker]

LIMIT = 20.0


@pytest.mark.parametrize("broken", ["nothing", "redis", "kafka"])
def test_sigterm(stack: Stack, broken: str) -> None:
    """A worker under load ends within 20 s of SIGTERM with code 143 even if its servers are frozen or dead."""
    with stack.load(seed=41):
        (worker,) = stack.work()
        stack.wait_applied()
        if broken == "redis":
            stack.valkey.pause()
        if broken == "kafka":
            stack.kafka.kill()
        time.sleep(1)
        worker.wanted = False
        began = time.monotonic()
        worker.terminate()
        code = ended(worker, LIMIT + 5)
        seconds = time.monotonic() - began
        if broken == "redis":
            stack.valkey.resume()
        if broken == "kafka":
            stack.kafka.start()
    assert (code, seconds <= LIMIT) == (143, True), f"exit {code} after {seconds:.1f} s"
    assert "Traceback" not in worker.output()
    stack.work()
    stack.assert_exact(timeout=90)
