"""Vectors of an OpenAI-compatible endpoint, asked over real HTTP."""

import hashlib
import json
from http.server import ThreadingHTTPServer

import numpy as np
import pytest

from clickwell.errors import DependencyError, UsageError
from clickwell.settings import EmbeddingSettings
from clickwell.training.endpoint import Endpoint
from clickwell.training.model import Model
from tests.web import Quiet, serving

KEY = "secret-key"


def vector(text):
    """What the server says of a text."""
    return [b / 255 for b in hashlib.sha256(text.encode()).digest()[:8]]


class Server(ThreadingHTTPServer):
    """Answers as asked by `faults`: a list of (status, headers, body) to give first, then embeddings."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.faults = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(Quiet):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append((self.path, self.headers["authorization"], body))
        if self.server.faults:
            status, headers, content = self.server.faults.pop(0)
        else:
            status, headers = 200, {}
            data = [{"index": i, "embedding": vector(text)} for i, text in enumerate(body["input"])]
            # The order of an answer is told by its indexes alone.
            content = json.dumps({"data": data[::-1]})
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(content.encode())}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content.encode())


@pytest.fixture
def server():
    """A server that runs for one test."""
    running = Server()
    with serving(running):
        yield running


@pytest.fixture
def settings(server, tmp_path):
    """Settings that name the server."""
    return EmbeddingSettings(url=server.url, api_key=KEY, batch=10, attempts=3, cache=tmp_path / "cache" / "v.sqlite")


def test_texts_are_asked_in_batches_and_once(server, settings):
    """Each text is asked for once, in batches, in its own row, and never again while the cache lives."""
    texts = [f"text {i % 25}" for i in range(50)]
    found = Endpoint("small", settings).encode_query(texts)
    assert [len(body["input"]) for _, _, body in server.requests] == [10, 10, 5]
    assert {(path, key, body["model"]) for path, key, body in server.requests} == {
        ("/v1/embeddings", f"Bearer {KEY}", "small")
    }
    expected = np.array([vector(text) for text in texts])
    assert np.allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    assert np.array_equal(Endpoint("small", settings).encode_document(texts), found)
    assert len(server.requests) == 3
    Endpoint("large", settings).encode_query(["text 1"])
    assert len(server.requests) == 4
    assert not [text for text in texts if text.encode() in settings.cache.read_bytes()]


def test_a_busy_endpoint_is_asked_again(server, settings):
    """After 429 and 503 the same texts are sent again; what had been answered before a failure is not."""
    server.faults = [(429, {"Retry-After": "0"}, "{}"), (503, {"Retry-After": "0"}, "")]
    assert Endpoint("small", settings).encode_query(["a"]).shape == (1, 8)
    assert [body["input"] for _, _, body in server.requests] == [["a"]] * 3
    server.faults = [(200, {}, json.dumps({"data": [{"index": i, "embedding": [1, 0]} for i in range(10)]}))]
    server.faults += [(500, {"Retry-After": "0"}, "")] * 3
    texts = [f"t{i}" for i in range(11)]
    with pytest.raises(DependencyError, match="no answer in 3 attempts"):
        Endpoint("other", settings).encode_query(texts)
    server.faults = [(200, {}, json.dumps({"data": [{"index": 0, "embedding": [0, 1]}]}))]
    assert Endpoint("other", settings).encode_query(texts).tolist() == [[1, 0]] * 10 + [[0, 1]]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ((401, {}, '{"error": "bad key"}'), "refuses"),
        ((200, {}, '{"data": []}'), "gave 0 vectors for 2 texts"),
        ((200, {}, "<html>"), "not with embeddings"),
        ((200, {}, '{"data": [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [1]}]}'), "gave 2 vectors"),
    ],
)
def test_a_wrong_answer_is_told(server, settings, fault, words):
    """An answer that is no use is an error with its reason, at once, and nothing of it is kept."""
    server.faults = [fault]
    with pytest.raises(DependencyError, match=words):
        Endpoint("small", settings).encode_query(["a", "b"])
    assert Endpoint("small", settings).encode_query(["a", "b"]).shape == (2, 8)
    assert len(server.requests) == 2


def test_long_and_empty_texts_are_sent_as_endpoints_take_them(server, settings):
    """A long text is cut, an empty one is a blank."""
    Endpoint("small", settings).encode_document(["x" * 50_000, ""])
    assert [len(text) for text in server.requests[0][2]["input"]] == [settings.max_chars, 1]


def test_a_saved_model_has_no_key_and_cannot_choose_who_gets_it(server, settings, tmp_path, monkeypatch):
    """The key is in no file of a model, and a model made with another endpoint than the settings' is not loaded."""
    Model(Endpoint("small", settings)).save(tmp_path / "model")
    assert all(KEY.encode() not in file.read_bytes() for file in (tmp_path / "model").iterdir())
    with pytest.raises(UsageError, match="the settings name"):
        Model.load(tmp_path / "model")
    monkeypatch.setenv("CLICKWELL_EMBEDDINGS__URL", server.url)
    monkeypatch.setenv("CLICKWELL_EMBEDDINGS__CACHE", str(settings.cache))
    assert Model.load(tmp_path / "model").encode_query("a").shape == (8,)


def test_an_endpoint_that_is_away_is_told(settings):
    """Nobody listening is an error with its reason after the last attempt."""
    away = settings.model_copy(update={"url": "http://127.0.0.1:9/v1", "attempts": 1})
    with pytest.raises(DependencyError, match="no answer in 1 attempts"):
        Endpoint("small", away).encode_query(["a"])
