"""Known inputs for `user_behavior` and `sensor_data`, sent with confluent-kafka (librdkafka).

loaded = load(bootstrap, prefix, LoadPlan(seed=7, poison_rate=0.01), records=20_000)

with BackgroundLoad(bootstrap, prefix, LoadPlan(seed=7), records_per_second=2_000) as running:
    running.wait_for(5_000)
    ...                                                       # the fault, while work is going on
loaded = running.acknowledged
"""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import Producer

from tests.verifier.broker import QUIET, Broker
from tests.verifier.contract import Names, PartitionId
from tests.verifier.polling import poll
from tests.verifier.records import LoadPlan, Outgoing, Records

__all__ = ["Acknowledged", "BackgroundLoad", "LoadPlan", "load"]

DELIVERY_TIMEOUT_SECONDS: Final = 120
GIVE_UP_SECONDS: Final = 20
PACE_SECONDS: Final = 0.005
BUFFERED_RECORDS: Final = 20_000
BUFFERED_KILOBYTES: Final = 65_536


@dataclass
class Acknowledged:
    """What Kafka acknowledged.

    Attributes:
        records: how many.
        dead_letters: how many of them must become dead letters.
        by_partition: how many on each partition.
        by_kind: how many of each kind: `valid`, `stray`, `duplicate`, `late`, `poison: …`, `oddity: …`.
        failed: what was not acknowledged, by reason; it may be in Kafka all the same.
    """

    records: int = 0
    dead_letters: int = 0
    by_partition: Counter[PartitionId] = field(default_factory=Counter)
    by_kind: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    def add(self, record: Outgoing) -> None:
        """Count an acknowledged record."""
        self.records += 1
        self.dead_letters += record.is_poison
        self.by_partition[record.partition] += 1
        self.by_kind[record.kind] += 1


class Sender:
    """Sends records with an idempotent producer, acks=all, and counts what is acknowledged."""

    def __init__(self, bootstrap: str, compression: str, socket_seconds: float | None = None) -> None:
        self.acknowledged = Acknowledged()
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "compression.type": compression,
                "linger.ms": 5,
                "delivery.timeout.ms": DELIVERY_TIMEOUT_SECONDS * 1000,
                **({} if socket_seconds is None else {"socket.timeout.ms": int(socket_seconds * 1_000)}),
                "queue.buffering.max.messages": BUFFERED_RECORDS,
                "queue.buffering.max.kbytes": BUFFERED_KILOBYTES,
                **QUIET,
            }
        )

    def send(self, record: Outgoing) -> None:
        """Hand a record to the client; blocks while its buffer is full."""
        while True:
            try:
                self._producer.produce(
                    record.partition.topic,
                    partition=record.partition.number,
                    key=record.key,
                    value=record.value,
                    headers=list(record.headers),
                    on_delivery=partial(self._delivered, record),
                )
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return

    def serve(self) -> None:
        """Take in what was acknowledged meanwhile."""
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until everything is acknowledged or has failed; raise TimeoutError if that takes too long."""
        if left := self._producer.flush(DELIVERY_TIMEOUT_SECONDS + 10):
            raise TimeoutError(f"{left} records neither acknowledged nor failed")

    def forget(self) -> None:
        """Let go of everything that is not acknowledged; another thread may be waiting in `flush`."""
        self._producer.purge()

    def _delivered(self, record: Outgoing, error: Any, _: Any) -> None:
        if error is None:
            self.acknowledged.add(record)
        else:
            self.acknowledged.failed[str(error)] += 1


def load(
    bootstrap: str,
    prefix: str = "",
    plan: LoadPlan | None = None,
    *,
    records: int,
    compression: str = "none",
) -> Acknowledged:
    """Send so many records as fast as possible, and return what Kafka acknowledged.

    Args:
        bootstrap: the cluster's addresses.
        prefix: of the topics.
        plan: what they consist of.
        records: how many, both topics together.
        compression: none, gzip, snappy, lz4 or zstd.
    """
    sender = Sender(bootstrap, compression)
    for record in islice(records_for(bootstrap, prefix, plan), records):
        sender.send(record)
    sender.flush()
    return sender.acknowledged


class BackgroundLoad:
    """Sends records at a rate from a thread of its own, from start to stop.

    A context manager: entering starts it, leaving stops it and waits for the last acknowledgement. What the
    thread raised is raised by `stop`.
    """

    def __init__(
        self,
        bootstrap: str,
        prefix: str = "",
        plan: LoadPlan | None = None,
        *,
        records_per_second: float,
        compression: str = "none",
        socket_seconds: float | None = None,
    ) -> None:
        self._records = records_for(bootstrap, prefix, plan)
        self._sender = Sender(bootstrap, compression, socket_seconds)
        self._records_per_second = records_per_second
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        if error is None:
            self.stop()
        else:
            # What is not acknowledged by now is of no interest any more, and would be waited for.
            self._sender.forget()
            self._thread.join(GIVE_UP_SECONDS)

    @property
    def acknowledged(self) -> Acknowledged:
        """What Kafka has acknowledged so far; final after `stop`."""
        return self._sender.acknowledged

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> Acknowledged:
        """Send no more, wait for what is on its way, and return what Kafka acknowledged."""
        self._stopping.set()
        self._thread.join(DELIVERY_TIMEOUT_SECONDS + 20)
        if self._thread.is_alive():
            raise TimeoutError("the load does not end")
        if self._error is not None:
            raise self._error
        return self.acknowledged

    def wait_for(self, records: int, timeout_seconds: float = 60) -> None:
        """Wait until so many records more are acknowledged; raise TimeoutError, or what the thread raised."""
        due = self.acknowledged.records + records

        def look() -> bool | None:
            if self._error is not None:
                raise self._error
            return True if self.acknowledged.records >= due else None

        poll(look, timeout_seconds, lambda: self._missing(due))

    def _missing(self, due: int) -> str:
        failed = f", failed: {dict(self.acknowledged.failed)}" if self.acknowledged.failed else ""
        return f"{self.acknowledged.records} of {due} records acknowledged{failed}"

    def _run(self) -> None:
        try:
            begun = time.monotonic()
            sent = 0
            while not self._stopping.wait(PACE_SECONDS):
                due = int((time.monotonic() - begun) * self._records_per_second)
                for record in islice(self._records, min(due - sent, BUFFERED_RECORDS)):
                    if self._stopping.is_set():
                        break
                    self._sender.send(record)
                    sent += 1
                self._sender.serve()
            self._sender.flush()
        except BaseException as error:  # noqa: BLE001  # a thread has no caller: `stop` raises it
            self._error = error


def records_for(bootstrap: str, prefix: str, plan: LoadPlan | None) -> Records:
    """Return the records of a plan for the topics as they are; raise LookupError where one is missing."""
    names = Names(prefix)
    partitions = Broker(bootstrap).partition_counts(names.inputs.values())
    missing = [topic for topic, count in partitions.items() if not count]
    if missing:
        raise LookupError(f"there is no topic {', '.join(missing)}")
    return Records(plan or LoadPlan(), names, partitions)
