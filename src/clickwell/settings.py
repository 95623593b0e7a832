"""Every setting, read once when a process starts and passed down from there.

A setting comes from, in this order: the environment (`CLICKWELL_KAFKA__BOOTSTRAP_SERVERS=...`, nesting by two
underscores), the addresses that `clickwell up` wrote to `DIR/stack.json`, the default beside the field.
No other module reads the environment.
"""

import json
import re
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from clickwell.clock import MS_PER_HOUR
from clickwell.errors import SettingsError

DEFAULT_DATA = Path(".clickwell")
STACK_FILE = "stack.json"

# Content of stack.json while `Settings.load` runs: a pydantic-settings source has no other way to be handed a value.
_stack: ContextVar[dict[str, Any]] = ContextVar("stack", default={})  # noqa: B039  # never mutated

SignalName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class KafkaSettings(_Group):
    """Where the broker is, and how to log in. The same values configure librdkafka and aiokafka."""

    bootstrap_servers: str = "127.0.0.1:9092"
    """Comma-separated host:port list."""
    group: str = "clickwell"
    """Consumer group of the workers. It serves membership and lag displays; offsets that count live in Redis."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How to connect."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """Used with a SASL protocol only."""
    sasl_username: str = ""
    """User of the broker."""
    sasl_password: SecretStr = SecretStr("")
    """Password of the broker's user."""
    ssl_cafile: Path | None = None
    """PEM file with the certificate authority; the system's own when absent."""
    partitions: int = Field(default=6, ge=1, le=4096)
    """Partitions of a topic that clickwell creates itself."""
    replication: int = Field(default=1, ge=1, le=16)
    """Replication factor of a topic that clickwell creates itself."""
    retention_days: int = Field(default=10, ge=2, le=3650)
    """Retention of the event topics. Longer than the window plus the longest outage, or a rebuild would lack events."""


class RedisSettings(_Group):
    """Where Redis (>= 7.0) or Valkey is."""

    url: str = "redis://127.0.0.1:6379/0"
    """redis://, rediss:// (TLS) or unix:// address, with user and password where ACLs are used."""
    cluster: bool = False
    """The address is that of a node of a Redis Cluster; the others are asked for. See docs/scaling.md."""
    timeout: float = Field(default=5.0, gt=0, le=60)
    """Seconds that the workers wait for an answer before they rewind and ask again."""


class PopularitySettings(_Group):
    """What is counted for boosts. A change needs `clickwell rebuild`: the rings in Redis have another shape then."""

    signals: tuple[SignalName, ...] = ("click", "long_view", "add_to_cart", "purchase")
    """Signals that get a ring, in the order of their bits; at most 8."""
    slot_hours: int = Field(default=6, ge=1, le=24)
    """Length of one slot. Shorter slots make the window's edge sharper and every document's ring larger."""
    window_days: int = Field(default=7, ge=1, le=30)
    """Length of the rolling window."""
    long_view_ms: int = Field(default=30_000, ge=1)
    """A click with at least this `duration_ms` also counts as a long_view."""
    trending_half_life_hours: int = Field(default=24, ge=1, le=24 * 30)
    """Age at which an interaction weighs half in the trending list."""
    trending_weights: dict[SignalName, float] = {"click": 1.0, "long_view": 1.0, "add_to_cart": 3.0, "purchase": 5.0}
    """Weight of each signal in the trending list; signals without a ring are ignored."""
    dedup_hours: int = Field(default=1, ge=1, le=24)
    """An interaction_id seen again within this time (of the broker's clock) counts once."""

    @property
    def slot_ms(self) -> int:
        """Length of one slot in milliseconds."""
        return self.slot_hours * MS_PER_HOUR

    @property
    def dedup_ms(self) -> int:
        """The dedup window in milliseconds."""
        return self.dedup_hours * MS_PER_HOUR

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not 1 <= len(self.signals) <= 8 or len(set(self.signals)) != len(self.signals):
            raise ValueError("signals: name 1 to 8 different signals")
        if 24 % self.slot_hours:
            raise ValueError(f"slot_hours: {self.slot_hours} does not divide a day; use 1, 2, 3, 4, 6, 8, 12 or 24")
        return self


