"""The container files against the code: variables, commands, ports, images and folders that they name exist and fit."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
import yaml
from packaging.requirements import Requirement

from clickwell.cli import app
from clickwell.devstack.stack import PARTS as PARTS_OF_A_STACK
from clickwell.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def filled(text: str) -> str:
    """Put the defaults of variables in their places, as `docker compose` does without an environment."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


COMPOSE = yaml.safe_load(filled((ROOT / "docker-compose.yml").read_text()))
SERVICES = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
# Those of our image that run a command of ours.
PARTS = {name: service for name, service in OURS.items() if "entrypoint" not in service}
# Those of them that run until they are stopped.
LASTING = {name: service for name, service in PARTS.items() if "disable" not in service["healthcheck"]}
SERVERS = {name: service for name, service in SERVICES.items() if "build" not in service}
COMMANDS = typer.main.get_command(app).commands


def settings_of(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Settings:
    """Return the settings of a service, command line included."""
    for variable, value in PARTS[name]["environment"].items():
        monkeypatch.setenv(variable, value)
    return Settings.load(folder)


def variables(prefix: str, schema: dict, definitions: dict) -> set[str]:
    """Return the environment variables that settings are read from."""
    names = set()
    for name, field in schema["properties"].items():
        here = f"{prefix}{name.upper()}"
        group = field.get("$ref") or (field.get("allOf") or [{}])[0].get("$ref")
        names |= variables(f"{here}__", definitions[group.rpartition("/")[2]], definitions) if group else {here}
    return names


def test_every_variable_is_a_setting():
    """A misspelt variable would be ignored silently, here and in the file for S3."""
    schema = Settings.model_json_schema()
    known = variables("CLICKWELL_", schema, schema["$defs"])
    named = {name for service in SERVICES.values() for name in service.get("environment", {})}
    named |= set(re.findall(r"(?m)^(\w+)=", (ROOT / "deploy/s3.env").read_text()))
    ours = {name for name in named if name.startswith("CLICKWELL_")}
    assert {"CLICKWELL_KAFKA__BOOTSTRAP_SERVERS", "CLICKWELL_REDIS__URL", "CLICKWELL_LAKE"} <= ours <= known
    # Kafka's and Grafana's are theirs; what else there is, is for the lake's storage.
    others = {name for name in named - ours if not name.startswith(("KAFKA_", "GF_", "ROOT_"))}
    assert all(name.startswith("AWS_") for name in others)


@pytest.mark.parametrize("name", PARTS)
def test_every_service_has_good_settings(name, monkeypatch, tmp_path):
    """What a service is told can be read, names services that are there, and speaks of folders that it has."""
    settings = settings_of(name, monkeypatch, tmp_path)
    assert settings.kafka.bootstrap_servers.split(":")[0] in SERVICES
    assert re.match(r"redis://(\w+):", settings.redis.url)[1] in SERVICES
    mounted = {volume.split(":")[1] for volume in PARTS[name]["volumes"]}
    assert settings.lake in mounted
    assert {"/home/clickwell/.clickwell", settings.lake} <= mounted
    # A reader within another container has to reach it.
    assert settings.metrics.host == "0.0.0.0"
    assert settings.log.format == "json"


@pytest.mark.parametrize("name", PARTS)
def test_every_command_exists_with_its_options(name):
    """Our image is started with commands and options that the command line has."""
    command, *options = PARTS[name]["command"]
    assert COMMANDS[command].make_context(command, list(options)).args == []


def test_all_parts_run():
    """Each long-running command of a stack is a service."""
    assert {service["command"][0] for service in LASTING.values()} == {*PARTS_OF_A_STACK} - {"kafka", "redis"}
    assert SERVICES["worker"]["deploy"]["replicas"] >= 2
    assert "ports" not in SERVICES["worker"]  # several of them could not have one port


@pytest.mark.parametrize("name", LASTING)
def test_prometheus_finds_every_process(name, monkeypatch, tmp_path):
    """The scrape configuration names each service with the port on which it serves its metrics."""
    settings = settings_of(name, monkeypatch, tmp_path)
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    found = {job["dns_sd_configs"][0]["names"][0]: job["dns_sd_configs"][0]["port"] for job in scraped}
    options = LASTING[name]["command"]
    port = int(options[options.index("--port") + 1]) if "--port" in options else settings.metrics.port
    assert found[name] == port
    # The health check asks the same process.
    assert f"http://127.0.0.1:{port}/" in LASTING[name]["healthcheck"]["test"][-1]
    assert {job["job_name"] for job in scraped} == {f"clickwell-{service}" for service in LASTING}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_is_pinned_healthy_and_local(name):
    """Each server has a version, a health check, a user that is not root, and volumes that are declared."""
    service = SERVERS[name]
    assert re.fullmatch(r"[\w/-]+:v?\d+\.\d+\.\d+", service["image"])
    assert service["healthcheck"]["test"][0] == "CMD"
    assert int(service["user"].split(":")[0]) > 0
    for volume in service["volumes"]:
        source = volume.split(":")[0]
        assert (ROOT / source).is_dir() if source.startswith(".") else source in COMPOSE["volumes"]


def test_nothing_listens_beyond_this_machine():
    """Ports are bound to the loopback address, and every one of them once."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert len({port.split(":")[1] for port in ports}) == len(ports)


def test_volumes_are_all_used():
    """Each volume that is declared belongs to a service, and the other way round."""
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service["volumes"]}
    assert {name for name in used if not name.startswith(".")} == set(COMPOSE["volumes"])


def test_processes_have_no_more_rights_than_they_need():
    """No capabilities, no way to get some, logs that do not fill the disk; ours end before they are killed."""
    for service in SERVICES.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["logging"]["options"]["max-size"]
    grace = {service["stop_grace_period"] for service in OURS.values()}
    assert {int(each.removesuffix("s")) > Settings.load().worker.stop_seconds for each in grace} == {True}


def test_services_wait_for_what_they_need():
    """A server that others depend on is waited for until it is healthy, a one-off until it succeeded."""
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            once = "disable" in SERVICES[needed]["healthcheck"]
            assert how["condition"] == ("service_completed_successfully" if once else "service_healthy")
            # What is behind a profile is not there for those who have not asked for it.
            theirs, ours = (set(SERVICES[each].get("profiles", ())) for each in (needed, name))
            assert how.get("required", True) == (theirs <= ours)


def test_valkey_keeps_its_counts():
    """The append-only file is on and nothing is evicted: the worker refuses anything else."""
    command = SERVICES["valkey"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "everysec"
    assert options["--maxmemory-policy"] == "noeviction"


def test_the_bucket_is_where_the_lake_is():
    """The folder that becomes the bucket has the name that the lake's address has, and belongs to the server's user."""
    address = re.search(r"(?m)^CLICKWELL_LAKE=s3://(\w+)$", (ROOT / "deploy/s3.env").read_text())[1]
    bucket, server = SERVICES["bucket"], SERVICES["s3"]
    volume, folder = bucket["volumes"][0].split(":")
    assert bucket["command"] == [f"{folder}/{address}"]
    assert server["volumes"] == [f"{volume}:{server['command'][-1]}"]
    assert server["user"].split(":")[0] == re.search(r"(?m)^USER (\d+)$", DOCKERFILE)[1]
    assert f" {folder}" in DOCKERFILE
    environment = SERVICES["sink"]["environment"]
    assert environment["AWS_ENDPOINT_URL"] == f"http://s3{server['command'][1]}"
    assert environment["AWS_ACCESS_KEY_ID"] == server["environment"]["ROOT_ACCESS_KEY"]
    assert environment["AWS_SECRET_ACCESS_KEY"] == server["environment"]["ROOT_SECRET_KEY"]


def test_the_image_runs_without_root_from_tested_versions():
    """The last stage names a user by number, and every pin of requirements.txt becomes a constraint."""
    stage = DOCKERFILE.rpartition("FROM ")[2]
    assert re.search(r"(?m)^USER [1-9]\d+$", stage)
    assert len(set(re.findall(r"(?m)^FROM (\S+)", DOCKERFILE))) == 1
    assert re.match(r"python:\d+\.\d+\.\d+-", stage)
    extras = set(re.search(r"'\.\[([\w,]+)\]'", DOCKERFILE)[1].split(","))
    assert extras == {"stream", "api", "privacy", "otel"}
    # With their markers: of some packages there are two pins, for older and newer Pythons.
    script = re.search(r"sed -nE '(.*?)' requirements.txt", DOCKERFILE)[1]
    sed = ["sed", "-nE", script, ROOT / "requirements.txt"]
    pins = list(map(Requirement, subprocess.run(sed, capture_output=True, text=True, check=True).stdout.splitlines()))
    assert len(pins) == sum("==" in line for line in (ROOT / "requirements.txt").read_text().splitlines())
    python = re.match(r"python:(\d+\.\d+)\.\d+-", stage)[1]
    image = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    for_image = [pin.name for pin in pins if pin.marker is None or pin.marker.evaluate(image)]
    assert len(set(for_image)) == len(for_image)
    assert json.loads(re.search(r"(?m)^ENTRYPOINT (.*)$", stage)[1]) == ["clickwell"]
    assert json.loads(re.search(r"(?m)^CMD (.*)$", stage)[1])[0] in COMMANDS
    # Every folder on which a volume is mounted belongs to that user.
    made = shlex.split(re.search(r"install -d -o clickwell (.*)", stage)[1])
    assert {volume.split(":")[1] for service in OURS.values() for volume in service["volumes"]} == set(made)


@pytest.mark.parametrize("profiles", [[], ["observe"], ["s3"], ["observe", "s3"]], ids="+".join)
def test_docker_itself_reads_the_file(profiles):
    """`docker compose config` finds nothing to complain about, with any profiles."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed; the tests above read the same file")
    chosen = [word for name in profiles for word in ("--profile", name)]
    done = subprocess.run(
        [docker, "compose", *chosen, "config", "--quiet"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
