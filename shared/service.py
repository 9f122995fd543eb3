"""The frame of a service: run → serve → its own main; signals, exit codes, and the last log line.

```
run            a fresh event loop, the exit code
└── _serve     signals, the last log line
    └── main   the service: starts, works until `stopping` is set, drains, returns
```
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable

import msgspec
import uvloop

from shared import abandoned, logs
from shared.errors import AccessRefusedError, BadConfigurationError, TandemError
from shared.kafka import principal
from shared.logs import Logger
from shared.settings import Group, KafkaSettings, LogSettings, Settings, load

STOPPED_AS_ASKED = 0
FAILED = 1
BAD_CONFIGURATION = 2


Main = Callable[[asyncio.Event], Awaitable[None]]


def start(
    name: str, groups: tuple[type[Group], ...], make_main: Callable[[Settings], Main], arguments: list[str]
) -> int:
    """Load the settings, set up the logs, run the service, and return its exit code.

    Args:
        name: of the service.
        groups: of settings that it reads.
        make_main: wires the service.
        arguments: of the command line; `--print-config` shows the effective settings, one JSON object a
            line, secrets masked, and ends.
    """
    try:
        settings = load(*groups)
    except BadConfigurationError as error:
        logs.configure(LogSettings(), service=name)
        logs.get(name).error("stopped", reason=str(error), exit_code=BAD_CONFIGURATION)
        return BAD_CONFIGURATION
    if arguments == ["--print-config"]:
        for origin in settings.origins:
            sys.stdout.write(msgspec.json.encode(origin).decode() + "\n")
        return STOPPED_AS_ASKED
    logs.configure(settings[LogSettings], service=name)
    log = logs.get(name)
    if arguments:
        log.error("stopped", reason=f"unknown arguments {arguments}", exit_code=BAD_CONFIGURATION)
        return BAD_CONFIGURATION
    try:
        main = make_main(settings)
    except BadConfigurationError as error:  # a file that a setting names is of no use
        log.error("stopped", reason=str(error), exit_code=BAD_CONFIGURATION)  # noqa: TRY400 — the text says it
        return BAD_CONFIGURATION
    return run(main, log=log, known_as=principal(settings[KafkaSettings]))


def run(main: Main, *, log: Logger, known_as: str = "") -> int:
    """Run a service to its end and return its exit code.

    `known_as`: who it is to Kafka, for the last line of one that was refused.

    The first SIGTERM or SIGINT sets the event that `main` is given; a second one ends the process at
    once: what was not committed is done again by whoever gets the partitions next.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        exit_code = runner.run(_serve(main, log, known_as))
        # The last line is said. What is freed from here on has nobody left whom it could concern.
        logging.getLogger("asyncio").disabled = True
        return exit_code


async def _serve(main: Main, log: Logger, known_as: str) -> int:
    stopping = asyncio.Event()

    def on_signal(name: str) -> None:
        if stopping.is_set():
            log.error("stopped", reason=f"{name} again: ended at once", exit_code=FAILED)
            os._exit(FAILED)
        log.info("stopping", signal=name)
        stopping.set()

    loop = asyncio.get_running_loop()
    abandoned.keep_quiet(loop, log)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number.name)
    try:
        await main(stopping)
    except BadConfigurationError as error:
        log.error("stopped", reason=str(error), exit_code=BAD_CONFIGURATION)  # noqa: TRY400 — the text says it
        return BAD_CONFIGURATION
    except AccessRefusedError as error:
        log.error("stopped", reason=str(error), principal=known_as, exit_code=FAILED)  # noqa: TRY400
        return FAILED
    except TandemError as error:
        log.error("stopped", reason=str(error), exit_code=FAILED)  # noqa: TRY400
        return FAILED
    except Exception as error:
        log.exception("stopped", reason=f"unexpected: {error!r}", exit_code=FAILED)
        return FAILED
    log.info("stopped", reason="as asked", exit_code=STOPPED_AS_ASKED)
    return STOPPED_AS_ASKED