Exposure = Literal["auto", "shown", "explicit", "implied"]


class EngagementSettings(_Group):
    """What is counted by position, query and document. A change needs `clickwell rebuild`."""

    exposure: Exposure = "auto"
    """What says that a result was exposed, besides being acted on: the list of its Search event (`shown`), impressions
    (`explicit`), nothing else (`implied`); `auto` takes the list where the Search event is known, else impressions."""
    exposure_by_retriever: dict[str, Exposure] = {}
    """The same for single retrievers, as a JSON object."""
    join_hours: int = Field(default=12, ge=1, le=48)
    """Events of one search are told to belong together if they are received within this time, at most twice of it."""
    hourly_days: int = Field(default=7, ge=1, le=31)
    """How long hourly windows are kept."""
    daily_days: int = Field(default=90, ge=1, le=400)
    """How long daily windows are kept. Events that are older when they are received go to the lake only."""
    table_rows: int = Field(default=2000, ge=10, le=100_000)
    """Queries and documents of one window in each of the 64 shards at most; what is beyond is counted as `other`."""


class HistorySettings(_Group):
    """What is remembered of each user: which documents, by signal, and when last."""

    signals: tuple[SignalName, ...] = (
        "click",
        "long_view",
        "add_to_cart",
        "purchase",
        "positive_feedback",
        "negative_feedback",
    )
    """Signals that are remembered."""
    days: int = Field(default=90, ge=1, le=3650)
    """How long. After a loss of Redis workers find as much of it as Kafka still has."""
    max_items: int = Field(default=1000, ge=1, le=100_000)
    """Documents of one user and signal at most; the newest stay."""
    consumed: tuple[SignalName, ...] = ("purchase",)
    """Signals that exclude a document from a user's results unless a call names others."""


class ProfileSettings(_Group):
    """How a user's history becomes preferences. Nothing is stored: a change shows at the next read."""

    weights: dict[SignalName, float] = {
        "click": 1.0,
        "long_view": 2.0,
        "add_to_cart": 3.0,
        "purchase": 5.0,
        "positive_feedback": 5.0,
        "negative_feedback": -5.0,
    }
    """What the last time of each signal says about a document; a signal below zero speaks against it."""
    half_life_days: float = Field(default=30.0, gt=0)
    """Age at which it weighs half."""
    prior: float = Field(default=5.0, ge=0)
    """Weight at which a profile counts half: with little history it moves little."""


class WorkerSettings(_Group):
    """How a worker behaves. The defaults suit production; tests shorten the times."""

    lanes: tuple[Literal["popularity", "engagement", "history"], ...] = ("popularity", "engagement", "history")
    """What is counted. A lane that the counters in Redis lack is counted from the log when a worker with it starts."""
    chunk_records: int = Field(default=10_000, ge=1, le=20_000)
    """Records handed to the lanes at once. Larger chunks starve the group's heartbeat, which shares the interpreter."""
    fetch_bytes: int = Field(default=2 << 20, ge=1 << 12, le=1 << 26)
    """Bytes asked of the broker for one partition at once."""
    session_timeout: float = Field(default=30.0, ge=6, le=300)
    """Seconds without a heartbeat after which the broker gives a worker's partitions to others."""
    heartbeat_interval: float = Field(default=3.0, ge=0.5, le=60)
    """Seconds between heartbeats."""
    metadata_max_age: float = Field(default=30.0, ge=1, le=300)
    """Seconds after which new partitions of a topic are noticed."""
    instance_id: str = ""
    """Static group membership: a worker that comes back under the same id causes no rebalance. Unique per worker."""
    stall_seconds: float = Field(default=60.0, ge=5, le=3600)
    """A worker with lag, an answering Redis and no progress for this long ends itself; a supervisor restarts it."""
    stop_seconds: float = Field(default=20.0, ge=1, le=300)
    """After SIGTERM the worker is gone within this time, whatever hangs."""
    idle_seconds: float = Field(default=2.0, ge=0.2, le=60)
    """How often idle shards are advanced and a lost Redis is looked for."""
    failpoint: str = ""
    """For fault tests: `name:n` kills the worker at the n-th visit of a named place in its code. Off when empty."""


