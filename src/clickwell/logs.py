"""How long-running processes log: lines for people, or one JSON object each for machines."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from clickwell.settings import LogSettings

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object: `at` (ISO 8601, UTC), `level`, `logger`, and `message` or fields.

    A record's `fields`, a mapping given as `extra`, stand in place of its message, which says the same for people.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: dict[str, Any] = getattr(record, "fields", None) or {"message": record.getMessage()}
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname, "logger": record.name}
        line |= {name: value for name, value in fields.items() if name not in line}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def as_json() -> bool:
    """Tell whether this process logs JSON, so that whatever else it says should be JSON, too."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers)


def set_up(settings: LogSettings) -> None:
    """Log to stderr from now on, as the settings say; a second call changes nothing."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if settings.format == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=settings.level, handlers=[handler])
