"""The processor's composition root: settings, logs, wiring. `python -m services.processor`."""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from prometheus_client import CollectorRegistry

from services.processor.at_least_once import AtLeastOnce
from services.processor.delivery.part import Delivery
from services.processor.exactly_once import ExactlyOnce
from services.processor.guarantee import Guarantee, Shared
from services.processor.membership import Membership
from services.processor.meters import show_limits
from services.processor.native.library import UnusableError, installed
from services.processor.observation import PartitionObserver, TopologyReport
from services.processor.partition import Partition
from services.processor.preflight import Layout
from services.processor.processor import Processor
from services.processor.record_batches import CHECKED_VERSION, read_whole_batches
from services.processor.restore import ChangelogReader
from services.processor.sending import Limits, Routes
from services.processor.settings import NO_TOPOLOGY, ProcessorSettings
from services.processor.task import Gate, Task
from services.processor.task_clients import TaskClients
from services.processor.topologies.behavior import BehaviorTopology
from services.processor.topologies.sensors import SensorTopology
from services.processor.topology import Place, Topology
from services.processor.transactional_sender import Ending
from shared import logs, service
from shared.changelog import transactional_id_of
from shared.connecting import Patience, stop_client
from shared.errors import BadConfigurationError, KafkaUnavailableError
from shared.header_names import read_any_header_name
from shared.health import Health
from shared.http_server import HttpServer
from shared.kafka import KafkaClients
from shared.memory import calm_garbage_collector, keep_freed_memory
from shared.metrics import DeliveryMetrics, ProcessorMetrics, RuntimeMetrics, new_registry
from shared.runtime import Runtime
from shared.settings import HttpSettings, KafkaSettings, LogSettings, Settings

SERVICE = "processor"
HTTP_PORT = 8082
GROUPS = (KafkaSettings, ProcessorSettings, HttpSettings, LogSettings)
_SHIPPED: dict[str, Callable[[ProcessorSettings], Topology]] = {
    BehaviorTopology.name: BehaviorTopology,
    SensorTopology.name: SensorTopology,
}

_NEEDED_OF_A_TOPOLOGY = (
    *("name", "input", "group", "results", "notices", "event", "full_event"),
    *("result_settings", "open", "summarize"),
)


class Part(Protocol):
    """What runs in this process beside others like it."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set, then finish and commit."""


