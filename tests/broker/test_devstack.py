"""The embedded servers: start, stop, crash, freeze, taken ports, and nothing left behind."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from clickwell.devstack import child, jars
from clickwell.devstack.broker import KafkaServer
from clickwell.devstack.process import free_port, is_free
from clickwell.devstack.valkey import ValkeyServer
from clickwell.errors import StackError
from tests.processes import is_gone, wait_for

pytestmark = pytest.mark.broker


def client_of(server):
    """Return a client of a Valkey."""
    return redis.Redis(port=server.port, socket_timeout=1, retry=None)


def send(address, value):
    """Send one record to the topic `t` and wait for its acknowledgement."""
    producer = Producer({"bootstrap.servers": address, "acks": "all", "message.max.bytes": 5 << 20, "log_level": 0})
    failures = []
    producer.produce("t", value, on_delivery=lambda error, _: failures.append(error))
    assert producer.flush(20) == 0
    assert failures == [None]


def read_all(address, count):
    """Return the values and timestamp types of the topic `t` from its beginning."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "reader", "log_level": 0})
    with closing(consumer):
        consumer.assign([TopicPartition("t", 0, 0)])
        records = consumer.consume(count, timeout=20)
        return [record.value() for record in records], {record.timestamp()[0] for record in records}


def test_kafka_keeps_records_over_a_stop_and_a_crash(tmp_path):
    """A clean stop and a kill -9 both start again on the same port with every acknowledged record."""
    with KafkaServer(tmp_path) as server:
        admin = AdminClient({"bootstrap.servers": server.address, "log_level": 0})
        admin.create_topics([NewTopic("t", 1, 1)])["t"].result(10)
        send(server.address, b"1")
        server.stop()
        assert server.pid is None
        server.start()
        send(server.address, b"2")
        server.kill()
        assert server.exit_code == -signal.SIGKILL
        server.start()
        send(server.address, b"x" * (4 << 20))
        values, stamps = read_all(server.address, 3)
        assert values[:2] == [b"1", b"2"]
        assert len(values[2]) == 4 << 20
        assert stamps == {2}  # the broker's own time, not the sender's
    assert is_free(server.port)


def test_kafka_makes_no_topics_by_itself(kafka):
    """A misspelt topic is an error, not a new topic."""
    admin = AdminClient({"bootstrap.servers": kafka})
    assert admin.list_topics("not-there", timeout=10).topics["not-there"].error is not None
    assert "not-there" not in admin.list_topics(timeout=10).topics


def test_a_broken_folder_is_explained(tmp_path):
    """What Kafka says about a folder it cannot use reaches the user in one line."""
    log = tmp_path / "kafka" / "log"
    log.mkdir(parents=True)
    (log / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=abc\ndirectory.id=AAAAAAAAAAAAAAAAAAAAAQ\n")
    with pytest.raises(StackError, match="ended while it started") as caught:
        KafkaServer(tmp_path).start()
    assert "node id 7" in caught.value.why
    assert "kafka.log" in caught.value.fix


def test_valkey_keeps_data_over_a_stop_and_a_crash(tmp_path):
    """The append-only file brings everything back, on the same port."""
    with ValkeyServer(tmp_path) as server, client_of(server) as client:
        client.set("a", "1")
        server.stop()
        server.start()
        client.set("b", "2")
        server.kill()
        server.start()
        assert client.mget("a", "b") == [b"1", b"2"]


def test_valkey_never_evicts_and_writes_everything_down(fresh_redis):
    """The settings that counts rely on are in force, and only this machine can connect."""
    with client_of(fresh_redis) as client:
        config = client.config_get("*")
    wanted = {
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "bind": "127.0.0.1",
    }
    assert {name: config[name] for name in wanted} == wanted


def test_a_paused_server_answers_again_when_it_is_resumed(fresh_redis):
    """A frozen server takes connections and stays silent; frozen or not it can be stopped."""
    with client_of(fresh_redis) as client:
        client.ping()
        fresh_redis.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        fresh_redis.resume()
        assert client.ping()
    fresh_redis.pause()
    fresh_redis.stop(timeout=5)
    assert fresh_redis.exit_code == 0


@pytest.mark.parametrize("kind", [KafkaServer, ValkeyServer])
def test_a_taken_port_is_named(tmp_path, kind):
    """The user learns which port and which option; nothing is written or left running."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = kind(tmp_path, port)
        with pytest.raises(StackError, match=f"port {port} is taken") as caught:
            server.start()
        assert f"--{server.name}-port" in caught.value.fix
        assert server.pid is None


def test_free_ports_cannot_be_drawn_by_clients():
    """A port below the ephemeral range stays free for a server that is started again."""
    assert all(20_000 <= free_port() < 32_768 for _ in range(20))


def test_a_folder_that_cannot_be_written_is_explained(tmp_path):
    """A file where the folder should be is an error of one line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match="cannot"):
        ValkeyServer(tmp_path / "file").start()