class SinkSettings(_Group):
    """How the sink writes the lake. A flush begins when the first of rows, bytes and age is reached."""

    flush_rows: int = Field(default=250_000, ge=1, le=5_000_000)
    """Rows of one commit at most. Twice as many are held in memory: the rows being written and those being read."""
    flush_bytes: int = Field(default=192 << 20, ge=1 << 16, le=4 << 30)
    """Bytes of records of one commit at most."""
    flush_seconds: float = Field(default=15.0, ge=0.05, le=3600)
    """Age of the oldest row at which what there is gets written, so that analysts see events no later than this."""
    fetch_bytes: int = Field(default=32 << 20, ge=1 << 20, le=1 << 30)
    """Bytes that the Kafka client holds at most for one topic, ahead of what is decoded."""
    session_timeout: float = Field(default=30.0, ge=6, le=300)
    """Seconds without a heartbeat after which the broker gives a sink's partitions to others."""
    dead_letter_topics: tuple[str, ...] = ("searches.v1",)
    """Topics whose bad records the sink dead-letters. Workers do it for interactions: two would shut each other out."""
    maintain_seconds: float = Field(default=3600.0, ge=0)
    """How often the sink compacts closed days and vacuums; 0 leaves both to `clickwell lake compact` and `vacuum`."""
    compact_rows: int = Field(default=1_000_000, ge=1000, le=50_000_000)
    """Rows of a compacted file at most. Sorting holds them in memory, about 1 KB each."""
    vacuum_hours: float = Field(default=24.0, ge=1)
    """Grace before files that no version needs are removed. Longer than any query, and than any sink may be frozen."""
    storage_options: dict[str, SecretStr] = {}
    """Options of the object store, such as AWS_ENDPOINT_URL, as a JSON object; AWS_* of the environment count too."""
    failpoint: str = ""
    """For fault tests: `name:n` kills the sink at the n-th visit of a named place in its code. Off when empty."""


class EmitterSettings(_Group):
    """How the emitter buffers."""

    buffer_events: int = Field(default=200_000, ge=1, le=10_000_000)
    """Events held in memory at most while the broker is slow."""
    block_seconds: float = Field(default=0.05, ge=0, le=60)
    """Longest time that `emit` holds its caller when the buffer is full, before the event goes to the spool."""
    spool: Path | None = None
    """Folder for events that the broker could not take; they are sent, in order, when it is back. Off when absent."""
    spool_bytes: int = Field(default=1 << 30, ge=1 << 16)
    """Size at which the spool is full."""
    linger_ms: float = Field(default=5.0, ge=0, le=1000)
    """How long librdkafka gathers events into one batch."""
    compression: Literal["none", "lz4", "zstd", "snappy", "gzip"] = "lz4"
    """Codec of the batches."""


class BoostSettings(_Group):
    """How readers behave."""

    timeout: float = Field(default=0.05, gt=0, le=10)
    """Seconds after which a reader gives up and answers with the neutral boost."""
    max_age_seconds: float = Field(default=3600.0, gt=0)
    """Counters whose workers made no progress for longer than this are stale: the boost is neutral."""
    cache_seconds: float = Field(default=0.0, ge=0, le=60)
    """Keep what was read for this long in the process; 0 asks Redis every time."""


