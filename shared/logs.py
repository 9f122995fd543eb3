"""Structured logs: JSON lines in containers, readable on a terminal, one line per thing worth knowing.

The client library's own logger speaks several times a second while a broker is away; it goes through
`FoldRepeats`, which lets the first of each kind through and then a count.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import TextIO, cast

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from shared.settings import LogSettings

Logger = structlog.stdlib.BoundLogger

_FOLD_SECONDS = 10.0
_FOLD_KINDS = 1_000


class FoldRepeats(logging.Filter):
    """Let one record of each kind (logger, level, template) through every `seconds`.

    The next one that passes carries `folded`, the number that were held back since. At most
    `kinds` kinds are told apart; beyond that the memory starts anew.
    """

    def __init__(
        self, *, seconds: float = _FOLD_SECONDS, kinds: int = _FOLD_KINDS, clock: Callable[[], float]
    ) -> None:
        super().__init__()
        self._seconds = seconds
        self._kinds = kinds
        self._clock = clock
        self._seen: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether `record` passes, and note how many like it did not."""
        kind = (record.name, record.levelno, str(record.msg))
        now = self._clock()
        last, held = self._seen.get(kind, (None, 0))
        if last is not None and now - last < self._seconds:
            self._seen[kind] = (last, held + 1)
            return False
        if len(self._seen) >= self._kinds:
            self._seen.clear()
        self._seen[kind] = (now, 0)
        if held:
            record.msg = f"{record.getMessage()} [{held} like it held back]"
            record.args = ()
        return True


class KeepBelowErrors(logging.Filter):
    """Let a library's records through as warnings at most.

    The client library calls an error what we bear, or what we end for with a line of our own. Whether
    something is an error is the service's to say.
    """

    def __init__(self, library: str) -> None:
        super().__init__()
        self._library = logging.Filter(library)

    def filter(self, record: logging.LogRecord) -> bool:
        """Lower the record's level where it is the library's, and let it pass."""
        if record.levelno > logging.WARNING and self._library.filter(record):
            record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)
        return True


def _encode_line(event: EventDict, **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


def configure(settings: LogSettings, *, service: str, stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging for this process. Called once, by `__main__`.

    Args:
        settings: level and format.
        service: named in every line.
        stream: standard output where None.
    """
    out = stream or sys.stdout
    as_json = settings.format == "json" or (settings.format is None and not out.isatty())
    level = logging.getLevelNamesMapping()[settings.level.upper()]

    def add_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("service", service)
        return event

    shared_processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
    ]
    if as_json:
        # Without the frames' variables: a password may be among them.
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        shared_processors.append(structlog.processors.ExceptionRenderer(tracebacks))
        renderer: Processor = structlog.processors.JSONRenderer(serializer=_encode_line)
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=out.isatty(), exception_formatter=structlog.dev.RichTracebackFormatter(show_locals=False)
        )
    structlog.configure(
        processors=[*shared_processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared_processors, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    handler.addFilter(KeepBelowErrors("aiokafka"))
    handler.addFilter(FoldRepeats(clock=time.monotonic))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def get(name: str) -> Logger:
    """Return the logger of one module."""
    return cast("Logger", structlog.get_logger(module=name))
