"""Documents, queries and judgements as files: JSON lines and tab-separated grades, plain or gzip."""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from clickwell.errors import InputError

ID_NAMES = ("id", "_id", "feature_id", "document_id", "doc_id")
QUERY_ID_NAMES = ("query_id", "_id", "id", "qid")
QUERY_NAMES = ("query", "text")
TITLE_NAMES = ("title", "name")

Grades = dict[str, dict[str, float]]
"""query_id -> document -> grade; 0 is not relevant."""

_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Corpus:
    """Documents in the order of their file.

    Attributes:
        ids: of the documents, without repeats.
        texts: what is embedded: the title, a line break, everything else that is text.
    """

    ids: Sequence[str]
    texts: Sequence[str]

    def __post_init__(self) -> None:
        if len(self.row) != len(self.ids) or len(self.ids) != len(self.texts):
            raise InputError("the corpus has a document twice", fix="keep one line for each id")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def row(self) -> Mapping[str, int]:
        """Id -> place in the corpus."""
        return {document: row for row, document in enumerate(self.ids)}


def read_corpus(path: Path) -> Corpus:
    """Read a corpus: one JSON object a line with an id and text fields; numbers are not text.

    Raises:
        InputError: the file cannot be read, a line is no object or has no id, or an id comes twice.
    """
    ids, texts = [], []
    for place, record in records(path):
        ids.append(_named(record, ID_NAMES, place))
        texts.append(text_of(record))
    if not ids:
        raise InputError(f"{path} holds no document")
    return Corpus(ids, texts)


def text_of(record: Mapping[str, Any]) -> str:
    """Return a document's text: the title on the first line, then all other text in the order of its fields."""
    title = next((name for name in TITLE_NAMES if isinstance(record.get(name), str)), None)
    rest = []
    for name, value in record.items():
        if name not in ID_NAMES and name != title:
            rest += [part for part in (value if isinstance(value, list) else [value]) if isinstance(part, str)]
    return "\n".join(part for part in (record[title] if title else "", " ".join(rest)) if part)


def read_queries(path: Path) -> dict[str, str]:
    """Read queries: one JSON object a line with `query_id` and `query`, in the file's order.

    Raises:
        InputError: the file cannot be read, or a line lacks one of the two.
    """
    return {
        _named(record, QUERY_ID_NAMES, place): _named(record, QUERY_NAMES, place) for place, record in records(path)
    }


def read_qrels(path: Path) -> Grades:
    """Read grades: query, document, grade by tabs or blanks, with a header or none; TREC's second column is skipped.

    Raises:
        InputError: the file cannot be read, or a line has no number where the grade should be.
    """
    grades: Grades = {}
    for number, line in enumerate(_lines(path), 1):
        fields = line.split("\t") if b"\t" in line.encode() else line.split()
        try:
            query, document, grade = fields[0], fields[-2], float(fields[-1])
        except (IndexError, ValueError):
            if number == 1:
                continue
            raise InputError(
                f"{path} line {number} is no judgement", fix="write query, document and grade, separated by tabs"
            ) from None
        grades.setdefault(query, {})[document] = grade
    return grades


def records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the JSON objects of a file's lines, each with the words that name its place.

    Raises:
        InputError: the file cannot be read, or a line is not a JSON object.
    """
    for number, line in enumerate(_lines(path), 1):
        place = f"{path} line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(f"{place} is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise InputError(f"{place} is not a JSON object")
        yield place, record


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            content = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == _GZIP else file
            for line in content:
                if text := line.decode("utf-8-sig").strip():
                    yield text
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}", fix="name a whole, readable file") from None


def _named(record: Mapping[str, Any], names: Sequence[str], place: str) -> str:
    for name in names:
        if isinstance(record.get(name), (str, int)):
            return str(record[name])
    raise InputError(f"{place} has none of {', '.join(names)}")
