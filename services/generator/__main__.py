"""`python -m services.generator`: reads the settings, wires the generator, runs it."""

from __future__ import annotations

import asyncio
import gc
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from services.generator.bounds import DeliveryBounds
from services.generator.client import Producer
from services.generator.generator import Generator
from services.generator.ledger import Account, Ledger
from services.generator.ledger_writer import LedgerWriter
from services.generator.meters import show_deliveries
from services.generator.pacing import AsFastAsPossible, FixedRate, Pacer, ReferenceGaps, Rounds
from services.generator.partition_table import PartitionTable
from services.generator.producer import open_producer, partitions_of
from services.generator.publisher import Publisher
from services.generator.settings import GeneratorSettings, Rate
from services.generator.stream import Stream
from services.generator.workloads import Workload
from services.generator.workloads.behavior import BehaviorWorkload
from services.generator.workloads.sensors import SensorsWorkload
from shared import logs, service, topics
from shared.answering import Answering, ask
from shared.connecting import Patience, stop_client
from shared.health import Health
from shared.http_server import HttpServer
from shared.kafka import KafkaClients
from shared.memory import keep_freed_memory
from shared.metrics import GeneratorMetrics, RuntimeMetrics, new_registry
from shared.partitioners import partitioner_of
from shared.runtime import Runtime
from shared.settings import HttpSettings, KafkaSettings, LogSettings, Settings

