"""Keeps one partition served: builds its task, and builds it again after any failure but a final one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from services.processor.observation import PartitionObserver
from services.processor.sending import Limits, TooLargeError
from services.processor.task import Gate, Task
from services.processor.topology import Place
from shared.connecting import Patience
from shared.errors import (
    KafkaUnavailableError,
    RebuildTaskError,
    StateInDoubtError,
    StopServiceError,
    TaskFencedError,
)
from shared.logs import Logger

# After being fenced: long enough for the group to agree on who has the partition now.
_FENCED_PAUSE_SECONDS = 3.0
# A coordinator that was frozen and replaced may answer out of the past until it hears of that.
_DOUBT_SECONDS = 5.0
_CLOSE_SECONDS = 4.0


class Build(Protocol):
    """Builds a task that keeps within `limits`."""

    def __call__(self, *, limits: Limits) -> Task:
        """Return a task that has not been run."""


class Keeper:
    """Keeps one partition served, from `start` until its gate says that it is lost or to be stopped.

    Args:
        build: builds a task, as often as it takes.
        limits: of the first one; after a refusal for size they are lowered, for as long as this lives.
        patience: how long what keeps failing is borne.
        longest_pause_seconds: asked for before each pause between two builds.
        on_failure: is told what has to end the process.

    Attributes:
        gate: its `lost` ends the keeper.
        job: what runs.
    """

    job: asyncio.Task[None]

    def __init__(
        self,
        place: Place,
        gate: Gate,
        *,
        build: Build,
        limits: Limits,
        observer: PartitionObserver,
        patience: Patience,
        longest_pause_seconds: Callable[[], float],
        on_failure: Callable[[StopServiceError], None],
        log: Logger,
    ) -> None:
        self.gate = gate
        self._name = f"{place.topic}:{place.partition}"
        self._build = build
        self._limits = limits
        self._observer = observer
        self._patience = patience
        self._longest_pause_seconds = longest_pause_seconds
        self._fail = on_failure
        self._log = log

    def start(self, *, after: set[asyncio.Task[None]]) -> None:
        """Begin. `after` are the keepers that this partition had before and that have not ended yet."""
        self._observer.opening()
        self.job = asyncio.create_task(self._serve(after), name=self._name)
        self.job.add_done_callback(lambda _: None if self.gate.ends() else self._fail(self._unserved()))

    async def _serve(self, before: set[asyncio.Task[None]]) -> None:
        gate, observer = self.gate, self._observer
        if before:
            # The partition was ours a moment ago: its producer has to be closed first.
            await asyncio.wait(before, timeout=_CLOSE_SECONDS)
            observer.opening()
        try:
            await self._rebuild_until_done()
        except StopServiceError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 — a keeper would end in silence; the process stops
            self._log.exception("task_failed", input=self._name)
            self._fail(StopServiceError(f"unexpected in {self._name}: {error!r}"))
        finally:
            if gate.lost.is_set():
                observer.gone()
            elif gate.stopping.is_set():
                observer.stopped()

    async def _rebuild_until_done(self) -> None:
        gate = self.gate
        loop = asyncio.get_running_loop()
        in_doubt_since: float | None = None
        while not gate.ends():
            task = self._build(limits=self._limits)
            try:
                await task.run()
            except StateInDoubtError as error:
                in_doubt_since = loop.time() if in_doubt_since is None else in_doubt_since
                if loop.time() - in_doubt_since >= _DOUBT_SECONDS:
                    raise
                reason, why = "in_doubt", str(error)
            except (KafkaUnavailableError, RebuildTaskError, asyncio.CancelledError) as error:
                reason, why = _reaction(error)
                in_doubt_since = None
                if isinstance(error, TooLargeError):
                    self._limits = self._limits.lowered()
            else:
                return
            if task.was_of_use:
                self._patience.worked()
            # What keeps failing is borne as long as a Kafka that does not answer.
            seconds = min(self._patience.failed(f"{self._name}: {why}"), self._longest_pause_seconds())
            if reason == "fenced":
                seconds = max(seconds, _FENCED_PAUSE_SECONDS)
            self._observer.rebuilt(reason)
            self._observer.opening()
            self._log.warning("task_rebuilt", input=self._name, reason=why, pause_seconds=seconds)
            await pause(seconds, gate.lost, gate.stopping)

    def _unserved(self) -> StopServiceError:
        return StopServiceError(f"{self._name} is ours and nothing serves it any more")


async def pause(seconds: float, *ends: asyncio.Event) -> None:
    """Wait, or until one of `ends` is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in ends]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)


def _reaction(error: BaseException) -> tuple[str, str]:
    """Return the kind of a failure that a new task may mend, and its text.

    Raises:
        CancelledError: it is this job's own. Otherwise the client let one of its cancellations out.
    """
    if isinstance(error, asyncio.CancelledError):
        this = asyncio.current_task()
        if this is None or this.cancelling():
            raise error
        return "in_doubt", "cancelled inside the client"
    if isinstance(error, TaskFencedError):
        return "fenced", str(error)
    return "unavailable" if isinstance(error, KafkaUnavailableError) else "in_doubt", str(error)