class Application:
    """The wired processor. Tests hand in a guarantee or a changelog reader of their own to plant faults.

    Args:
        settings: all groups.
        guarantee: what `PROCESSOR_GUARANTEE` asks for, where it is not the shipped one.
        reader: of changelogs.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        guarantee: Callable[..., Guarantee] | None = None,
        reader: Callable[..., ChangelogReader] = ChangelogReader,
    ) -> None:
        self._kafka = settings[KafkaSettings]
        self._unsettled: dict[str, Ending] = {}
        self._settings = settings[ProcessorSettings]
        self._http = settings[HttpSettings]
        self._guarantee = guarantee
        self._reader = reader
        self._log = logs.get(SERVICE)

    async def main(self, stopping: asyncio.Event) -> None:
        """Run every configured topology until `stopping` is set.

        Raises:
            BadConfigurationError: a topology can't be loaded, or the HTTP address can't be listened on.
            StopServiceError: see its text.
        """
        names = [name for name in self._settings.topologies if name != NO_TOPOLOGY]
        topologies = [_load_topology(name, self._settings) for name in names]
        # A process that only delivers counts nothing.
        library = installed() if topologies else None
        if isinstance(library, UnusableError):
            self._log.warning("slow_path", reason=f"without its compiled part: {library}")
        registry = new_registry(SERVICE)
        metrics = ProcessorMetrics(registry)
        show_limits(metrics, self._settings)
        health = Health(time.monotonic, stall_seconds=self._http.stall_seconds)
        runtime = Runtime(RuntimeMetrics(registry), health)
        reports = {
            topology.name: TopologyReport(
                topology, self._settings, metrics=metrics, health=health, log=self._log
            )
            for topology in topologies
        }
        clients = KafkaClients(self._kafka)
        delivery = self._delivery(clients, registry, health)

        def stats() -> dict[str, Any]:
            shown = {"topologies": {name: report.figures() for name, report in reports.items()}}
            return shown if delivery is None else {**shown, "delivery": delivery.figures()}

        server = HttpServer(
            self._http,
            default_port=HTTP_PORT,
            health=health,
            registry=registry,
            stats=stats,
            log=self._log,
        )
        await server.start()
        runtime.start()
        try:
            parts: list[Part] = [
                self._processor(topology, clients, reports[topology.name]) for topology in topologies
            ]
            if delivery is not None:
                parts.append(delivery)
            for topology in topologies:
                health.not_ready(topology.name, "not assigned yet")
            health.ready("service")
            keep_freed_memory()
            calm_garbage_collector()
            await _run_all(parts, stopping)
        finally:
            await runtime.stop()
            await server.stop()

    def _delivery(
        self, clients: KafkaClients, registry: CollectorRegistry, health: Health
    ) -> Delivery | None:
        if self._settings.delivery_url is None:
            return None
        return Delivery(
            clients,
            self._settings,
            make_consumer=lambda: self._consumer(
                clients, read_any_header_name, fetch_bytes=self._settings.fetch_max_partition_bytes
            ),
            patience=self._patience,
            metrics=DeliveryMetrics(registry),
            health=health,
            log=self._log,
        )

    def _patience(self) -> Patience:
        return Patience(self._kafka.unavailable_seconds, time.monotonic)

    def _processor(self, topology: Topology, clients: KafkaClients, report: TopologyReport) -> Processor:
        of_tasks = TaskClients(self._kafka)
        return Processor(
            topology,
            clients,
            self._settings,
            make_task=partial(self._task, topology, of_tasks),
            on_metadata=of_tasks.look_at,
            keeps_tasks=self._settings.guarantee == "exactly_once",
            patience=self._patience,
            report=report,
            log=self._log,
        )

    def _task(
        self,
        topology: Topology,
        clients: KafkaClients,
        *,
        layout: Layout,
        membership: Membership,
        place: Place,
        gate: Gate,
        observer: PartitionObserver,
        served: Callable[[], int],
        limits: Limits,
    ) -> Task:
        group = self._kafka.named(topology.group)
        partition = Partition(
            topology,
            place,
            group=group,
            max_keys=self._settings.state_max_keys,
            full_validation=self._settings.validation == "full",
            dead_letter_bytes=limits.dead_letter_bytes,
        )
        return Task(
            partition,
            self._make_guarantee(topology, clients, layout, membership, place, limits=limits),
            make_consumer=lambda: self._consumer(
                clients, read_whole_batches, fetch_bytes=self._settings.fetch_bytes(served())
            ),
            changelog=TopicPartition(layout.changelog, place.partition),
            group=group,
            settings=self._settings,
            deadline_seconds=self._kafka.operation_deadline_seconds,
            longest_round_seconds=observer.longest_round_seconds,
            gate=gate,
            observer=observer,
            wall_clock=time.time,
            log=self._log,
            reader=self._reader,
        )

    def _make_guarantee(
        self,
        topology: Topology,
        clients: KafkaClients,
        layout: Layout,
        membership: Membership,
        place: Place,
        *,
        limits: Limits,
    ) -> Guarantee:
        group = self._kafka.named(topology.group)
        common: Shared = {
            "group": group,
            "place": TopicPartition(place.topic, place.partition),
            "routes": Routes(layout.names, layout.counts, changelog=layout.changelog),
            "read_committed_offset": membership.committed,
            "deadline_seconds": self._kafka.operation_deadline_seconds,
            "log": self._log,
            "batch_bytes": limits.batch_bytes,
        }
        if self._settings.guarantee == "at_least_once":
            return (self._guarantee or AtLeastOnce)(
                clients,
                make_writer=membership.commits.writer,
                commit_offset=membership.commits.commit,
                **common,
            )
        return (self._guarantee or ExactlyOnce)(
            clients,
            unsettled=self._unsettled,
            transactional_id=transactional_id_of(group, topology.input, place.partition),
            transaction_timeout_seconds=self._settings.transaction_timeout_seconds,
            **common,
        )

    def _fetch_wait_milliseconds(self) -> int:
        """How long a broker may keep a fetch: an answer after the request's time is none."""
        half_a_request = int(self._kafka.request_timeout_seconds * 500)
        return max(min(self._settings.fetch_max_wait_milliseconds, half_a_request), 1)

    async def _consumer(
        self, clients: KafkaClients, read: Callable[[AIOKafkaConsumer], bool], *, fetch_bytes: int
    ) -> AIOKafkaConsumer:
        """Return a started consumer that belongs to no group, reads what is committed, and never resets.

        `read` sets how it unpacks; it returns False for a version of the client that it does not know.
        """
        consumer = clients.consumer(
            group_id=None,
            isolation_level="read_committed",
            auto_offset_reset="none",
            fetch_min_bytes=self._settings.fetch_min_bytes,
            fetch_max_wait_ms=self._fetch_wait_milliseconds(),
            max_partition_fetch_bytes=fetch_bytes,
        )
        try:
            await asyncio.wait_for(consumer.start(), self._kafka.operation_deadline_seconds)
        except Exception as error:
            await stop_client(consumer, log=self._log)
            raise KafkaUnavailableError(f"could not start a consumer: {error!r}") from error
        if not read(consumer):
            self._log.warning(
                "slow_path", reason=f"whole batches were checked with aiokafka {CHECKED_VERSION} only"
            )
        return consumer


async def _run_all(parts: list[Part], stopping: asyncio.Event) -> None:
    """Run all parts until each has ended; the first failure ends the others, and is raised."""
    jobs = [asyncio.create_task(part.run(stopping)) for part in parts]
    try:
        await asyncio.wait(jobs, return_when=asyncio.FIRST_EXCEPTION)
        stopping.set()
        outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    finally:
        for job in jobs:
            job.cancel()
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


def _load_topology(name: str, settings: ProcessorSettings) -> Topology:
    """Return a topology: a shipped one by its name, or anyone's by its dotted path (`package.module.Class`).

    Raises:
        BadConfigurationError: there is no such thing.
    """
    if name in _SHIPPED:
        return _SHIPPED[name](settings)
    path, _, attribute = name.replace(":", ".").rpartition(".")
    known = ", ".join(_SHIPPED)
    if not path:
        raise BadConfigurationError(
            [f"PROCESSOR_TOPOLOGIES: {name!r} is neither one of {known} nor a dotted path to a class"]
        )
    try:
        made: Any = getattr(importlib.import_module(path), attribute)(settings)
    except (ImportError, AttributeError, TypeError) as error:
        raise BadConfigurationError([f"PROCESSOR_TOPOLOGIES: {name!r} can't be loaded: {error}"]) from error
    missing = [what for what in _NEEDED_OF_A_TOPOLOGY if not hasattr(made, what)]
    if missing:
        raise BadConfigurationError([f"PROCESSOR_TOPOLOGIES: {name!r} lacks {', '.join(missing)}"])
    return cast("Topology", made)


def run(application: Callable[[Settings], Application] = Application) -> int:
    """Run the processor and return its exit code."""
    return service.start(SERVICE, GROUPS, lambda settings: application(settings).main, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run())
