"""What the workers last said of themselves in Redis."""

from typing import cast

import redis
from pydantic import BaseModel, ConfigDict, ValidationError

from clickwell.clock import SystemClock
from clickwell.redis_client import connect
from clickwell.schemas.keys import WORKERS
from clickwell.settings import Settings

# Workers report every few seconds; one that missed several reports hangs or is gone.
_SILENT_MS = 15_000


class WorkerReport(BaseModel):
    """The last report of one worker.

    Attributes:
        id: name of the worker.
        host: machine that it runs on.
        pid: its process there.
        at_ms: when it reported, epoch ms.
        lag: records that are not applied yet, by `lane/topic id/partition`.
    """

    model_config = ConfigDict(extra="allow")

    id: str
    host: str = ""
    pid: int = 0
    at_ms: int = 0
    lag: dict[str, int] = {}

    def lag_by_lane(self) -> dict[str, int]:
        """Return the lag of each lane."""
        lanes: dict[str, int] = {}
        for field, records in self.lag.items():
            lane = field.split("/")[0]
            lanes[lane] = lanes.get(lane, 0) + records
        return lanes


def worker_reports(settings: Settings) -> list[WorkerReport]:
    """Return the reports of the last seconds, by worker; none when Redis does not answer."""
    oldest = SystemClock().now_ms() - _SILENT_MS
    try:
        with connect(settings) as client:
            held = cast("dict[bytes, bytes]", client.hgetall(WORKERS))
    except redis.RedisError:
        return []
    reports = []
    for value in held.values():
        try:
            reports.append(WorkerReport.model_validate_json(value))
        except ValidationError:
            continue  # written by a newer version; it says nothing about whether that worker runs
    return sorted((report for report in reports if report.at_ms >= oldest), key=lambda report: report.id)