_SERVICE = "generator"
_DEFAULT_PORT = 8081
_INPUT_OF = {"behavior": topics.USER_BEHAVIOR, "sensors": topics.SENSOR_DATA}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the generator to its end and return its exit code."""
    return service.start(
        _SERVICE,
        (KafkaSettings, HttpSettings, LogSettings, GeneratorSettings),
        lambda settings: _Process(settings, logs.get(_SERVICE)).serve,
        list(sys.argv[1:] if arguments is None else arguments),
    )


class _Process:
    """What one process is made of. Everything that is random, or reads a clock, comes from here."""

    def __init__(self, settings: Settings, log: logs.Logger) -> None:
        self._kafka = settings[KafkaSettings]
        self._http = settings[HttpSettings]
        self._generator = settings[GeneratorSettings]
        self._log = log
        self._clients = KafkaClients(self._kafka)
        self._source = f"gen-{secrets.token_hex(6)}"
        seed = self._generator.seed
        self._seed = secrets.randbelow(2**63) if seed is None else seed
        self._registry = new_registry(_SERVICE)
        self._metrics = GeneratorMetrics(self._registry)
        self._health = Health(time.monotonic, stall_seconds=self._http.stall_seconds)
        self._streams: list[Stream] = []

    async def serve(self, stopping: asyncio.Event) -> None:
        """Serve HTTP, and generate."""
        http = HttpServer(
            self._http,
            default_port=_DEFAULT_PORT,
            health=self._health,
            registry=self._registry,
            stats=self._stats,
            log=self._log,
        )
        self._log.info(
            "starting",
            source=self._source,
            seed=self._seed,
            servers=",".join(self._kafka.bootstrap_servers),
            streams=",".join(self._generator.streams),
            acks=self._generator.acks,
            partitioner=self._generator.partitioner,
        )
        runtime = Runtime(RuntimeMetrics(self._registry), self._health)
        runtime.start()
        try:
            await http.start()
            await self._generate(stopping)
        finally:
            await runtime.stop()
            await http.stop()

    async def _generate(self, stopping: asyncio.Event) -> None:
        inputs = {name: self._kafka.named(_INPUT_OF[name]) for name in self._generator.streams}
        ledger_topic = self._kafka.named(topics.GENERATOR_LEDGER)
        wanted = [*inputs.values(), ledger_topic]
        self._health.not_ready("service", "waiting for Kafka")
        patience = Patience(self._kafka.unavailable_seconds, time.monotonic)
        producer = await open_producer(
            self._clients, self._generator, topics=wanted, patience=patience, stopping=stopping, log=self._log
        )
        if producer is None:
            return
        try:
            counts = await partitions_of(
                producer,
                wanted,
                deadline_seconds=self._kafka.operation_deadline_seconds,
                patience=patience,
                stopping=stopping,
                log=self._log,
            )
            if counts is None:
                return
            bounds = self._bounds()
            cluster = producer.client.cluster
            cluster.add_listener(lambda _: bounds.answered(time.monotonic()))
            for name, topic in inputs.items():
                accounts = [Account(topic, partition) for partition in range(counts[topic])]
                self._streams.append(self._stream(name, accounts, producer, bounds.answered))
            publishers = [stream.publisher for stream in self._streams]
            show_deliveries(self._metrics, publishers, bounds, time.monotonic)
            generator = Generator(
                self._streams,
                ledger_writer=self._ledger_writer(producer, ledger_topic),
                kafka_answers=lambda: self._kafka_answers(producer, wanted),
                bounds=bounds,
                partition_count=lambda topic: len(cluster.partitions_for_topic(topic) or ()),
                topic_gone_seconds=self._quiet_seconds(),
                drain_seconds=self._generator.drain_seconds,
                health=self._health,
                clock=time.monotonic,
                log=self._log,
            )
            keep_freed_memory()
            gc.collect()
            gc.freeze()
            await generator.run(stopping)
        finally:
            await stop_client(producer, log=self._log)

    def _stream(
        self, name: str, accounts: list[Account], producer: Producer, answered: Callable[[float], None]
    ) -> Stream:
        ours = self._generator
        table = PartitionTable(
            partitioner_of(ours.partitioner), len(accounts), max_keys=ours.partition_cache_keys
        )
        publisher = Publisher(
            producer,
            accounts,
            partition_of=table.__getitem__,
            linger_seconds=ours.linger_milliseconds / 1000,
            buffer_bytes=ours.buffer_bytes // len(ours.streams),
            attempt_seconds=self._kafka.operation_deadline_seconds,
            answered=answered,
            clock=time.monotonic,
            metrics=self._metrics,
        )
        behavior = name == "behavior"
        return Stream(
            name,
            workload=self._behavior() if behavior else self._sensors(),
            pacer=self._behavior_pacer() if behavior else self._sensors_pacer(),
            publisher=publisher,
            events=ours.events,
            duration_seconds=ours.duration_seconds,
            health=self._health,
            clock=time.monotonic,
            wall=time.time,
        )

    def _behavior(self) -> Workload:
        return BehaviorWorkload(
            seed=self._seed,
            source=self._source,
            user_id_min=self._generator.user_id_min,
            user_id_max=self._generator.user_id_max,
            pages=self._generator.pages,
            ip_prefix=self._generator.ip_prefix,
        )

    def _sensors(self) -> Workload:
        return SensorsWorkload(
            seed=self._seed,
            source=self._source,
            sensors=self._generator.sensors,
            value_min=self._generator.sensor_value_min,
            value_max=self._generator.sensor_value_max,
            locations=self._generator.sensor_locations,
        )

    def _behavior_pacer(self) -> Pacer:
        return self._pacer(self._generator.rate) or ReferenceGaps(
            self._generator.gap_min_seconds,
            self._generator.gap_max_seconds,
            seed=self._seed,
            catch_up_seconds=self._generator.catch_up_seconds,
        )

    def _sensors_pacer(self) -> Pacer:
        return self._pacer(self._generator.sensor_rate) or Rounds(
            len(self._generator.sensors),
            self._generator.sensor_interval_seconds,
            catch_up_seconds=self._generator.catch_up_seconds,
        )

    def _pacer(self, rate: Rate) -> Pacer | None:
        """Return the pacer for a rate; None for the reference system's, which is each stream's own."""
        if rate == "reference":
            return None
        if rate == "max":
            return AsFastAsPossible()
        return FixedRate(rate, catch_up_seconds=self._generator.catch_up_seconds)

    def _ledger_writer(self, producer: Producer, topic: str) -> LedgerWriter:
        accounts = [account for stream in self._streams for account in stream.publisher.accounts]
        return LedgerWriter(
            producer,
            Ledger(self._source, accounts),
            topic=topic,
            interval_seconds=self._generator.ledger_seconds,
            attempt_seconds=self._kafka.operation_deadline_seconds,
            clock=time.monotonic,
            wall=time.time,
        )

    async def _kafka_answers(self, producer: Any, wanted: list[str]) -> bool:
        seconds = self._kafka.operation_deadline_seconds
        return await ask(producer.client, wanted, deadline_seconds=seconds) is Answering.WHOLE

    def _bounds(self) -> DeliveryBounds:
        return DeliveryBounds(
            delivery_seconds=self._generator.delivery_timeout_seconds,
            unavailable_seconds=self._kafka.unavailable_seconds,
            quiet_seconds=self._quiet_seconds(),
            now=time.monotonic(),
        )

    def _quiet_seconds(self) -> float:
        """Return how old the last answer may be: metadata is asked for so often, and takes so long."""
        return self._kafka.metadata_max_age_seconds + 2 * self._kafka.request_timeout_seconds

    def _stats(self) -> dict[str, Any]:
        return {
            "source": self._source,
            "seed": self._seed,
            "streams": {stream.name: stream.figures() for stream in self._streams},
        }


if __name__ == "__main__":
    sys.exit(main())
