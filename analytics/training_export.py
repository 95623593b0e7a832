"""Pairs as files that trainers read: `docs/training-data.md` has the layout. The same lake gives the same bytes."""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic_core import to_json

from clickwell.analytics.data_card import card
from clickwell.analytics.exports import note_export
from clickwell.analytics.pairs import (
    HARD_NEGATIVE,
    POSITIVE,
    DateRange,
    Tuple,
    gather,
    judge,
    shown_documents,
    tuples_of,
)
from clickwell.analytics.propensities import estimate
from clickwell.analytics.ranking_data import groups, known_before, ranking_rows, svm_lines
from clickwell.analytics.relevance import fit
from clickwell.analytics.splits import Shares, check_pairs, check_tuples, cut_of, split
from clickwell.errors import InputError
from clickwell.producers.files import Lines
from clickwell.settings import Settings

# Beyond, a float's last digits; they are the same on one machine, but nobody needs them.
_DIGITS = 6


@dataclass(frozen=True)
class Options:
    """What an export holds.

    Attributes:
        retriever: its `retriever_id`; may be None when the lake has one only.
        date_range: as for `get_query_document_pairs`.
        min_interactions: that a positive needs.
        negatives: of each tuple.
        shares: of validation and test.
        ranking: also write the impressions for learning to rank.
        seed: of the drawn negatives.
    """

    retriever: str | None = None
    date_range: DateRange = "last_30_days"
    min_interactions: int = 2
    negatives: int = 4
    shares: Shares = field(default_factory=Shares)
    ranking: bool = True
    seed: int = 1


