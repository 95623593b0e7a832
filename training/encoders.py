"""Where vectors come from: anything that turns texts into rows of numbers."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from clickwell.errors import InputError, UsageError

Matrix = NDArray[np.float32]
Arrays = Mapping[str, NDArray[Any]]


class Encoder(Protocol):
    """A source of vectors; rows have length 1, or are 0 for a text of which it knows nothing."""

    @property
    def kind(self) -> str:
        """Name under which a saved model finds it again."""

    def encode_query(self, texts: Sequence[str]) -> Matrix:
        """Return one row for each query."""

    def encode_document(self, texts: Sequence[str]) -> Matrix:
        """Return one row for each document."""

    def save(self, folder: Path) -> tuple[dict[str, Any], Arrays]:
        """Return what makes it again, as JSON and arrays without secrets; what fits neither goes to the folder."""


def unit(rows: ArrayLike) -> Matrix:
    """Return rows scaled to length 1; rows of zeros stay."""
    matrix = np.asarray(rows, np.float32)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True).astype(np.float32)
    lengths[lengths == 0] = 1
    scaled: Matrix = matrix / lengths
    return scaled


class Function:
    """Vectors of a function `encode(texts) -> rows`, for queries and, unless told otherwise, for documents too.

    A saved model does not hold the function: hand it to `load` again.
    """

    kind = "function"

    def __init__(
        self,
        encode: Callable[[Sequence[str]], ArrayLike],
        encode_document: Callable[[Sequence[str]], ArrayLike] | None = None,
    ) -> None:
        self._query = encode
        self._document = encode_document or encode

    def encode_query(self, texts: Sequence[str]) -> Matrix:
        """Return one row for each query."""
        return _rows(self._query(texts), len(texts))

    def encode_document(self, texts: Sequence[str]) -> Matrix:
        """Return one row for each document."""
        return _rows(self._document(texts), len(texts))

    def save(self, folder: Path) -> tuple[dict[str, Any], Arrays]:  # noqa: ARG002  # see Encoder
        """Return nothing: a function cannot be saved."""
        return {}, {}


class Vectors:
    """Vectors that were computed elsewhere, by text, for queries and documents alike; a saved model holds them all."""

    kind = "vectors"

    def __init__(self, rows: Mapping[str, ArrayLike]) -> None:
        self._rows = rows

    @classmethod
    def read(cls, paths: Iterable[Path], texts: Mapping[str, str] | None = None) -> "Vectors":
        """Read Parquet files with the columns `vector` (a list of numbers) and `text` or `id`.

        Args:
            paths: the files.
            texts: id -> text, of queries and documents; needed where a file has ids.

        Raises:
            InputError: a file cannot be read, lacks a column, or has an id that `texts` does not know.
        """
        rows: dict[str, ArrayLike] = {}
        for path in paths:
            try:
                table = pq.read_table(path)
            except (OSError, pa.ArrowInvalid) as error:
                raise InputError(f"{path} cannot be read: {error}") from None
            key = next((name for name in ("text", "id") if name in table.column_names), None)
            if key is None or "vector" not in table.column_names:
                raise InputError(f"{path} lacks columns", fix="write `vector` and `text`, or `vector` and `id`")
            keys = [str(value) for value in table[key].to_pylist()]
            if key == "id":
                known = texts or {}
                if lost := [one for one in keys if one not in known]:
                    raise InputError(
                        f"{path} has {len(lost):,} ids without text, such as {lost[0]!r}",
                        fix="name the corpus and the queries that the ids belong to",
                    )
                keys = [known[one] for one in keys]
            vectors = table["vector"].combine_chunks()
            width = len(vectors[0]) if len(vectors) else 0
            flat = vectors.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
            if flat.size != width * len(keys):
                raise InputError(f"{path} has vectors of different lengths")
            rows.update(zip(keys, flat.reshape(len(keys), width), strict=True))
        return cls(rows)

    @classmethod
    def restore(cls, arrays: Arrays) -> "Vectors":
        """Make it again from the arrays of `save`."""
        return cls(dict(zip(json.loads(arrays["texts"].tobytes()), arrays["vectors"], strict=True)))

    def encode_query(self, texts: Sequence[str]) -> Matrix:
        """Return one row for each query.

        Raises:
            InputError: a text has no vector.
        """
        return self._look_up(texts)

    def encode_document(self, texts: Sequence[str]) -> Matrix:
        """Return one row for each document.

        Raises:
            InputError: a text has no vector.
        """
        return self._look_up(texts)

    def save(self, folder: Path) -> tuple[dict[str, Any], Arrays]:  # noqa: ARG002  # see Encoder
        """Return the texts and their vectors."""
        texts = np.frombuffer(json.dumps(list(self._rows)).encode(), np.uint8)
        vectors = np.asarray(list(self._rows.values()), np.float32)
        return {"texts": len(vectors), "dimensions": vectors.shape[-1]}, {"texts": texts, "vectors": vectors}

    def _look_up(self, texts: Sequence[str]) -> Matrix:
        if lost := [text for text in texts if text not in self._rows]:
            raise InputError(
                f"{len(lost):,} of {len(texts):,} texts have no vector, such as {lost[0][:80]!r}",
                fix="add them to the Parquet file",
            )
        return _rows(np.array([self._rows[text] for text in texts], np.float32), len(texts))


def _rows(rows: ArrayLike, expected: int) -> Matrix:
    matrix = np.asarray(rows, np.float32)
    if expected == 0:
        return matrix.reshape(0, matrix.shape[-1] if matrix.ndim == 2 else 0)
    if matrix.ndim != 2 or len(matrix) != expected or not np.isfinite(matrix).all():
        raise UsageError(
            f"{expected:,} texts gave vectors of shape {matrix.shape}", fix="return one row of finite numbers a text"
        )
    return unit(matrix)
