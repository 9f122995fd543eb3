"""Errors, named for what whoever catches them must do.

```
TandemError
├── BadConfigurationError   say all of it, exit 2
├── StopServiceError        say it as the last log line, exit 1
│   ├── AccessRefusedError  a wrong password, protocol or permission: no retry will help
│   └── StateInDoubtError   look once more, then say it and exit 1
├── KafkaUnavailableError   bear it until KAFKA_UNAVAILABLE_SECONDS is over, then stop the service
├── RebuildTaskError        close the task dirty and build it again from what is committed
│   └── TaskFencedError     the same, after a pause: somebody else owns the partition
└── RejectedError           the record goes to the dead letters, the stream goes on
```
"""

from __future__ import annotations


class TandemError(Exception):
    """The root of the tree. Its text is written for the operator who reads it."""


class BadConfigurationError(TandemError):
    """The settings are wrong. `problems` holds one line each; the process exits with 2."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n  ".join([f"{count} in the configuration:", *problems]))


class StopServiceError(TandemError):
    """Nothing this process can do mends it. It stops with 1 and its supervisor decides."""


class AccessRefusedError(StopServiceError):
    """Kafka answered, and refused: password, certificate, protocol or permission."""


class StateInDoubtError(StopServiceError):
    """State and committed offset do not belong together, as far as Kafka's answers go."""


class KafkaUnavailableError(TandemError):
    """No answer from Kafka, or none that helps. To be tried again, within a bound."""


class RebuildTaskError(TandemError):
    """A transaction failed, or its outcome is in doubt. What is committed is the truth."""


class TaskFencedError(RebuildTaskError):
    """Another producer with this task's transactional id came after this one."""


class RejectedError(TandemError):
    """A record that is not what its topic promises. The text is the dead letter's reason.

    `index` is the record's place in the batch that was looked at.
    """

    def __init__(self, reason: str, index: int = 0) -> None:
        super().__init__(reason)
        self.index = index


class StateFullError(RejectedError):
    """A record that needs a new state key beyond `PROCESSOR_STATE_MAX_KEYS`."""