def export_pairs(
    settings: Settings, target: Path, options: Options, texts: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Write pairs, tuples and rankings of three parts into a new folder; returns the manifest.

    Args:
        settings: where the lake is.
        target: an empty or new folder.
        options: what it holds.
        texts: feature_id -> text; tuples of a document without one are left out and counted. When None, tuples hold
            feature_ids.

    Raises:
        UsageError: the range is malformed, the retriever unknown, or None where there are several.
        InputError: the folder is not empty or cannot be written.
        LeakError: a part knows something of another one; nothing is written then.
        LakeError: there is no table at all, or the storage does not answer.
    """
    gathered = gather(settings, options.retriever, options.date_range)
    shown = gathered.joined.relation
    first, last = shown.aggregate("min(timestamp), max(timestamp)").fetchall()[0]
    cut = cut_of(shown, options.shares)
    propensities, early = estimate(shown), shown.filter(f"timestamp < '{cut.isoformat()}'::timestamptz")
    known = estimate(early)
    model = fit(early, known)
    parts = split(shown, cut, options.shares)
    judged = {name: judge(part, model, min_interactions=options.min_interactions) for name, part in parts.items()}
    check_pairs(judged, cut)
    files = {
        "audit.parquet": _parquet(judge(shown, fit(shown, propensities), min_interactions=options.min_interactions))
    }
    counts = {}
    before = known_before(shown, model) if options.ranking else None
    for name, part in parts.items():
        every = list(tuples_of(judged[name], shown_documents(part), options.negatives, options.seed))
        tuples = [one for one in every if texts is None or {one.positive_id, *one.negative_ids} <= texts.keys()]
        check_tuples(tuples)
        view = _training_view(tuples, options.negatives, texts)
        files |= {
            f"{name}/tuples.parquet": _parquet(view),
            f"{name}/tuples.jsonl": _jsonl(view),
            f"{name}/tuples_ids.parquet": _parquet(_ids(tuples)),
            f"{name}/pairs.parquet": _parquet(judged[name]),
        }
        counts[name] = _counts(judged[name], tuples) | {"tuples_without_text": len(every) - len(tuples)}
        if before is not None:
            ranking = ranking_rows(part, before)
            files |= {
                f"{name}/ltr.parquet": _parquet(ranking),
                f"{name}/ltr.svm": svm_lines(ranking),
                f"{name}/ltr.group": _lines(groups(ranking)),
                f"{name}/ltr.position": _lines(ranking["position"].to_pylist()),
            }
            counts[name] |= {"searches": len(groups(ranking)), "impressions": ranking.num_rows}
    manifest = {
        "options": asdict(options) | {"texts": texts is not None},
        "first": first.isoformat(),
        "last": last.isoformat(),
        "cut": cut.isoformat(),
        "joined": asdict(gathered.joined.counts),
        "left_out": asdict(gathered.left_out),
        "offsets": _offsets(gathered.joined.connection),
        "propensities": asdict(propensities),
        "propensities_before_cut": asdict(known),
        "prior_weight": model.a,
        "parts": counts,
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        },
    }
    content = _indented(manifest)
    note_export(settings, target, "pairs", (first.date(), last.date()), content)
    _write(target, files | {"README.md": card(manifest).encode(), "manifest.json": content})
    return manifest


def read_texts(path: Path) -> dict[str, str]:
    """Return feature_id -> text of a corpus: JSON lines with `feature_id` or `id`, and `text`, or `title` and more.

    Without `text`, the text is `title` and `overview`, `description` or `body`, as far as they are there.

    Raises:
        InputError: the file cannot be read, or a line is not of that form.
    """
    texts = {}
    with Lines([str(path)], twice=False) as lines:
        for line in lines:
            try:
                entry = json.loads(line.content)
                name = entry["feature_id"] if "feature_id" in entry else entry["id"]
                parts = [entry["text"]] if entry.get("text") else [entry.get(part) for part in _TEXT_PARTS]
                texts[str(name)] = ". ".join(str(part) for part in parts if part)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise InputError(
                    f"{path}:{line.number}: not a document",
                    fix='a line is a JSON object such as {"id": "d1", "title": "Trail shoe", "text": "..."}',
                ) from None
    return texts


_TEXT_PARTS = ("title", "overview", "description", "body")


def _training_view(tuples: Iterable[Tuple], negatives: int, texts: Mapping[str, str] | None) -> pa.Table:
    """Return what sentence-transformers reads by the order of its columns: anchor, positive, negative_1 ..."""
    names = ["anchor", "positive", *(f"negative_{number}" for number in range(1, negatives + 1))]
    rows = [
        [
            one.anchor,
            *(document if texts is None else texts[document] for document in (one.positive_id, *one.negative_ids)),
        ]
        for one in tuples
    ]
    return pa.table([pa.array([row[i] for row in rows], pa.string()) for i in range(len(names))], names=names)


def _ids(tuples: Sequence[Tuple]) -> pa.Table:
    columns = [[getattr(one, name) for one in tuples] for name in _IDS.names]
    return pa.Table.from_arrays(
        [pa.array(column, kind) for column, kind in zip(columns, _IDS.types, strict=True)], schema=_IDS
    )


_IDS = pa.schema(
    [
        ("query_key", pa.string()),
        ("anchor", pa.string()),
        ("positive_id", pa.string()),
        ("negative_ids", pa.list_(pa.string())),
        ("hard", pa.int32()),
        ("strength", pa.float64()),
        ("propensity", pa.float64()),
        ("weight", pa.float64()),
    ]
)


def _counts(judged: pa.Table, tuples: list[Tuple]) -> dict[str, int]:
    labels = judged["label"].to_pylist()
    return {
        "queries": len(set(judged["query_key"].to_pylist())),
        "positives": labels.count(POSITIVE),
        "hard_negatives": labels.count(HARD_NEGATIVE),
        "tuples": len(tuples),
        "negatives": sum(len(one.negative_ids) for one in tuples),
        "negatives_that_are_hard": sum(one.hard for one in tuples),
    }


def _offsets(connection: duckdb.DuckDBPyConnection) -> dict[str, tuple[int, int]]:
    """Return the first and last offset of each partition among the days' events; none for loaded history."""
    found = connection.execute(_OFFSETS).fetchall()
    return {place: (first, last) for place, first, last in found}


_OFFSETS = """
with logged as (
  select kafka_topic_id, kafka_partition, kafka_offset from interactions
  union all select kafka_topic_id, kafka_partition, kafka_offset from searches
)
select kafka_topic_id || '/' || kafka_partition as place, min(kafka_offset), max(kafka_offset)
from logged where kafka_offset is not null group by place order by place
"""


def _rounded(table: pa.Table) -> pa.Table:
    for place, column in enumerate(table.schema):
        if pa.types.is_float64(column.type):
            table = table.set_column(place, column.name, pc.round(table[column.name], _DIGITS))
    return table


def _parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(_rounded(table).combine_chunks(), out, compression="zstd")
    return out.getvalue()


def _jsonl(table: pa.Table) -> bytes:
    return b"".join(to_json(row) + b"\n" for row in table.to_pylist())


def _lines(numbers: Iterable[int]) -> bytes:
    return "".join(f"{number}\n" for number in numbers).encode()


def _indented(manifest: dict[str, Any]) -> bytes:
    return to_json(manifest, indent=2) + b"\n"


def _write(target: Path, files: Mapping[str, bytes]) -> None:
    """Write the files, the manifest last: a folder without one is not complete."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise InputError(f"{target} is not empty", fix="name a new folder")
        for name, content in files.items():
            (target / name).parent.mkdir(exist_ok=True)
            (target / name).write_bytes(content)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}") from None
