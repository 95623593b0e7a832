"""The tables of the lake: their columns, how the Delta log is kept, and how a table is opened.

Each kind of event has a table below the lake's root, `interactions` and `searches`, partitioned by the UTC date of the
event's own time. A table's log holds, with the data files of every commit, the next offset of each Kafka partition that
the commit covers, as the application transaction `topic id/partition`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pa_fs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler

from clickwell.errors import LakeError, NoTableError, TopicRecreatedError
from clickwell.schemas.topics import INTERACTIONS, SEARCHES, Topic
from clickwell.settings import Settings

DATE = "event_date"
TIME = pa.timestamp("us", "UTC")
STRINGS = pa.list_(pa.field("element", pa.string()))

# Bounds of these columns stand in the log, where engines that plan a query look first. The log outlives an erasure, so
# nothing that could point to a person may be among them; inside the files every column has its bounds.
STATISTICS = ("timestamp", "received_at", "position", "kafka_partition", "kafka_offset")
TOPIC_ID = "clickwell.topicId"
PROPERTIES = {
    # Opening a table reads the last checkpoint and the entries after it; 100 entries take about 5 ms.
    "delta.checkpointInterval": "100",
    "delta.dataSkippingStatsColumns": ",".join(STATISTICS),
    # Time travel, which every older entry of the log would slow down: reading 10,000 entries takes seconds.
    "delta.logRetentionDuration": "interval 2 days",
    "delta.enableExpiredLogCleanup": "true",
}

_WHO = [("user_id", pa.string()), ("session_id", pa.string()), ("retriever_id", pa.string())]
_WHEN = [pa.field("timestamp", TIME, nullable=False), ("sent_at", TIME)]
_ORIGIN = [
    ("metadata_json", pa.string()),
    ("source", pa.string()),
    ("received_at", TIME),
    ("ingested_at", TIME),
    ("kafka_topic_id", pa.string()),
    ("kafka_partition", pa.int32()),
    ("kafka_offset", pa.int64()),
]


@dataclass(frozen=True)
class Table:
    """One table of the lake.

    Attributes:
        name: its folder below the lake's root.
        kind: of its events, as producers name it.
        topic: where its events come from.
        schema: columns of its data files; the table has `event_date` besides.
        sort: order of the rows in a compacted file.
        blooms: columns with a Bloom filter in compacted files, besides the first of `sort`.
    """

    name: str
    kind: str
    topic: Topic
    schema: pa.Schema
    sort: tuple[str, ...]
    blooms: tuple[str, ...]

    @property
    def delta_schema(self) -> pa.Schema:
        """The columns with the date, by which the table is partitioned."""
        return self.schema.append(pa.field(DATE, pa.date32()))

    def uri(self, settings: Settings) -> str:
        """Return the table's address."""
        return f"{settings.lake_uri.rstrip('/')}/{self.name}"


INTERACTION_TABLE = Table(
    "interactions",
    "interaction",
    INTERACTIONS,
    pa.schema(
        [
            ("interaction_id", pa.string()),
            pa.field("feature_id", pa.string(), nullable=False),
            pa.field("interaction_type", STRINGS, nullable=False),
            ("position", pa.int32()),
            *_WHO,
            ("execution_id", pa.string()),
            *_WHEN,
            ("query", pa.string()),
            ("duration_ms", pa.int64()),
            ("device", pa.string()),
            *_ORIGIN,
        ]
    ),
    # A person's rows lie together, so that reading or erasing one person touches few row groups; documents, of which a
    # few are in nearly every row group anyway, are found by their Bloom filter.
    sort=("user_id", "timestamp"),
    blooms=("feature_id", "interaction_id"),
)
SEARCH_TABLE = Table(
    "searches",
    "search",
    SEARCHES,
    pa.schema(
        [
            pa.field("execution_id", pa.string(), nullable=False),
            pa.field("query", pa.string(), nullable=False),
            ("ranker_id", pa.string()),
            pa.field("results", STRINGS, nullable=False),
            *_WHO,
            *_WHEN,
            ("latency_ms", pa.float64()),
            *_ORIGIN,
        ]
    ),
    sort=("user_id", "timestamp"),
    blooms=("execution_id",),
)
TABLES = (INTERACTION_TABLE, SEARCH_TABLE)