PARENT = """
import sys, threading, time
from pathlib import Path
from clickwell.devstack.broker import KafkaServer
from clickwell.devstack.valkey import ValkeyServer
data = Path(sys.argv[1])
servers = [KafkaServer(data), ValkeyServer(data)]
# Started by threads that end: the children must belong to the process and not to the thread.
for server in servers:
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
assert all(server.pid for server in servers)
print(*(server.pid for server in servers), flush=True)
servers[1].pause()
time.sleep(60)
"""


def test_no_child_outlives_a_killed_parent(tmp_path):
    """kill -9 of the process that started the servers ends them, even one that is frozen."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.communicate()
    wait_for(lambda: all(is_gone(pid) for pid in pids), 15, "the end of both children")


WATCHED = """
import subprocess, sys
from pathlib import Path
code = "import sys; sys.path[0] = sys.argv.pop(1); import child; "
code += "child.tie_by_watching(int(sys.argv[1]), sys.argv[2:])"
import os
server = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
command = [sys.executable, "-c", code, sys.argv[1], str(os.getpid()), sys.executable, "-c", server]
subprocess.Popen(command, start_new_session=True).wait()
"""


def test_without_help_from_the_kernel_the_child_is_watched():
    """The way that other systems than Linux need also ends the server with its parent."""
    command = [sys.executable, "-c", WATCHED, str(Path(child.__file__).parent)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    server = int(parent.stdout.readline())
    assert not is_gone(server)
    parent.kill()
    wait_for(lambda: is_gone(server), 15, "the end of the server")
    parent.communicate()


def test_watching_passes_the_exit_code_on():
    """The supervisor sees how the server ended."""
    code = "import os, sys; from clickwell.devstack import child; child.tie_by_watching(os.getppid(), sys.argv[1:])"
    run = subprocess.run([sys.executable, "-c", code, sys.executable, "-c", "raise SystemExit(7)"], check=False)
    assert run.returncode == 7


def test_jars_are_found_without_a_network(monkeypatch):
    """Once fetched, Kafka needs no network and no package that can fetch."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "jgo", None)
    assert any(path.name == f"kafka_2.13-{jars.KAFKA_VERSION}.jar" for path in jars.kafka_jars().iterdir())


def test_without_cache_and_network_it_is_said_what_to_do(monkeypatch, tmp_path):
    """The first start without a network fails in one line and leaves no half cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    said = []
    with pytest.raises(StackError, match="could not be fetched") as caught:
        jars.kafka_jars(said.append)
    assert "CLICKWELL_KAFKA__BOOTSTRAP_SERVERS" in caught.value.fix
    assert len(said) == 1
    assert not jars.cache_folder().exists()


def test_processes_fetch_one_after_the_other(monkeypatch, tmp_path):
    """Who comes second waits for the lock and then finds everything there."""
    code = "import os\nfrom clickwell.devstack import jars\n"
    code += "def fetch(folder, _coordinates): folder.mkdir(); print('fetched', flush=True)\n"
    code += "jars.fetch = fetch\nprint(jars.kafka_jars(), flush=True)"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) for _ in range(2)]
    said = b"".join(process.communicate()[0] for process in both)
    assert said.count(b"fetched") == 1
    assert said.count(b"kafka-") == 2
