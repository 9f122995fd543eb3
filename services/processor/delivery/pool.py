"""The workers: each delivers one parcel at a time, of whichever session has one that is ready."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from services.processor.delivery.identity import identity
from services.processor.delivery.lanes import Lanes, Parcel
from services.processor.delivery.letters import DeadLetters, UndeliverableError
from services.processor.delivery.meter import DeliveryMeter
from services.processor.delivery.retrying import Retrying
from services.processor.delivery.webhook import Answer, Outcome, Webhook
from shared.logs import Logger


class Session(Protocol):
    """One assignment of one topic, as the workers see it."""

    @property
    def topic(self) -> str:
        """Its topic's name, without prefix."""

    @property
    def lanes(self) -> Lanes:
        """What is to be delivered."""

    def may_deliver(self) -> bool:
        """Say whether what it gave out may be delivered now."""

    def take(self, now: float) -> Parcel | None:
        """Return a parcel that may be delivered now."""

    def wakes_at(self) -> float | None:
        """Return when a parcel that sleeps may be delivered, or None."""

    @property
    def meter(self) -> DeliveryMeter:
        """Told what comes of it."""

    def finished(self, parcel: Parcel) -> None:
        """Note that a parcel was delivered, or is in the dead letters."""


class Pool:
    """Delivers what its sessions hold, with so many attempts at a time.

    Args:
        workers: how many.
        prefix: of every topic, `KAFKA_TOPIC_PREFIX`.
        letters: where goes what is given up.
    """

    def __init__(
        self,
        workers: int,
        webhook: Webhook,
        retrying: Retrying,
        letters: DeadLetters,
        *,
        prefix: str,
        log: Logger,
    ) -> None:
        self._prefix = prefix
        self._workers = workers
        self._webhook = webhook
        self._retrying = retrying
        self._letters = letters
        self._log = log
        self._loop = asyncio.get_running_loop()
        # In turns: a topic with much to deliver does not hold up another one.
        self._sessions: deque[Session] = deque()
        self._under_way: dict[asyncio.Task[None], Session] = {}
        self._changed = asyncio.Event()
        self._left_alone_until = 0.0

    def add(self, session: Session) -> None:
        """Begin to deliver what a session holds, now and later."""
        self._sessions.append(session)
        self._changed.set()

    def wake(self) -> None:
        """Note that a session has something new."""
        self._changed.set()

    async def remove(self, session: Session, *, seconds: float) -> None:
        """Begin nothing more of a session, and end what is under way: by itself within `seconds`, or cut off.

        When this returns, no attempt for it runs any more.
        """
        if session in self._sessions:
            self._sessions.remove(session)
        running = {attempt for attempt, of in self._under_way.items() if of is session}
        if not running:
            return
        _, late = await asyncio.wait(running, timeout=seconds)
        for attempt in late:
            attempt.cancel()
        if late:
            self._log.warning("delivery_cut_short", topic=session.topic, attempts=len(late), seconds=seconds)
            await asyncio.wait(late)

    def cut_off(self, session: Session) -> None:
        """Cut off what is under way for a session; it is tried again when the session gives it out again."""
        running = [attempt for attempt, of in self._under_way.items() if of is session]
        for attempt in running:
            attempt.cancel()
        if running:
            self._log.warning("delivery_cut_short", topic=session.topic, attempts=len(running))

    async def run(self) -> None:
        """Deliver until cancelled.

        Raises:
            StopServiceError: a dead letter can't be written.
        """
        workers = [asyncio.create_task(self._work(), name=f"worker {n}") for n in range(self._workers)]
        try:
            await asyncio.wait(workers, return_when=asyncio.FIRST_COMPLETED)
            for worker in workers:
                if worker.done():
                    worker.result()
        finally:
            for job in (*workers, *self._under_way):
                job.cancel()
            await asyncio.wait([*workers, *self._under_way])

    async def _work(self) -> None:
        while True:
            session, parcel = await self._next()
            attempt = asyncio.create_task(self._deliver(session, parcel))
            self._under_way[attempt] = session
            try:
                # Its end is not this worker's: a session that ends cuts its attempts off.
                await asyncio.wait({attempt})
            finally:
                self._under_way.pop(attempt, None)
                attempt.cancel()
            if attempt.cancelled():
                # The receiver may have taken it all the same: its key tells.
                self._later(session, parcel, 0)
            else:
                attempt.result()

    async def _next(self) -> tuple[Session, Parcel]:
        while True:
            self._changed.clear()
            now = self._loop.time()
            if now >= self._left_alone_until:
                for _ in range(len(self._sessions)):
                    session = self._sessions[0]
                    self._sessions.rotate(-1)
                    parcel = session.take(now)
                    if parcel is not None:
                        return session, parcel
            await self._something_changes(now)

    async def _something_changes(self, now: float) -> None:
        """Wait until a parcel may be ready that was not at `now`."""
        if now < self._left_alone_until:
            wakes_at: float | None = self._left_alone_until
        else:
            # One without a lease gives nothing out, whatever wakes; it says when it has one again.
            wakes = [session.wakes_at() for session in self._sessions]
            wakes_at = min((at for at in wakes if at is not None), default=None)
        try:
            async with asyncio.timeout_at(wakes_at):
                await self._changed.wait()
        except TimeoutError:
            return  # One that slept is ready.

    async def _deliver(self, session: Session, parcel: Parcel) -> None:
        """Try once. Afterwards the parcel is finished, or asleep."""
        record = parcel.sent_as
        topic = record.topic.removeprefix(self._prefix)
        about = {
            "Idempotency-Key": identity(topic, record),
            "Tandem-Topic": topic,
            "Tandem-Partition": str(record.partition),
            "Tandem-Offset": str(record.offset),
            "Tandem-Timestamp": str(record.timestamp),
            "Tandem-Attempt": str(parcel.attempts + 1),
        }
        began = self._loop.time()
        answer = await self._webhook.post(record.value or b"", about, may_send=session.may_deliver)
        if answer.outcome is not Outcome.UNSENT:
            session.meter.attempted(self._loop.time() - began)
        if answer.outcome is Outcome.DELIVERED:
            session.meter.delivered(record.timestamp)
            self._finish(session, parcel)
            return
        self._leave_alone(answer)
        if answer.outcome is Outcome.UNSENT or not session.may_deliver():
            # Whoever has a lease judges it: this session, when it gives it out again, or the next owner.
            self._later(session, parcel, 0)
            return
        parcel.attempts += 1
        session.meter.failed()
        pause = (
            self._retrying.pause(parcel.attempts, asked_seconds=answer.retry_after_seconds)
            if answer.outcome is Outcome.FAILED
            else None
        )
        where = f"{record.topic}:{record.partition}:{record.offset}"
        if pause is not None:
            self._log.info(
                "delivery_failed",
                record=where,
                attempt=parcel.attempts,
                reason=answer.reason,
                retry_seconds=round(pause, 3),
            )
            self._later(session, parcel, pause)
            return
        attempts = "1 attempt" if parcel.attempts == 1 else f"{parcel.attempts} attempts"
        error = UndeliverableError(f"given up after {attempts}: {answer.reason}")
        if await self._letters.put(record, error):
            self._log.warning("delivery_given_up", record=where, reason=str(error))
            session.meter.given_up()
            self._finish(session, parcel)

    def _leave_alone(self, answer: Answer) -> None:
        """Let the whole webhook rest where it asked for that: it is not about one record."""
        if answer.retry_after_seconds:
            seconds = self._retrying.asked(answer.retry_after_seconds)
            self._left_alone_until = max(self._left_alone_until, self._loop.time() + seconds)

    def _later(self, session: Session, parcel: Parcel, seconds: float) -> None:
        session.lanes.later(parcel, self._loop.time() + seconds)
        self._changed.set()

    def _finish(self, session: Session, parcel: Parcel) -> None:
        session.lanes.done(parcel)
        session.finished(parcel)
        self._changed.set()
