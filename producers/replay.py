"""Records of a spool on their way to Kafka."""

from functools import partial
from typing import Literal

from confluent_kafka import KafkaError as Report
from confluent_kafka import Message

from clickwell.producers.connection import HOPELESS, Connection
from clickwell.producers.records import Record


class Replay:
    """The oldest records of a spool, in flight, and what is known of each. Belongs to the thread that polls.

    Args:
        records: oldest first; sent at once, up to the first that the client does not take.
        connection: sends them.

    Attributes:
        waiting: how many are not reported yet.
    """

    def __init__(self, records: list[Record], connection: Connection) -> None:
        self.waiting = 0
        self._records = records
        self._connection = connection
        self._outcomes: list[Literal["waiting", "acked", "again", "hopeless"]] = []
        for index, record in enumerate(records):
            error = connection.produce(record, partial(self._reported, index))
            self._outcomes.append("waiting" if error is None else _outcome(error))
            if error is not None:
                break
            self.waiting += 1

    def ended(self) -> list[tuple[Record, bool]]:
        """Return the records before the first that must be sent again, and whether the broker has each.

        It never will have those that it has not.
        """
        ended = self._outcomes.index("again") if "again" in self._outcomes else len(self._outcomes)
        return [(self._records[at], self._outcomes[at] == "acked") for at in range(ended)]

    def _reported(self, index: int, error: Report | None, _: Message) -> None:
        self.waiting -= 1
        if error is not None:
            self._connection.note(error)
        self._outcomes[index] = "acked" if error is None else _outcome(error)


def _outcome(error: Report) -> Literal["again", "hopeless"]:
    return "hopeless" if error.code() in HOPELESS else "again"
