"""Logs as JSON lines: one object for each record, whatever is logged."""

import json
import logging
import subprocess
import sys

from clickwell.logs import JsonLines


def line_of(message, *arguments, level=logging.WARNING, **extra):
    """Return what one record becomes."""
    record = logging.getLogger("clickwell.test").makeRecord("clickwell.test", level, "f", 1, message, arguments, None)
    record.__dict__.update(extra)
    text = JsonLines().format(record)
    assert "\n" not in text
    return json.loads(text)


def test_a_record_is_one_object():
    """Time in UTC, level, logger and the message with its arguments."""
    line = line_of("%s rewinds: %s", "interactions.v1-0", "a\nb")
    assert line.pop("at").endswith("+00:00")
    assert line == {"level": "WARNING", "logger": "clickwell.test", "message": "interactions.v1-0 rewinds: a\nb"}


def test_fields_stand_in_place_of_the_message():
    """What has a structure keeps it; it cannot pose as another level or logger."""
    line = line_of("ignored", fields={"route": "/v1/top", "status": 200, "level": "x"})
    assert "message" not in line
    assert (line["route"], line["status"], line["level"]) == ("/v1/top", 200, "WARNING")


def test_an_exception_comes_along():
    """The traceback is one string of the same line."""
    try:
        int("no")
    except ValueError:
        line = line_of("failed", exc_info=sys.exc_info())
    assert line["message"] == "failed"
    assert line["error"].endswith("ValueError: invalid literal for int() with base 10: 'no'")


def test_what_a_command_says_is_json_too(capfd):
    """Notes and errors of a process that logs JSON are records as well."""
    code = (
        "from clickwell import logs; from clickwell.settings import LogSettings; from clickwell.cli import output;"
        "from clickwell.errors import RedisError; logs.set_up(LogSettings(format='json')); output.note('ready');"
        "output.warn('odd'); output.fail(RedisError('away', why='refused', fix='start it'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["level"], line["message"]) for line in lines] == [
        ("INFO", "ready"),
        ("WARNING", "odd"),
        ("ERROR", "away"),
    ]
    assert (lines[2]["why"], lines[2]["fix"], lines[2]["code"]) == ("refused", "start it", "CW-210")


def test_the_setting_decides_about_the_process():
    """JSON and the level are set once for everything that logs."""
    code = (
        "import logging; from clickwell import logs; from clickwell.settings import Settings;"
        "logs.set_up(Settings.load().log); log = logging.getLogger('x'); log.info('left out'); log.warning('said')"
    )
    environment = {"CLICKWELL_LOG__FORMAT": "json", "CLICKWELL_LOG__LEVEL": "WARNING"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == ["said"]
