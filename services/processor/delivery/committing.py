"""Commits what is finished, and knows by that whether this process is still the one to deliver.

A member that the group has expelled hears of it late, or not at all while it can't reach the coordinator, and
the next owner delivers meanwhile. A commit that Kafka takes says that we are a member, and keeps us one for a
session, or as long as a rebalance waits. So nothing is delivered for longer than that after the last one: the
lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from aiokafka.structs import TopicPartition

from services.processor.delivery.unfinished import Unfinished
from services.processor.group_commits import GroupCommits
from services.processor.replay import Writer
from services.processor.sending import FAILURES
from shared.errors import KafkaUnavailableError, RebuildTaskError, TandemError
from shared.kafka import Permission, refusal
from shared.logs import Logger

_COMMIT_SECONDS = 0.5
_LEAST_SECONDS = 0.1
_AFTER_FAILURE_SECONDS = 0.25


class Committer:
    """Commits for one session.

    Args:
        commits: of the group.
        lease_seconds: how long Kafka keeps the partitions for a member at least, counted from a commit.
        deadline_seconds: of a commit.
        needs: the permissions that it takes.
        is_wanted: says whether there is anything to be delivered, for which a lease is needed.
        on_lease: called when there is one again.
        on_lost: called when there is none any more: what is under way is to be cut off.
        on_committed: called after each commit.

    Attributes:
        unfinished: by partition; a partition is in it from `begin` on.
    """

    def __init__(
        self,
        commits: GroupCommits,
        *,
        topic: str,
        group: str,
        lease_seconds: float,
        deadline_seconds: float,
        needs: Sequence[Permission],
        is_wanted: Callable[[], bool],
        on_lease: Callable[[], None],
        on_lost: Callable[[], None],
        on_committed: Callable[[], None],
        log: Logger,
    ) -> None:
        self.unfinished: dict[TopicPartition, Unfinished] = {}
        self._commits = commits
        self._topic = topic
        self._group = group
        self._lease_seconds = lease_seconds
        self._deadline_seconds = deadline_seconds
        self._needs = needs
        self._is_wanted = is_wanted
        self._on_lease = on_lease
        self._on_lost = on_lost
        self._on_committed = on_committed
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._member_at = self._loop.time()
        self._is_gone = False
        self._due = asyncio.Event()
        self._writer: Writer | None = None
        self._committed: dict[TopicPartition, int | None] = {}

    def begin(self, place: TopicPartition, offset: int, *, committed: int | None) -> None:
        """Note where a partition begins, and what the group has committed of it.

        Raises:
            KafkaUnavailableError: it is not assigned to this process just now.
        """
        if self._writer is None:
            self._writer = self._commits.writer(place)
        self._committed[place] = committed
        self.unfinished[place] = Unfinished(offset)

    @property
    def has_lease(self) -> bool:
        """Whether this process is known to be a member, so that it may deliver."""
        return self.lease_left_seconds > 0

    @property
    def lease_left_seconds(self) -> float:
        """How long this process may deliver without another commit."""
        left = self._member_at + self._lease_seconds - self._loop.time()
        return 0.0 if self._is_gone else max(left, 0.0)

    def commit_soon(self) -> None:
        """Commit without waiting for the next round."""
        self._due.set()

    async def run(self) -> None:
        """Commit until cancelled, or until the assignment is gone.

        Raises:
            StopServiceError: Kafka refuses.
        """
        while True:
            await self._next_round()
            if self._is_wanted() and not self.has_lease:
                # Before the commit, which may take its whole deadline.
                self._on_lost()
            try:
                await self.commit()
            except KafkaUnavailableError as error:
                # Tried again with the next round; the watch keeps the patience.
                self._log.warning("delivery_not_committed", topic=self._topic, reason=str(error))
                # What fails at once is not asked again at once.
                await asyncio.sleep(_AFTER_FAILURE_SECONDS)
            except RebuildTaskError as error:
                # The next session begins with what is committed.
                self._log.warning("delivery_not_committed", topic=self._topic, reason=str(error))
                self._is_gone = True
                self._on_lost()
                return
            if self._is_wanted() and not self.has_lease:
                self._on_lost()

    async def _next_round(self) -> None:
        left = self._member_at + self._lease_seconds - self._loop.time()
        seconds = min(_COMMIT_SECONDS, left) if left > 0 else _COMMIT_SECONDS
        try:
            async with asyncio.timeout(seconds):
                await self._due.wait()
        except TimeoutError:
            return  # The usual one.
        finally:
            self._due.clear()

    async def commit(self, *, seconds: float | None = None) -> None:
        """Commit what moved; where nothing did and the lease is wanted, what is committed already.

        It ends with the lease, if there is one, or within `seconds`.

        Raises:
            RebuildTaskError: the assignment is gone.
            KafkaUnavailableError: no answer.
            StopServiceError: Kafka refuses.
        """
        offsets = {place: one.committable for place, one in self.unfinished.items()}
        moved = {place: offset for place, offset in offsets.items() if offset != self._committed[place]}
        now = self._loop.time()
        left = self._member_at + self._lease_seconds - now
        if not moved and offsets and self._is_wanted() and left < self._lease_seconds - _COMMIT_SECONDS:
            moved = dict([next(iter(offsets.items()))])
        if not moved:
            return
        assert self._writer is not None, "a partition has begun"
        bound = seconds if seconds is not None else self._deadline_seconds
        if left > 0:
            bound = min(bound, max(left, _LEAST_SECONDS))
        try:
            async with asyncio.timeout(bound):
                await self._commits.commit_all(moved, writer=self._writer)
        except FAILURES as error:
            raise self._failure(error) from error
        # As it is now: it may have ended while the commit was under way.
        had_lease = self.has_lease
        # From when it was sent on: Kafka has taken it later than that.
        self._member_at = max(self._member_at, now)
        self._committed |= moved
        for place, offset in moved.items():
            self.unfinished[place].committed(offset)
        self._on_committed()
        if not had_lease:
            self._on_lease()

    def _failure(self, error: BaseException) -> TandemError:
        doing = f"commit as group {self._group}"
        refused = refusal(error, doing=doing, needs=self._needs)
        return refused or KafkaUnavailableError(f"could not {doing}: {error!r}")
