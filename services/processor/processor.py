"""One topology in this process: its membership, and a task for every partition it is assigned.

```
run ──▶ preflight ──▶ membership (joins, tells what is assigned)
                          │ assigned                       │ revoked
                          ▼                                ▼
                      one keeper a partition: builds its task, and builds it again after any failure
```
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from services.processor.kafka_watch import KafkaWatch
from services.processor.keeper import Keeper
from services.processor.membership import Membership
from services.processor.meters import TopologyMeter
from services.processor.observation import PartitionObserver, TopologyReport
from services.processor.preflight import Layout, look, partitions_changed, persistently
from services.processor.sending import Limits
from services.processor.settings import ProcessorSettings
from services.processor.task import Gate, Task
from services.processor.topology import Place, Topology
from shared.connecting import Patience
from shared.errors import StopServiceError
from shared.kafka import KafkaClients
from shared.logs import Logger

_REVOKE_SECONDS = 5.0
_CLOSE_SECONDS = 4.0
_TICK_SECONDS = 1.0
_UNKNOWN_BORNE_SECONDS = 15.0
_BEAT_BOUND_SECONDS = 15.0


class MakeTask(Protocol):
    """Builds a task. What it sends keeps within `limits`."""

    def __call__(
        self,
        *,
        layout: Layout,
        membership: Membership,
        place: Place,
        gate: Gate,
        observer: PartitionObserver,
        served: Callable[[], int],
        limits: Limits,
    ) -> Task:
        """Return a task that has not been run. `served` says how many partitions this process has."""


class Processor:
    """Serves one topology until it is told to stop.

    Args:
        make_task: builds a task.
        on_metadata: told of metadata, see `Membership`.
        keeps_tasks: whether a partition that stays through a rebalance keeps its task: only where another
            owner in between would have fenced it.
        patience: makes the measure of how long an absent Kafka is borne.
    """

    def __init__(
        self,
        topology: Topology,
        clients: KafkaClients,
        settings: ProcessorSettings,
        *,
        make_task: MakeTask,
        on_metadata: Callable[[Any], None],
        keeps_tasks: bool,
        patience: Callable[[], Patience],
        report: TopologyReport,
        log: Logger,
    ) -> None:
        self._topology = topology
        self._clients = clients
        self._settings = settings
        self._make_task = make_task
        self._on_metadata = on_metadata
        self._keeps_tasks = keeps_tasks
        self._patience = patience
        self._report = report
        self._log = log
        self._keepers: dict[int, Keeper] = {}
        self._leaving: dict[asyncio.Task[None], int] = {}
        self._may_commit = asyncio.Event()
        self._layout: Layout | None = None
        self._membership: Membership | None = None
        self._unknown_since: float | None = None
        self._revoked_at: float | None = None
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._group = clients.settings.named(topology.group)
        self._assignment = f"an assignment of group {self._group}"
        self._meter = TopologyMeter(report.metrics, clients.settings.named(topology.input), report.clock)

    async def run(self, stopping: asyncio.Event) -> None:
        """Process until `stopping` is set, then finish what is in flight, commit, and leave the group.

        Raises:
            StopServiceError: the process has to end; partitions are let go of first.
        """
        patience = self._patience()
        self._stopping = stopping
        self._layout = await persistently(
            lambda: look(self._clients, self._topology, patience=patience, stopping=stopping, log=self._log),
            # Its own: a connection that succeeds says nothing about the question.
            patience=self._patience(),
            stopping=stopping,
        )
        if self._layout is None:
            return
        self._meter.partitions(self._layout.partitions)
        self._meter.kafka_answers(answers=True)
        self._membership = membership = Membership(
            self._clients,
            self._settings,
            topic=self._layout.input,
            group=self._group,
            on_revoked=self._hold,
            on_assigned=self._assign,
            on_poll=self._check_partitions,
            on_away=self._begin_to_wait,
            on_metadata=self._on_metadata,
            longest_round_seconds=self._report.health.round_seconds,
            patience=patience,
            stopping=stopping,
            log=self._log,
        )
        self._begin_to_wait()
        member = asyncio.create_task(membership.run(), name=f"membership {self._topology.name}")
        ticker = asyncio.create_task(self._tick(), name=f"report {self._topology.name}")
        watch = asyncio.create_task(
            self._kafka_watch(membership, patience).run(), name=f"watch {self._topology.name}"
        )
        try:
            await asyncio.wait({member, watch, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            for ended in (self._failed, watch, member):
                if ended.done():
                    ended.result()
        finally:
            await self._stop(member, [ticker, watch])

    async def _stop(self, member: asyncio.Task[None], helpers: list[asyncio.Task[None]]) -> None:
        """Not ready → tasks finish and commit → leave the group. Each step has its bound."""
        self._report.health.not_ready(self._topology.name, "draining")
        self._report.health.ended(f"membership {self._topology.name}")
        self._report.health.came(self._assignment)
        self._stopping.set()
        jobs = [keeper.job for keeper in self._keepers.values()] + list(self._leaving)
        await _end(jobs, self._settings.stop_seconds + _CLOSE_SECONDS, self._log)
        await _end([member], _CLOSE_SECONDS, self._log)
        if self._membership is not None:
            await self._membership.leave()
        for helper in helpers:
            helper.cancel()
        await asyncio.wait(helpers)
        if not self._failed.cancel():
            self._failed.exception()  # Seen: a failure that came second is not reported twice.
        self._report.health.ended(f"membership {self._topology.name}")
        self._report.close()

    async def _hold(self) -> None:
        """Before a rebalance: where nothing fences, no new transaction, and wait until none runs.

        Where a fence does, tasks go on until the group has decided: a partition that stays commits all
        the time, and one that is lost can't, once its next owner has opened it. The group may need as
        long as a dead member's session for it.
        """
        self._revoked_at = asyncio.get_running_loop().time()
        self._expect_assignment()
        self._meter.rebalancing()
        self._log.debug("revoked", group=self._group)
        if self._keeps_tasks:
            return
        self._may_commit.clear()
        ends = [asyncio.ensure_future(keeper.gate.idle.wait()) for keeper in self._keepers.values()]
        if ends:
            _, running = await asyncio.wait(ends, timeout=_REVOKE_SECONDS)
            for wait in running:
                wait.cancel()  # Its deadline is longer.

    def _assign(self, partitions: frozenset[int]) -> None:
        """After a rebalance: keep what stays, close what is lost, build what is new. Returns at once."""
        assert self._layout is not None, "the membership begins after the preflight"
        self._meter.rebalanced(len(partitions))
        kept = self._keepers.keys() & partitions if self._keeps_tasks else frozenset[int]()
        lost = self._keepers.keys() - kept
        new = partitions - kept
        took = None if self._revoked_at is None else asyncio.get_running_loop().time() - self._revoked_at
        self._log.info(
            "assigned",
            group=self._group,
            partitions=sorted(partitions),
            new=sorted(new),
            lost=sorted(lost),
            seconds=None if took is None else round(took, 3),
        )
        if any(partition >= self._layout.partitions for partition in partitions):
            self._fail(partitions_changed(self._layout.input, self._layout.partitions, max(partitions) + 1))
            return
        for partition in lost:
            keeper = self._keepers.pop(partition)
            keeper.gate.lost.set()
            self._leaving[keeper.job] = partition
            keeper.job.add_done_callback(self._leaving.pop)
        self._may_commit.set()
        self._report.health.came(self._assignment)
        for partition in new:
            self._keepers[partition] = self._keep(partition)
        self._report.health.ready(self._topology.name)

    def _keep(self, partition: int) -> Keeper:
        assert self._layout is not None, "the membership begins after the preflight"
        assert self._membership is not None, "an assignment comes from it"
        place = Place(self._layout.input, partition)
        gate = Gate(self._may_commit, asyncio.Event(), self._stopping, asyncio.Event())
        gate.idle.set()
        observer = self._report.observer(place)
        keeper = Keeper(
            place,
            gate,
            build=partial(
                self._make_task,
                layout=self._layout,
                membership=self._membership,
                place=place,
                gate=gate,
                observer=observer,
                served=lambda: len(self._keepers),
            ),
            limits=Limits(self._layout.dead_letter_bytes),
            observer=observer,
            patience=self._patience(),
            # When Kafka is back the partition has to move in its time.
            longest_pause_seconds=lambda: self._report.health.round_seconds,
            on_failure=self._fail,
            log=self._log,
        )
        keeper.start(after={job for job, left in self._leaving.items() if left == partition})
        return keeper

    def _check_partitions(self, count: int | None) -> None:
        """Stop before an event is counted from a partition that was added, or when the topic is gone."""
        assert self._layout is not None, "the membership begins after the preflight"
        self._report.health.beat(f"membership {self._topology.name}", bound_seconds=_BEAT_BOUND_SECONDS)
        now = asyncio.get_running_loop().time()
        if count is not None:
            self._unknown_since = None
        elif self._unknown_since is None:
            self._unknown_since = now
        is_gone = self._unknown_since is not None and now - self._unknown_since > _UNKNOWN_BORNE_SECONDS
        if is_gone or (count is not None and count != self._layout.partitions):
            self._fail(partitions_changed(self._layout.input, self._layout.partitions, count))

    def _begin_to_wait(self) -> None:
        """Note that there is no poll loop just now, and that an assignment has to come of that."""
        self._report.health.ended(f"membership {self._topology.name}")
        self._expect_assignment()

    def _expect_assignment(self) -> None:
        # A rebalance takes no longer than its timeout, and begins with a dead member's session at worst.
        settings = self._settings
        bound = settings.rebalance_timeout_seconds + settings.session_timeout_seconds
        bound += self._clients.settings.operation_deadline_seconds
        self._report.health.expects(self._assignment, bound_seconds=bound)

    def _kafka_watch(self, membership: Membership, patience: Patience) -> KafkaWatch:
        assert self._layout is not None, "the membership begins after the preflight"
        layout = self._layout
        return KafkaWatch(
            self._clients,
            who=self._topology.name,
            topics=[layout.input, layout.changelog, *layout.names.values()],
            connection=lambda: membership.connection,
            health=self._report.health,
            patience=patience,
            on_answer=lambda answers: self._meter.kafka_answers(answers=answers),
            log=self._log,
        )

    def _fail(self, error: StopServiceError) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self._report.tick()


async def _end(jobs: list[asyncio.Task[None]], seconds: float, log: Logger) -> None:
    """Wait for jobs to end by themselves, then cancel what is left and wait for that."""
    if not jobs:
        return
    _, late = await asyncio.wait(jobs, timeout=seconds)
    for job in late:
        log.warning("stop_cut_short", what=job.get_name(), seconds=seconds)
        job.cancel()
    if late:
        await asyncio.wait(late, timeout=_CLOSE_SECONDS)
