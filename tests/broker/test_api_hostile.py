"""Senders that are slow, endless or unclear get a 4xx, and hold up neither the others nor the memory."""

import gzip
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from .api_server import INTERACTIONS_URL, READ_SECONDS, click

pytestmark = pytest.mark.broker

HEAD = b"POST /v1/retrievers/interactions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BOTH = HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        pytest.param(BOTH, 400, id="two lengths"),
        pytest.param(HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", 400, id="lengths that differ"),
        pytest.param(HEAD + b"Content-Length: +2\r\n\r\n{}", 400, id="length with a sign"),
        pytest.param(HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400, id="blank before the colon"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400, id="chunked, but not last"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, id="chunks that are none"),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n", 400, id="chunk beyond 64 bits"
        ),
        pytest.param(b"nonsense\r\n\r\n", 400, id="not HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, id="TLS"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000, 503, id="thousands at once"),
        pytest.param(HEAD + b"X: " + b"a" * 400_000, 431, id="endless head"),
        pytest.param(HEAD + b"Content-Length: 5000000\r\n\r\n", 413, id="announced too large"),
        pytest.param(HEAD + b"Content-Length: 50\r\n\r\n{", 408, id="body that does not come"),
        pytest.param(HEAD, 408, id="head that does not end"),
        pytest.param(HEAD + b"Content-Length: 2\r\nContent-Encoding: br\r\n\r\n{}", 415, id="unknown encoding"),
    ],
)
def test_hostile_requests_get_a_4xx(server, request_bytes, status):
    """As problems, whatever layer refuses them."""
    answer = server.raw(request_bytes)
    assert answer.startswith(b"HTTP/1.1 %d" % status), answer[:200]
    assert b"application/problem+json" in answer


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"feature_id":"\xff","interaction_type":["click"]}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"feature_id":"a","feature_id":"b","interaction_type":["click"]}',
        b'{"feature_id":"a","interaction_type":["click"],"position":1e999}',
        b'{"feature_id":"a","interaction_type":["click"],"timestamp":%b}' % (b"9" * 10_000),
        b"[" + b",".join([b"{}"] * 1001) + b"]",
        gzip.compress(bytes(50_000_000)),
        gzip.compress(b"") * 50_000,
        gzip.compress(gzip.compress(b"{}")),
        gzip.compress(b"{}")[:-3],
    ],
)
def test_hostile_bodies_get_a_4xx(server, body):
    """And the next request is served."""
    headers = {"Content-Encoding": "gzip"} if body[:2] == b"\x1f\x8b" else {}
    refused = server.client.post(INTERACTIONS_URL, content=body, headers=headers)
    assert 400 <= refused.status_code < 500
    assert refused.headers["content-type"] == "application/problem+json"
    assert server.client.post(INTERACTIONS_URL, json=click()).status_code == 202


def test_slow_senders_do_not_hold_up_the_others_nor_the_memory(server):
    """A hundred connections that send nothing more are closed; meanwhile everybody else is served."""
    before = resident_mb(server.api.pid)
    slow = [socket.create_connection(("127.0.0.1", server.api.port)) for _ in range(100)]
    for connection in slow:
        connection.sendall(HEAD + b"Content-Length: 1900000\r\n\r\n" + bytes(100_000))
    began = time.monotonic()
    assert server.client.post(INTERACTIONS_URL, json=click()).status_code == 202
    assert time.monotonic() - began < READ_SECONDS
    for connection in slow:
        connection.settimeout(5 * READ_SECONDS)
        assert b" 408 " in connection.recv(200)
        connection.close()
    assert resident_mb(server.api.pid) < before + 150


def test_senders_of_single_bytes_are_cut_off(server):
    """Each byte in time does not make the request in time, be it in the head or in the body."""
    for beginning in (HEAD, HEAD + b"Content-Length: 100000\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.api.port)) as slow:
            slow.sendall(beginning)
            slow.settimeout(READ_SECONDS / 20)
            answer = b""
            began = time.monotonic()
            while not answer:
                assert time.monotonic() - began < 10 * READ_SECONDS
                slow.sendall(b"G")
                with suppress(TimeoutError):
                    answer = slow.recv(200)
            assert b" 408 " in answer


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024
