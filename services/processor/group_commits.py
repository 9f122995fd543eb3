"""The group's offsets: asked for without mistaking an error for their absence, and committed as a member.

The client takes an answer that says "the coordinator is loading", or "is elsewhere now", for one without
offsets: it looks at the errors of partitions, and this one stands beside them. After a broker was frozen or
restarted, a group would thus seem never to have committed. `committed_offset` looks at it.

Commits are made as at_least_once does: never for an assignment that is gone.
The client commits with the generation it has at that moment, whoever asked and whenever. A commit that is
repeated across a rebalance would thus be taken for one of the new assignment. So each commit names the
assignment it is for, and what still runs when a rebalance begins is ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import KafkaError, NoError, NotCoordinatorForGroupError, for_code
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.structs import TopicPartition

from services.processor.replay import Writer
from shared.errors import KafkaUnavailableError, RebuildTaskError

_RETRY_SECONDS = 0.1
_NO_OFFSET = -1


async def committed_offset(consumer: Any, group: str, place: TopicPartition) -> int | None:
    """Return the group's committed offset of a partition, or None where it has none.

    It asks until there is an answer: the caller sets the deadline.

    Raises:
        KafkaError: one that does not pass by itself.
    """
    coordinator = consumer._coordinator  # noqa: SLF001
    while True:
        await coordinator.ensure_coordinator_known()
        try:
            answer = await coordinator._send_req(  # noqa: SLF001
                OffsetFetchRequest(group, [(place.topic, [place.partition])])
            )
            return _offset_in(answer, group)
        except NotCoordinatorForGroupError:
            coordinator.coordinator_dead()
        except KafkaError as error:
            if not error.retriable:
                raise
        await asyncio.sleep(_RETRY_SECONDS)


def _offset_in(answer: Any, group: str) -> int | None:
    codes = [getattr(answer, "error_code", 0)]
    partitions = [one for _, found in answer.topics for one in found]
    codes += [code for _, _, _, code in partitions]
    for error in map(for_code, codes):
        if error is not NoError:
            raise error(group)
    ((_, offset, _, _),) = partitions
    return None if offset == _NO_OFFSET else int(offset)


@dataclass(frozen=True)
class _Assignment:
    """What one rebalance gave to this process, and as whom."""

    consumer: Any
    generation: int
    member: str
    places: frozenset[TopicPartition]


class GroupCommits:
    """Commits of one process in one group, from one assignment to the next."""

    def __init__(self) -> None:
        self._assignment: _Assignment | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._builds = itertools.count(1)

    def begin(self, consumer: Any, places: Iterable[TopicPartition]) -> None:
        """Note what was assigned to `consumer`. To be called in the callback that says so."""
        coordinator = consumer._coordinator  # noqa: SLF001 — the client does not tell its generation
        # Ids of members are long, and each changelog record carries this.
        member = hashlib.blake2s(coordinator.member_id.encode(), digest_size=6).hexdigest()
        self._assignment = _Assignment(consumer, coordinator.generation, member, frozenset(places))

    def end(self) -> None:
        """Commit no more, and end what is under way: the assignment is gone."""
        self._assignment = None
        for commit in self._running:
            commit.cancel()

    def writer(self, place: TopicPartition) -> Writer:
        """Return who writes for `place` from now on.

        Raises:
            KafkaUnavailableError: it is not assigned to this process just now.
        """
        assignment = self._assignment
        if assignment is None or place not in assignment.places or not _is_current(assignment):
            raise KafkaUnavailableError(f"{place.topic}:{place.partition} is not assigned to us just now")
        return Writer(assignment.generation, assignment.member, next(self._builds))

    async def commit(self, place: TopicPartition, offset: int, *, writer: Writer) -> None:
        """Commit one offset; see `commit_all`."""
        await self.commit_all({place: offset}, writer=writer)

    async def commit_all(self, offsets: Mapping[TopicPartition, int], *, writer: Writer) -> None:
        """Commit offsets, at least one, under the assignment that `writer` was made for.

        It waits for ever for a broker that is gone: the caller sets the deadline.

        Raises:
            RebuildTaskError: that assignment is gone, or went meanwhile.
            KafkaError: as the client raises it.
        """
        assignment = self._assignment
        if assignment is None or not _is_of(writer, assignment) or not offsets.keys() <= assignment.places:
            raise _gone(offsets)
        commit = asyncio.ensure_future(assignment.consumer.commit(dict(offsets)))
        self._running.add(commit)
        try:
            await commit
        except asyncio.CancelledError:
            this = asyncio.current_task()
            if this is None or this.cancelling():
                raise
            raise _gone(offsets) from None  # `end` did it.
        finally:
            self._running.discard(commit)
        # An expired member is without a generation for a moment, and a group without members takes that.
        if self._assignment is not assignment or not _is_current(assignment):
            raise _gone(offsets)


def _is_of(writer: Writer, assignment: _Assignment) -> bool:
    same = (writer.generation, writer.member) == (assignment.generation, assignment.member)
    return same and _is_current(assignment)


def _is_current(assignment: _Assignment) -> bool:
    return bool(assignment.consumer._coordinator.generation == assignment.generation)  # noqa: SLF001


def _gone(places: Iterable[TopicPartition]) -> RebuildTaskError:
    names = ", ".join(f"{place.topic}:{place.partition}" for place in places)
    return RebuildTaskError(f"the group has rebalanced: the offset of {names} is not ours to commit")