class PrivacySettings(_Group):
    """How people are named, and how they are forgotten."""

    keys: dict[str, SecretStr] = {}
    """Secret keys of marks and pseudonyms as a JSON object, id to secret of 16 characters or more; the last is used for
    new ones. The same on every host. Empty: one key is made and kept in `privacy-keys.json` of the data folder."""
    pseudonyms: bool = False
    """Emitters and the HTTP API replace each user_id by a keyed pseudonym before it reaches Kafka."""
    shred: bool = False
    """Emitters and the HTTP API seal user_id and session_id under a key of each user's own before they reach Kafka;
    workers and sinks open them; an erasure destroys the key. Set it for all of them, and let it stay."""
    shred_keys: Path | None = None
    """Folder of the users' keys, shared by all hosts; in Redis when absent."""
    receipts: Path | None = None
    """File of the receipts; `receipts.jsonl` in the data folder when absent. Keep it where it is backed up."""
    grace_seconds: float = Field(default=3600.0, ge=0)
    """How long after an erasure the files that it replaced stay in the lake for queries that still read them."""
    poll_seconds: float = Field(default=0.25, gt=0, le=10)
    """How often the eraser looks for requests."""
    failpoint: str = ""
    """For fault tests: `name:n` kills the eraser at the n-th visit of a named place in its code. Off when empty."""

    @model_validator(mode="after")
    def _good_keys(self) -> Self:
        for name, secret in self.keys.items():
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", name):
                raise ValueError(f"keys: {name!r} is no id; use up to 32 letters, digits, - and _")
            if len(secret.get_secret_value()) < 16:
                raise ValueError(f"keys: the secret of {name} is shorter than 16 characters")
        if self.shred and self.pseudonyms:
            raise ValueError("shred: names can be sealed or replaced by pseudonyms, not both")
        return self


