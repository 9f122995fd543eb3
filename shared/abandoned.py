"""What the client library leaves behind when it is cut off: tasks and futures nobody will look at again.

A client whose broker is gone, or that was refused, can't be stopped in order, and `shared.connecting` cuts
it off then. What is left of it is noticed by the event loop when its memory is freed, even after a
service's last line, and looks like an error of ours. It is none: what it had pending was given up on purpose.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiokafka
from aiokafka.errors import KafkaError

from shared.logs import Logger

_CLIENT_FOLDER = str(Path(aiokafka.__file__).parent)


def keep_quiet(loop: asyncio.AbstractEventLoop, log: Logger) -> None:
    """Let `loop` say at debug what is the client's, and all else as it always does."""

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if is_clients(context):
            error = context.get("exception")
            log.debug(
                "client_left_behind", what=context["message"], reason=None if error is None else repr(error)
            )
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)


def is_clients(context: dict[str, Any]) -> bool:
    """Say whether what an event loop complains about is a leftover of the client library.

    `context`: as exception handlers of event loops are given it. A task is the client's if its coroutine
    is; a bare future, if it holds an error of Kafka's: the services await each of those they make.
    """
    left = context.get("task") or context.get("future")
    if isinstance(left, asyncio.Task):
        code = getattr(left.get_coro(), "cr_code", None)
        return code is not None and str(code.co_filename).startswith(_CLIENT_FOLDER)
    return left is not None and isinstance(context.get("exception"), KafkaError)
