"""A trained model: a source of vectors, and what clicks taught it about queries; saved as a folder.

```
MODEL/
  README.md      the card: what it was made from, how it fared, what it is not for
  model.json     format, base, training
  arrays.npz     the base's arrays, the adapter, which queries and documents were trained on
```
A loaded model gives the same vectors, bit for bit, as the one that was saved. Nothing in the folder is executed.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clickwell.errors import InputError, UsageError
from clickwell.schemas.keys import normal_query
from clickwell.training.adapter import transform
from clickwell.training.encoders import Arrays, Encoder, Matrix, Vectors
from clickwell.training.pairs import TrainingPairs

FORMAT = 1
CARD, FACTS, ARRAYS = "README.md", "model.json", "arrays.npz"

Marks = NDArray[np.uint64]
"""Eight bytes of a hash of texts' normal forms."""


@dataclass(frozen=True)
class Model:
    """Vectors of queries and documents: those of a base, the queries' moved by an adapter.

    Attributes:
        base: where the vectors come from.
        matrix: the adapter; None leaves queries as they are.
        training: what it was made from and how it fared, for its card.
        trained_queries, trained_documents: what it was trained on, sorted: an evaluation tells by them what the model
            has not seen.
    """

    base: Encoder
    matrix: Matrix | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    trained_queries: Marks = field(default_factory=lambda: np.zeros(0, np.uint64))
    trained_documents: Marks = field(default_factory=lambda: np.zeros(0, np.uint64))

    def encode_query(self, texts: str | Sequence[str]) -> Matrix:
        """Return one row of length 1 for each query, or a single vector for a single text."""
        rows = transform(self.base.encode_query(_listed(texts)), self.matrix)
        return rows.reshape(-1) if isinstance(texts, str) else rows

    def encode_document(self, texts: str | Sequence[str]) -> Matrix:
        """Return one row of length 1 for each document, or a single vector for a single text."""
        rows = self.base.encode_document(_listed(texts))
        return rows.reshape(-1) if isinstance(texts, str) else rows

    def save(self, folder: Path) -> None:
        """Write the model into a new folder, or over a model.

        Raises:
            InputError: the folder holds something else, or cannot be written.
        """
        stored: dict[str, Any] = {"trained_queries": self.trained_queries, "trained_documents": self.trained_documents}
        if self.matrix is not None:
            stored["adapter"] = self.matrix
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()) and not (folder / FACTS).exists():
                raise InputError(f"{folder} is not empty and holds no model", fix="name a new folder")
            (folder / FACTS).unlink(missing_ok=True)
            facts, arrays = self.base.save(folder)
            stored |= {f"base.{name}": array for name, array in arrays.items()}
            content = {"format": FORMAT, "base": {"kind": self.base.kind, **facts}, "training": dict(self.training)}
            np.savez(folder / ARRAYS, allow_pickle=False, **stored)
            (folder / CARD).write_text(_card(content), encoding="utf-8")
            # Last: a folder without it is no model, so none that was half written is ever loaded.
            (folder / FACTS).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{folder} cannot be written: {error.strerror or error}") from None

    @classmethod
    def load(cls, folder: Path, base: Encoder | None = None) -> "Model":
        """Read a model.

        Args:
            folder: as written by `save`.
            base: the source of vectors, where the model cannot hold it: a function.

        Raises:
            InputError: there is no model, or it is damaged or of a later format.
            UsageError: it was made over a function and `base` is not given, or over an endpoint that is not the
                settings'.
        """
        try:
            content = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise InputError(f"{folder} has format {content['format']}", fix="load it with a later clickwell")
            with (folder / ARRAYS).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            own = {name.removeprefix("base."): array for name, array in arrays.items() if name.startswith("base.")}
            return cls(
                base or _base(content["base"], own, folder),
                arrays.get("adapter"),
                content["training"],
                arrays["trained_queries"],
                arrays["trained_documents"],
            )
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise InputError(f"{folder} is not a model: {error}", fix="write one by `clickwell fine-tune`") from None


def marks(texts: Iterable[str]) -> Marks:
    """Return the marks of texts, in the order given."""
    digests = b"".join(hashlib.blake2b(normal_query(text).encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, np.uint64)


def trained_on(pairs: TrainingPairs) -> tuple[Marks, Marks]:
    """Return the marks of the queries and of the documents that pairs speak of, each sorted."""
    queries = np.unique(np.concatenate([pairs.positives[:, 0], pairs.negatives[:, 0]]))
    documents = np.unique(np.concatenate([pairs.positives[:, 1], pairs.negatives[:, 1]]))
    return (
        np.sort(marks(pairs.queries[row] for row in queries.tolist())),
        np.sort(marks(pairs.documents[row] for row in documents.tolist())),
    )


def _listed(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


def _base(facts: dict[str, Any], arrays: Arrays, folder: Path) -> Encoder:
    if facts["kind"] == "lsa":
        from clickwell.training.lsa import Lsa

        return Lsa.restore(arrays)
    if facts["kind"] == "vectors":
        return Vectors.restore(arrays)
    if facts["kind"] == "endpoint":
        from clickwell.training.endpoint import Endpoint

        return Endpoint.restore(facts)
    if facts["kind"] == "sentence-transformers":
        from clickwell.training.transformers import FOLDER, Whole

        return Whole(facts["name"], folder / FOLDER)
    raise UsageError(f"{folder} was made over a {facts['kind']}", fix="hand it over: Model.load(folder, base=...)")


def _card(content: Mapping[str, Any]) -> str:
    base, training = content["base"], content["training"]
    rows = {
        **{f"base {name}": value for name, value in base.items() if name != "kind"},
        **{name.replace("_", " "): value for name, value in training.items()},
    }
    lines = [
        f"# Search model over {base['kind']}",
        "",
        "Made by clickwell from what people clicked, with the bias of positions taken out of the pairs.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {_figure(value)} |" for name, value in rows.items()),
        "",
        "Held-back figures are measured against clicks, not against people's grades: evaluate the model on judged",
        "queries before it serves. It knows hashes of the queries and documents that it was trained on.",
    ]
    return "\n".join(lines) + "\n"


def _figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