class ApiSettings(_Group):
    """How the HTTP API listens, and its limits."""

    host: str = "127.0.0.1"
    """Address to listen on. Beyond this machine it serves nobody until there is a key: `clickwell keys create`."""
    port: int = Field(default=8080, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    origins: tuple[str, ...] = ()
    """Origins whose pages may send events, such as `https://shop.example`; keys may name further ones."""
    ack_seconds: float = Field(default=10.0, gt=0, le=60)
    """Longest wait for the broker before a request is answered with 503."""
    read_seconds: float = Field(default=10.0, gt=0, le=300)
    """Time in which a request, body included, must have arrived."""
    connections: int = Field(default=1000, ge=1, le=100_000)
    """Connections held at once; further ones are answered with 503."""
    memory_mb: int = Field(default=128, ge=4, le=65_536)
    """Bodies held in memory at once; what goes beyond is answered with 503."""


class AlertSettings(_Group):
    """Who is told when relevance falls."""

    webhook: SecretStr = SecretStr("")
    """http:// or https:// address that gets a POST for each alert that opens or closes. It may hold a token."""
    webhook_seconds: float = Field(default=5.0, gt=0, le=60)
    """Seconds that the webhook may take."""
    prometheus: Path | None = None
    """File for Prometheus' textfile collector, written at each check."""
    every_seconds: float = Field(default=900.0, ge=10, le=86_400)
    """How often `clickwell insights` and `alerts watch` check. A check looks at full hours only."""

    @field_validator("webhook")
    @classmethod
    def _is_http(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value() and not value.get_secret_value().startswith(("http://", "https://")):
            raise ValueError("begin it with http:// or https://")
        return value


class MetricsSettings(_Group):
    """Where each process but the API serves `/metrics` for Prometheus. The API serves it beside everything else."""

    host: str = "127.0.0.1"
    """Address to listen on. Whoever reaches it reads the metrics, which name no person."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port to listen on, another one for each process of a machine; 0 serves none."""


class LogSettings(_Group):
    """What the processes write to stderr."""

    format: Literal["text", "json"] = "text"
    """`text` for people, `json` for one JSON object on each line."""
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """What is below it is left out."""


class TracingSettings(_Group):
    """Traces of events from the request to Redis and the lake, by OpenTelemetry: `pip install 'clickwell[otel]'`."""

    enabled: bool = False
    """Make spans, and hand the sender's on with each event. Emitters of applications use the application's spans."""
    endpoint: str = "http://127.0.0.1:4318/v1/traces"
    """Where worker, sink and API send spans: OTLP over HTTP."""
    sample: float = Field(default=0.01, ge=0, le=1)
    """Share of the API's requests that are traced, where the caller has not decided. Chunks and commits follow them."""


class CorrectedSettings(_Group):
    """How `clickwell insights` keeps corrected popularity fresh, for stages of `corrected_ctr`."""

    every_seconds: float = Field(default=3600.0, ge=0, le=86_400)
    """How often it is published; 0 leaves it to `clickwell corrected --publish`."""
    days: int = Field(default=28, ge=1, le=366)
    """Days of the lake that it rests on."""


class EmbeddingSettings(_Group):
    """The OpenAI-compatible `/v1/embeddings` endpoint that training asks for vectors."""

    url: str = "https://api.openai.com/v1"
    """Address below which `/embeddings` is."""
    api_key: SecretStr = SecretStr("")
    """Sent as a bearer token; none when empty."""
    batch: int = Field(default=128, ge=1, le=2048)
    """Texts of one request."""
    max_chars: int = Field(default=20_000, ge=100)
    """Longer texts are cut: endpoints refuse a whole request for one text above their limit of tokens."""
    timeout: float = Field(default=60.0, gt=0, le=600)
    """Seconds to wait for an answer."""
    attempts: int = Field(default=6, ge=1, le=20)
    """How often a request is sent at most while the endpoint is busy or away."""
    cache: Path | None = Path(".clickwell/embeddings.sqlite")
    """File that keeps every vector, so that none is paid for twice. Off when absent."""


class _StackSource(PydanticBaseSettingsSource):
    """The addresses that `clickwell up` wrote."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return _stack.get().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return _stack.get()


class Settings(BaseSettings):
    """All settings of one process; use `Settings.load`."""

    model_config = SettingsConfigDict(
        env_prefix="CLICKWELL_", env_nested_delimiter="__", extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    data: Path = DEFAULT_DATA
    """Folder of the local stack: logs, Kafka's and Valkey's files, `stack.json`."""
    lake: str = ""
    """Folder or `s3://` address of the lake; `lake` below the data folder when empty."""
    kafka: KafkaSettings = KafkaSettings()
    redis: RedisSettings = RedisSettings()
    popularity: PopularitySettings = PopularitySettings()
    engagement: EngagementSettings = EngagementSettings()
    history: HistorySettings = HistorySettings()
    profile: ProfileSettings = ProfileSettings()
    worker: WorkerSettings = WorkerSettings()
    sink: SinkSettings = SinkSettings()
    emitter: EmitterSettings = EmitterSettings()
    boosts: BoostSettings = BoostSettings()
    privacy: PrivacySettings = PrivacySettings()
    api: ApiSettings = ApiSettings()
    alerts: AlertSettings = AlertSettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()
    corrected: CorrectedSettings = CorrectedSettings()
    embeddings: EmbeddingSettings = EmbeddingSettings()

    @property
    def lake_uri(self) -> str:
        """Where the lake is: an absolute folder or an address."""
        return self.lake if "://" in self.lake else str(Path(self.lake or self.data / "lake").absolute())

    @classmethod
    def load(cls, data: Path | None = None, **overrides: Any) -> Self:
        """Read the environment and `stack.json` of `data` (default `CLICKWELL_DATA`, else `.clickwell`).

        Raises:
            SettingsError: a value is malformed, or stack.json is not readable JSON.
        """
        try:
            folder = data or cls().data
            given: dict[str, Any] = {"data": folder, **overrides}
            token = _stack.set(_read_stack(folder / STACK_FILE))
            try:
                return cls(**given)
            finally:
                _stack.reset(token)
        except ValidationError as error:
            problems = "; ".join(
                f"CLICKWELL_{'__'.join(str(p) for p in e['loc']).upper()}: {e['msg']}" for e in error.errors()
            )
            raise SettingsError(problems, fix="mend the named environment variables") from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the stack file below the environment and above the defaults."""
        return init_settings, env_settings, file_secret_settings, _StackSource(settings_cls)


def _read_stack(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{path} cannot be read: {error}", fix=f"remove {path} and run `clickwell up` again"
        ) from None
    return {name: content[name] for name in ("kafka", "redis") if name in content}
