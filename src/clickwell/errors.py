"""Every error that clickwell raises, in one tree.

```
ClickwellError              code, why, fix, exit_code
├── UsageError              the call or a file is wrong; asking again as it stands cannot help        exit 2
│   ├── SettingsError       a setting is missing or contradicts another
│   └── InputError          a file cannot be read, or is not of the stated format
├── DependencyError         something that clickwell needs is away or unfit; a retry may help         exit 4
│   ├── KafkaError          the broker is away, or a topic is not what the worker needs
│   │   ├── TopicRecreatedError     same name, other topic id: stored offsets mean nothing
│   │   └── BufferFullError         the emitter may not hold more; the event was not taken
│   ├── RedisError          Redis is away, or would lose counts silently (evicting policy)
│   ├── LakeError           the lake's storage is away or full
│   │   └── NoTableError        it holds no such table yet
│   └── StackError          the local stack could not start (taken port, missing Java, no disk)
├── DecodeError             one event is not valid; carries a reason, the field and a sentence
├── LayoutError             counters were built with other settings than the ones now in force          exit 3
└── LeakError               training data knows something of its own test                               exit 3
```

`code` is stable and stands in docs/errors.md; `why` and `fix` are one line each and are what a user reads.
"""


class ClickwellError(Exception):
    """Base of the tree: one sentence of what, and where known why it is so and what to do."""

    code = "CW-000"
    exit_code = 1

    def __init__(self, message: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.why = why
        self.fix = fix


class UsageError(ClickwellError):
    """The call is wrong; asking again as it stands cannot help."""

    code = "CW-100"
    exit_code = 2


class SettingsError(UsageError):
    """A setting is missing, malformed or contradicts another one."""

    code = "CW-101"


class InputError(UsageError):
    """A file cannot be read or is not of the format that was named."""

    code = "CW-102"


class DependencyError(ClickwellError):
    """Something that clickwell needs is away or unfit; the same call may succeed later."""

    code = "CW-200"
    exit_code = 4


class KafkaError(DependencyError):
    """The broker cannot be reached, or a topic is not what is needed."""

    code = "CW-201"


class TopicRecreatedError(KafkaError):
    """A topic was deleted and created again: the stored offsets belong to the old one."""

    code = "CW-202"


class BufferFullError(KafkaError):
    """The emitter's bounded memory and spool are full; the event was refused, not lost silently."""

    code = "CW-203"


class RedisError(DependencyError):
    """Redis cannot be reached, or is configured so that it would lose counts silently."""

    code = "CW-210"


class StackError(DependencyError):
    """The local stack could not be started."""

    code = "CW-220"


class LakeError(DependencyError):
    """The lake cannot be read or written."""

    code = "CW-230"


class NoTableError(LakeError):
    """The lake holds no such table yet: nothing of the kind has been written."""

    code = "CW-231"


class LayoutError(ClickwellError):
    """The counters in Redis were built with other settings than those now in force."""

    code = "CW-301"
    exit_code = 3


class LeakError(ClickwellError):
    """Training data knows something of the data that it will be tested on."""

    code = "CW-302"
    exit_code = 3


class DecodeError(ClickwellError):
    """One event is not valid.

    Attributes:
        reason: a short stable name such as `bad_json` or `future_timestamp`; it is the dead letter's reason.
        field: the first offending field, empty when the event as a whole is unreadable.
    """

    code = "CW-400"

    def __init__(self, reason: str, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field
