"""Vectors of an OpenAI-compatible `/v1/embeddings` endpoint: in batches, with patience, each text once."""

import hashlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from clickwell.errors import DependencyError, UsageError
from clickwell.settings import EmbeddingSettings, Settings
from clickwell.training.encoders import Arrays, Matrix, unit

# First wait before a request is sent again; it doubles each time, and the endpoint's own Retry-After comes before it.
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 60.0
_BUSY = {408, 409, 425, 429, 500, 502, 503, 504, 529}


class Endpoint:
    """A model behind an endpoint; queries and documents are embedded alike.

    Args:
        model: its name there, such as `text-embedding-3-small`.
        settings: where the endpoint is, and how it is asked.
    """

    kind = "endpoint"

    def __init__(self, model: str, settings: EmbeddingSettings) -> None:
        self._model = model
        self._settings = settings

    @classmethod
    def restore(cls, facts: dict[str, Any]) -> "Endpoint":
        """Make it again for a saved model.

        Raises:
            UsageError: the settings name another endpoint. A saved model cannot choose who gets the key.
        """
        settings = Settings.load().embeddings
        if facts["url"] != settings.url:
            raise UsageError(
                f"the model was made with vectors of {facts['url']}, and the settings name {settings.url}",
                fix=f"set CLICKWELL_EMBEDDINGS__URL={facts['url']} if that is where your key may go",
            )
        return cls(facts["model"], settings)

    def encode_query(self, texts: Sequence[str]) -> Matrix:
        """Return one row for each query.

        Raises:
            DependencyError: the endpoint stays away, or refuses.
        """
        return self._encode(texts)

    def encode_document(self, texts: Sequence[str]) -> Matrix:
        """Return one row for each document.

        Raises:
            DependencyError: the endpoint stays away, or refuses.
        """
        return self._encode(texts)

    def save(self, folder: Path) -> tuple[dict[str, Any], Arrays]:  # noqa: ARG002  # see Encoder
        """Return the model's name and where it is; the key stays in the settings."""
        return {"model": self._model, "url": self._settings.url}, {}

    def _encode(self, texts: Sequence[str]) -> Matrix:
        # Endpoints refuse an empty text.
        cut = [text[: self._settings.max_chars] or " " for text in texts]
        with closing(_Cache(self._settings.cache, f"{self._settings.url}\0{self._model}")) as cache:
            rows = cache.get(cut)
            missing = [text for text in dict.fromkeys(cut) if text not in rows]
            for batch, vectors in self._asked(missing):
                new = dict(zip(batch, vectors, strict=True))
                cache.put(new)
                rows.update(new)
        if not cut:
            return np.zeros((0, 0), np.float32)
        if len({len(row) for row in rows.values()}) != 1:
            raise DependencyError(f"{self._settings.url} gave vectors of different lengths")
        return unit([rows[text] for text in cut])

    def _asked(self, texts: Sequence[str]) -> Iterator[tuple[Sequence[str], Matrix]]:
        if not texts:
            return
        try:
            import httpx2
        except ImportError:
            raise UsageError("httpx2 is not installed", fix="pip install 'clickwell[client]'") from None
        key = self._settings.api_key.get_secret_value()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with httpx2.Client(headers=headers, timeout=self._settings.timeout) as client:
            for start in range(0, len(texts), self._settings.batch):
                batch = texts[start : start + self._settings.batch]
                yield batch, self._post(client, httpx2.TransportError, batch)

    def _post(self, client: Any, away: type[Exception], batch: Sequence[str]) -> Matrix:
        url = f"{self._settings.url.rstrip('/')}/embeddings"
        trouble = ""
        for attempt in range(self._settings.attempts):
            wait = min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT)
            try:
                answer = client.post(url, json={"model": self._model, "input": list(batch)})
            except away as error:
                trouble = str(error) or type(error).__name__
            else:
                if answer.status_code == 200:
                    return _vectors(answer, len(batch), url)
                trouble = f"status {answer.status_code}: {' '.join(answer.text.split())[:200]}"
                if answer.status_code not in _BUSY:
                    raise DependencyError(f"{url} refuses", why=trouble, fix="check CLICKWELL_EMBEDDINGS__*")
                wait = _retry_after(answer.headers.get("retry-after"), wait)
            if attempt + 1 < self._settings.attempts:
                time.sleep(wait)
        raise DependencyError(
            f"{url} gave no answer in {self._settings.attempts} attempts", why=trouble, fix="run it again: it goes on"
        )


def _vectors(answer: Any, expected: int, url: str) -> Matrix:
    try:
        data = sorted(answer.json()["data"], key=lambda item: item["index"])
        vectors = np.array([item["embedding"] for item in data], np.float32)
    except (ValueError, KeyError, TypeError):
        raise DependencyError(f"{url} answers, but not with embeddings") from None
    if [item["index"] for item in data] != list(range(expected)) or vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise DependencyError(f"{url} gave {len(data):,} vectors for {expected:,} texts")
    return vectors


def _retry_after(text: str | None, otherwise: float) -> float:
    """Return the seconds that the endpoint asks for; a date, or nonsense, counts as nothing."""
    try:
        return min(max(float(text or otherwise), 0.0), _LONGEST_WAIT)
    except ValueError:
        return otherwise


class _Cache:
    """Vectors on disk by text and model: hashes and numbers, no text."""

    def __init__(self, path: Path | None, model: str) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._model = model
        self._file = sqlite3.connect(path or ":memory:", timeout=60)
        self._file.execute("create table if not exists vectors (key blob primary key, vector blob) without rowid")

    def close(self) -> None:
        self._file.close()

    def get(self, texts: Sequence[str]) -> dict[str, Matrix]:
        """Return the vectors that are there, by text."""
        found = {}
        for text in dict.fromkeys(texts):
            row = self._file.execute("select vector from vectors where key = ?", [self._key(text)]).fetchone()
            if row is not None:
                found[text] = np.frombuffer(row[0], np.float32)
        return found

    def put(self, rows: dict[str, Matrix]) -> None:
        """Keep vectors, those of one request at once: what was paid for survives a later failure."""
        with self._file:
            self._file.executemany(
                "insert or replace into vectors values (?, ?)",
                [(self._key(text), row.tobytes()) for text, row in rows.items()],
            )

    def _key(self, text: str) -> bytes:
        return hashlib.blake2b(f"{self._model}\0{text}".encode(), digest_size=16).digest()
