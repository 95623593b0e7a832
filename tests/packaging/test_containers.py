"""The container files against the code: variables, commands, images and folders that they name exist."""

import json
import re
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from clickwell.cli import app
from clickwell.settings import Settings

ROOT = Path(__file__).parents[2]


def yaml(text: str) -> dict:
    """Read the little YAML that the compose file uses: nested mappings, scalars, and lists on one line as JSON."""
    stack: list[tuple[int, dict]] = [(-1, {})]
    for line in re.findall(r"(?m)^(?!\s*#).*\S.*$", text):
        indent, name, value = re.fullmatch(r"( *)([\w-]+):(?: (.*))?", line).groups()
        while len(indent) <= stack[-1][0]:
            stack.pop()
        parent = stack[-1][1]
        parent[name] = {} if value is None else json.loads(value) if value[0] in '[{"' else value
        if value is None:
            stack.append((len(indent), parent[name]))
    return stack[0][1]


COMPOSE = yaml((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def variables(group: type[BaseModel], prefix: str = "CLICKWELL_") -> set[str]:
    """Return the environment variables that settings are read from."""
    names = set()
    for name, field in group.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        here = f"{prefix}{name.upper()}"
        names |= variables(field.annotation, f"{here}__") if nested else {here}
    return names


def test_every_variable_is_a_setting():
    """A misspelt variable would be ignored silently."""
    named = {name for service in SERVICES.values() for name in service.get("environment", {})}
    ours = {name for name in named if name.startswith("CLICKWELL_")}
    assert {"CLICKWELL_KAFKA__BOOTSTRAP_SERVERS", "CLICKWELL_REDIS__URL"} <= ours <= variables(Settings)


def test_every_command_exists():
    """Our image is started with commands that the command line has."""
    commands = set(typer.main.get_command(app).commands)
    ours = [service["command"] for service in SERVICES.values() if "build" in service]
    assert len(ours) == 5
    assert {command[0] for command in ours} <= commands
    assert json.loads(re.search(r"(?m)^CMD (.*)$", DOCKERFILE)[1])[0] in commands
    assert json.loads(re.search(r"(?m)^ENTRYPOINT (.*)$", DOCKERFILE)[1]) == ["clickwell"]


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if "build" not in service])
def test_a_server_is_pinned_healthy_and_local(name):
    """Each server has a version, a health check, a volume that is declared, and ports on this machine alone."""
    service = SERVICES[name]
    assert re.fullmatch(r"[\w/-]+:\d+\.\d+\.\d+", service["image"])
    assert service["healthcheck"]["test"][0] == "CMD"
    assert {volume.split(":")[0] for volume in service["volumes"]} <= set(COMPOSE["volumes"])
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_services_wait_for_what_they_need():
    """A server that others depend on is waited for until it is healthy, a one-off until it succeeded."""
    for service in SERVICES.values():
        for needed, how in service.get("depends_on", {}).items():
            ready = "service_healthy" if "healthcheck" in SERVICES[needed] else "service_completed_successfully"
            assert how["condition"] == ready


def test_valkey_keeps_its_counts():
    """The append-only file is on and nothing is evicted: the worker refuses anything else."""
    command = SERVICES["valkey"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "everysec"
    assert options["--maxmemory-policy"] == "noeviction"


def test_the_image_runs_without_root_from_tested_versions():
    """The last stage names a user by number, and every pin of requirements.txt becomes a constraint."""
    assert re.search(r"(?m)^USER [1-9]\d+$", DOCKERFILE.rpartition("FROM ")[2])
    assert "'.[stream,analytics]'" in DOCKERFILE
    pattern = re.search(r"s/\^\((.*?)\)\.\*/", DOCKERFILE)[1]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert len([line for line in lines if re.match(pattern, line)]) == len([line for line in lines if "==" in line])
