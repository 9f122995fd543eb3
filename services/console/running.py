"""The frame of a command: settings, logs, an event loop, and errors as exit codes."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn

import click

from services.console.output import Output
from services.console.settings import GROUPS, ConsoleSettings
from shared import logs
from shared.errors import AccessRefusedError, BadConfigurationError, TandemError
from shared.kafka import principal
from shared.logs import Logger
from shared.service import BAD_CONFIGURATION, FAILED, STOPPED_AS_ASKED
from shared.settings import Group, KafkaSettings, LogSettings, Settings, load


@dataclass(frozen=True)
class Tools:
    """What a command works with."""

    settings: Settings
    out: Output
    log: Logger

    @property
    def kafka(self) -> KafkaSettings:
        """How Kafka is reached."""
        return self.settings[KafkaSettings]

    @property
    def console(self) -> ConsoleSettings:
        """The console's own settings."""
        return self.settings[ConsoleSettings]


def execute(
    work: Callable[[Tools], Awaitable[int]],
    *,
    as_json: bool = False,
    until_interrupted: bool = False,
    groups: tuple[type[Group], ...] = GROUPS,
) -> NoReturn:
    """Run a command to its end and leave with its exit code.

    Args:
        work: returns the exit code. An interruption (SIGINT, SIGTERM) cancels it.
        as_json: print one JSON object a line.
        until_interrupted: an interruption is the command's proper end, exit code 0; else it is 1.
        groups: of settings that have to be right.
    """
    out = Output(as_json=as_json)
    try:
        settings = load(*groups)
        tools = Tools(
            settings, out, _logger(settings[LogSettings] if LogSettings in groups else LogSettings())
        )
        with asyncio.Runner() as runner:
            code = runner.run(_interruptible(_saying_who_we_are(work, tools)))
    except BadConfigurationError as error:
        out.error(str(error))
        code = BAD_CONFIGURATION
    except TandemError as error:
        out.error(str(error))
        code = FAILED
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = STOPPED_AS_ASKED if until_interrupted else FAILED
        if code:
            out.error("interrupted")
    sys.exit(code)


async def _saying_who_we_are(work: Callable[[Tools], Awaitable[int]], tools: Tools) -> int:
    try:
        return await work(tools)
    except AccessRefusedError as error:
        raise AccessRefusedError(f"{error} (to Kafka we are {principal(tools.kafka)})") from error


async def _interruptible(work: Awaitable[int]) -> int:
    """Await the work; SIGTERM and SIGINT cancel it, so that it can clean up."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    return await task


def _logger(settings: LogSettings) -> Logger:
    """Set up the logs on standard error: standard output is for what was asked for."""
    readable = settings.model_copy(update={"format": settings.format or "console"})
    logs.configure(readable, service="console", stream=sys.stderr)
    # A command says itself what is wrong, in one line; the client library says it many times a second.
    for name in ("aiokafka", "asyncio"):
        library = logging.getLogger(name)
        library.propagate = settings.level == "debug"
        if not library.handlers:
            library.addHandler(logging.NullHandler())  # Else Python's handler of last resort speaks up.
    return logs.get("console")


def json_option(function: Callable[..., None]) -> Callable[..., None]:
    """Add `--json` to a command."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object a line on standard output.")(
        function
    )
