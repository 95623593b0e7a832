"""Load what is known about documents into Redis: brands, categories, tags, from JSON lines or Parquet."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from clickwell.errors import InputError
from clickwell.producers.files import Lines
from clickwell.redis_client import connect, redis_errors
from clickwell.schemas.catalog import attributes_of, encode
from clickwell.schemas.interactions import MAX_FEATURE_ID
from clickwell.schemas.keys import SHARDS, catalog_key, shard_of
from clickwell.settings import Settings

ID_NAMES = ("feature_id", "document_id", "id")
ATTRIBUTES = ("brand", "brands", "category", "categories", "tag", "tags")
# Documents written with one pipeline: some 100 kB.
_BATCH = 1000
_PARQUET = b"PAR1"


@dataclass
class Loaded:
    """What a load did.

    Attributes:
        documents: rows with an id, of which the last of each id counts.
        described: rows of these that have any of the attributes.
        rejected: rows without a usable id.
        attributes: rows that have each of the attributes.
    """

    documents: int = 0
    described: int = 0
    rejected: int = 0
    attributes: dict[str, int] = field(default_factory=dict)


def load(
    settings: Settings,
    sources: Sequence[str],
    *,
    names: Sequence[str] = ATTRIBUTES,
    id_name: str | None = None,
    advance: Callable[[], object] = lambda: None,
) -> Loaded:
    """Let the files be the whole catalogue; readers see the old one or the new one.

    Args:
        settings: where Redis is.
        sources: JSON lines, plain or gzip, or Parquet.
        names: columns that are attributes.
        id_name: column with the document's id; `feature_id`, `document_id` or `id`, whichever comes first, when absent.
        advance: called once a row.

    Raises:
        InputError: a file cannot be read, or no row has an id and one of the attributes; the old catalogue stays then.
        RedisError: Redis is away.
    """
    loaded = Loaded(attributes=dict.fromkeys(names, 0))
    with connect(settings) as client, redis_errors():
        _forget_drafts(client)
        batch: list[tuple[str, bytes]] = []
        for row in rows_of(sources):
            advance()
            feature_id = _id(row, id_name)
            if feature_id is None:
                loaded.rejected += 1
                continue
            attributes = attributes_of(row, names)
            loaded.documents += 1
            loaded.described += bool(attributes)
            for name in attributes:
                loaded.attributes[name] += 1
            batch.append((feature_id, encode(attributes)))
            if len(batch) == _BATCH:
                _write(client, batch)
        _write(client, batch)
        if not loaded.described:
            raise InputError(
                "no row has an id and one of the attributes",
                why=f"looked for {id_name or ' or '.join(ID_NAMES)}, and for {', '.join(names)}",
                fix="name the columns with --id and --attribute",
            )
        _publish(client)
    return loaded


def rows_of(sources: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of the files.

    Raises:
        InputError: a file cannot be read, or a line is not a JSON object.
    """
    for source in sources:
        if source != "-" and _is_parquet(source):
            yield from _parquet_rows(source)
            continue
        with Lines([source]) as lines:
            for line in lines:
                try:
                    row = json.loads(line.content)
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict):
                    raise InputError(
                        f"{line.file}, line {line.number} is not a JSON object",
                        fix='write one object a line, such as {"id": "trail-pro", "brand": "Ridgeline"}',
                    )
                yield row


def _parquet_rows(source: str) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow as pa  # noqa: PLC0415  # neither the base install nor `stream` has it
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        raise InputError(f"{source} is Parquet, which needs pyarrow", fix="pip install 'clickwell[sink]'") from None
    try:
        with pq.ParquetFile(source) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{source} cannot be read: {error}", fix="get a whole copy of the file") from None


def _is_parquet(source: str) -> bool:
    try:
        with Path(source).open("rb") as file:
            return file.read(4) == _PARQUET
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror}", fix="name a readable file") from None


def _id(row: Mapping[str, Any], id_name: str | None) -> str | None:
    """Return a row's id as events may carry it; None if it has none."""
    for name in (id_name,) if id_name else ID_NAMES:
        value = row.get(name)
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            text = str(value)
            ok = 0 < len(text) <= MAX_FEATURE_ID and text == text.encode(errors="replace").decode()
            return text if ok and "\0" not in text else None
    return None


def _draft_key(shard: int) -> str:
    return f"{catalog_key(shard)}:draft"


def _forget_drafts(client: redis.Redis) -> None:
    """Remove what a load that was broken off has left."""
    pipeline = client.pipeline(transaction=False)
    for shard in range(SHARDS):
        pipeline.delete(_draft_key(shard))
    pipeline.execute()


def _write(client: redis.Redis, batch: list[tuple[str, bytes]]) -> None:
    by_shard: dict[int, dict[str, bytes]] = {}
    for feature_id, value in batch:
        by_shard.setdefault(shard_of(feature_id), {})[feature_id] = value
    pipeline = client.pipeline(transaction=False)
    for shard, values in by_shard.items():
        pipeline.hset(_draft_key(shard), mapping=values)  # type: ignore[arg-type]  # redis-py wants exactly str keys
    pipeline.execute()
    batch.clear()


def _publish(client: redis.Redis) -> None:
    """Let the drafts take the place of what readers see: at once, or shard by shard in a cluster."""
    pipeline = client.pipeline(transaction=True)
    present = [shard for shard in range(SHARDS) if client.exists(_draft_key(shard))]
    for shard in range(SHARDS):
        if shard in present:
            pipeline.rename(_draft_key(shard), catalog_key(shard))
        else:
            pipeline.delete(catalog_key(shard))
    pipeline.execute()
