"""Notices from another thread that the event loop does not go round, says where, and ends the process.

A blocked event loop can neither answer nor say anything, nor hear a SIGTERM. So the HTTP server's thread
looks at its heartbeat. What it does, and after how long, is in docs/decisions/0013-liveness.md.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable

from shared.health import EVENT_LOOP, Health
from shared.logs import Logger

TICK_SECONDS = 0.5
# The shortest pause between two looks that nothing but a frozen process explains.
_FROZEN_SECONDS = 1.5
_SAID_SECONDS = 10.0
_ENDED_AFTER_STALLS = 2
_EXIT_CODE = 1
_LAST_LINE_SECONDS = 1.0


class LoopWatch:
    """Looks at the event loop of the thread that makes it.

    Args:
        health: takes the heartbeat of `EVENT_LOOP`, and is told of times in which the process was frozen.
        clock: monotonic seconds.
        end: ends the process at once, with an exit code.
    """

    def __init__(
        self,
        health: Health,
        *,
        clock: Callable[[], float],
        log: Logger,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._health = health
        self._clock = clock
        self._log = log
        self._end = end
        self._watched_thread = threading.get_ident()
        self._looked_at = clock()
        self._said = False

    @property
    def said_after_seconds(self) -> float:
        """When the loop is called blocked, and its stack logged."""
        return min(_SAID_SECONDS, self._health.stall_seconds)

    @property
    def ended_after_seconds(self) -> float:
        """When the process is ended: a supervisor that asks `/livez` has had its time by then."""
        return _ENDED_AFTER_STALLS * self._health.stall_seconds

    def look(self) -> None:
        """Look at the heartbeat. To be called every `TICK_SECONDS`, and before each verdict.

        It never blocks for more than a second: the log may be what the event loop is stuck in.
        """
        now = self._clock()
        pause, self._looked_at = now - self._looked_at, now
        if pause > _FROZEN_SECONDS:
            self._health.thawed(pause)
        late = self._health.seconds_since_beat(EVENT_LOOP)
        if late <= self.said_after_seconds:
            self._said = False
            return
        if not self._said:
            self._said = True
            self._say("event_loop_blocked", seconds=round(late, 1), stack=self._stack())
        if late > self.ended_after_seconds:
            reason = f"the event loop has not gone round for {late:.0f} s, in {self._where()}"
            self._say("stopped", reason=reason, exit_code=_EXIT_CODE)
            self._end(_EXIT_CODE)

    def _say(self, event: str, **fields: object) -> None:
        line = threading.Thread(target=self._log.error, args=(event,), kwargs=fields, daemon=True)
        line.start()
        line.join(_LAST_LINE_SECONDS)
        # Where the log can't be written to, it does without.
        self._looked_at = self._clock()

    def _stack(self) -> list[str]:
        frame = sys._current_frames().get(self._watched_thread)  # noqa: SLF001 — its only name
        return [] if frame is None else [line.rstrip() for line in traceback.format_stack(frame)]

    def _where(self) -> str:
        frame = sys._current_frames().get(self._watched_thread)  # noqa: SLF001
        if frame is None:
            return "a thread that is gone"
        return f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