def storage_options(settings: Settings) -> dict[str, str]:
    """Return the options of the object store; empty for a folder."""
    return {name: value.get_secret_value() for name, value in settings.sink.storage_options.items()}


def open_table(settings: Settings, table: Table) -> DeltaTable:
    """Open a table at its latest version.

    Raises:
        LakeError: there is no such table yet, or its storage does not answer.
    """
    uri = table.uri(settings)
    with storage_errors(settings):
        try:
            return DeltaTable(uri, storage_options=storage_options(settings))
        except TableNotFoundError:
            raise NoTableError(
                f"there is no table {table.name} in {settings.lake_uri}",
                fix="`clickwell sink` writes it; CLICKWELL_LAKE says where",
            ) from None


def create_table(settings: Settings, table: Table) -> DeltaTable:
    """Open a table, after making it if it is not there.

    Any number of processes may do this at once.

    Raises:
        LakeError: its storage does not answer.
    """
    uri = table.uri(settings)
    try:
        # "ignore" leaves a table that is there as it is, whoever made it first.
        DeltaTable.create(
            uri,
            table.delta_schema,
            mode="ignore",
            partition_by=[DATE],
            name=table.name,
            configuration=PROPERTIES,
            storage_options=storage_options(settings),
        )
    except (DeltaError, OSError) as error:
        if not DeltaTable.is_deltatable(uri, storage_options(settings)):
            raise _away(settings, error) from None
    return open_table(settings, table)


@contextmanager
def storage_errors(settings: Settings) -> Iterator[None]:
    """Turn the errors of a storage that fails into clickwell's.

    Raises:
        LakeError: the storage is away, full, or not what it should be.
    """
    try:
        yield
    except (DeltaError, OSError) as error:
        raise _away(settings, error) from None


def _away(settings: Settings, error: Exception) -> LakeError:
    return LakeError(
        f"the lake at {settings.lake_uri} cannot be used",
        why=" ".join(str(error).split())[:500],
        fix="check the address, the credentials and the free space",
    )


def filesystem(delta: DeltaTable) -> pa_fs.FileSystem:
    """Return the file system of a table, whose paths are those of its log; a file is there when it is complete."""
    return pa_fs.PyFileSystem(DeltaStorageHandler.from_table(delta._table))  # noqa: SLF001  # its documented use


def app_id(topic_id: str, partition: int) -> str:
    """Return the application transaction under which the next offset of a partition is stored."""
    return f"{topic_id}/{partition}"


def check_topic(delta: DeltaTable, table: Table, topic_id: str) -> None:
    """Refuse a topic that was deleted and created again; the first topic of a table becomes its own.

    Raises:
        TopicRecreatedError: the table was written from a topic with another id.
    """
    known = delta.metadata().configuration.get(TOPIC_ID)
    if known is None:
        adopt_topic(delta, topic_id)
    elif known != topic_id:
        raise recreated(table, known, topic_id)


def recreated(table: Table, known: str, topic_id: str) -> TopicRecreatedError:
    """Return the error for a topic that is not the one from which a table was written."""
    return TopicRecreatedError(
        f"topic {table.topic.name} was deleted and created again: its id is {topic_id}, "
        f"table {table.name} was written from {known}",
        why="offsets of the old topic mean nothing in the new one",
        fix="`clickwell sink --new-topic` goes on with the new topic and keeps what the table holds",
    )


def adopt_topic(delta: DeltaTable, topic_id: str) -> None:
    """Let a table go on with another topic; its rows and the old topic's offsets stay."""
    delta.alter.set_table_properties({TOPIC_ID: topic_id}, raise_if_not_exists=False)
