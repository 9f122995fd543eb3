"""What stands in Kafka, read with confluent-kafka (librdkafka)."""

import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from tests.verifier.contract import PartitionId, Record
from tests.verifier.polling import poll

REQUEST_TIMEOUT_SECONDS: Final = 10
RECORDS_A_POLL: Final = 5_000
POLL_SECONDS: Final = 0.1
QUIET: Final = {"log_level": 2, "log.connection.close": False}


class Ends(NamedTuple):
    """Where a partition begins and ends.

    Attributes:
        start: the first offset that it holds.
        stable: the last stable offset: below it no transaction is open.
        raw: the high watermark.
    """

    start: int
    stable: int
    raw: int


NOT_KNOWN_YET: Final = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.GROUP_ID_NOT_FOUND,
)


class Broker:
    """Asks a Kafka cluster, and changes nothing. Every call blocks; what fails raises KafkaException."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._admin = AdminClient({"bootstrap.servers": bootstrap, **QUIET})

    def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        """Return how many partitions each topic has; a topic that does not exist has none."""
        counts = {}
        for topic in topics:
            known = self._admin.list_topics(topic, timeout=REQUEST_TIMEOUT_SECONDS).topics[topic]
            counts[topic] = 0 if known.error else len(known.partitions)
        return counts

    def partitions(self, topics: Iterable[str]) -> list[PartitionId]:
        """Return all partitions of these topics."""
        counts = self.partition_counts(topics)
        return [PartitionId(topic, number) for topic, count in counts.items() for number in range(count)]

    def ends(self, partitions: Iterable[PartitionId]) -> dict[PartitionId, Ends]:
        """Return where each partition begins and ends."""
        wanted = list(partitions)
        starts = self._offsets(wanted, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED)
        stable = self._offsets(wanted, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
        raw = self._offsets(wanted, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)
        return {one: Ends(starts[one], stable[one], raw[one]) for one in wanted}

    def committed(self, group: str, partitions: Iterable[PartitionId]) -> dict[PartitionId, int | None]:
        """Return the offset that the group has committed for each partition, None where it has none.

        A consumer's own `committed()` blocks while a transaction is open; this does not.
        """
        wanted = list(partitions)
        if not wanted or not self._has_coordinator(group):
            return dict.fromkeys(wanted)
        asked = ConsumerGroupTopicPartitions(group, [TopicPartition(*one) for one in wanted])
        futures = self._admin.list_consumer_group_offsets(
            [asked], require_stable=False, request_timeout=REQUEST_TIMEOUT_SECONDS
        )
        answer = futures[group].result().topic_partitions
        offsets = {PartitionId(one.topic, one.partition): one.offset for one in answer if one.error is None}
        return {one: offset if (offset := offsets.get(one, -1)) >= 0 else None for one in wanted}

    def _has_coordinator(self, group: str) -> bool:
        """Say whether the group is known to a coordinator that has loaded it.

        librdkafka 2.16 dereferences a null pointer when an AdminClient's OffsetFetch is answered with
        NOT_COORDINATOR or its like, as it is while __consumer_offsets is being made.
        """
        future = self._admin.describe_consumer_groups([group], request_timeout=REQUEST_TIMEOUT_SECONDS)[group]
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() in NOT_KNOWN_YET:
                return False
            raise
        return True

    def read(
        self, until: Mapping[PartitionId, int], timeout_seconds: float
    ) -> dict[PartitionId, list[Record]]:
        """Read partitions from their start up to an offset each, committed records only.

        Args:
            until: the offset to stop before, by partition; not beyond the last stable one.
            timeout_seconds: for all of them together.

        Raises:
            TimeoutError: not all of it could be read in time.
        """
        ends = self.ends(until)
        records: dict[PartitionId, list[Record]] = {partition: [] for partition in until}
        unread = {one for one, stop in until.items() if ends[one].start < stop}
        if not unread:
            return records
        consumer = self._consumer()
        try:
            consumer.assign([TopicPartition(*one, ends[one].start) for one in unread])
            deadline = time.monotonic() + timeout_seconds
            while unread:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not read in {timeout_seconds:g} s: {sorted(unread)}")
                for message in consumer.consume(RECORDS_A_POLL, POLL_SECONDS):
                    partition = take(message, until, records)
                    unread.discard(partition)
        finally:
            consumer.close()
        return records

    def read_topic(self, topic: str, timeout_seconds: float) -> list[Record]:
        """Read all committed records of a topic, partition after partition."""
        partitions = self.partitions([topic])
        until = {one: ends.stable for one, ends in self.ends(partitions).items()}
        read = self.read(until, timeout_seconds)
        return [record for partition in partitions for record in read[partition]]

    def _offsets(self, partitions: list[PartitionId], spec: Any, isolation: Any) -> dict[PartitionId, int]:
        if not partitions:
            return {}
        futures = self._admin.list_offsets(
            {TopicPartition(*one): spec for one in partitions},
            isolation_level=isolation,
            request_timeout=REQUEST_TIMEOUT_SECONDS,
        )
        return {
            PartitionId(one.topic, one.partition): future.result().offset for one, future in futures.items()
        }

    def _consumer(self) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": "verifier",  # asked for by the client, never joined
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 10,  # the end of a partition is told when a fetch comes back empty
                "isolation.level": "read_committed",
                **QUIET,
            }
        )


def take(
    message: Any, until: Mapping[PartitionId, int], records: dict[PartitionId, list[Record]]
) -> PartitionId | None:
    """Put a message among the records, and return its partition when that is now read to its end.

    The end may be a transaction's control record, which is never delivered: then the end-of-partition event
    says that nothing more comes.
    """
    error = message.error()
    if error is not None and error.code() in {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN}:
        return None  # the client tries again; the caller's deadline bounds it
    if error is not None and error.code() != KafkaError._PARTITION_EOF:
        raise KafkaException(error)
    partition = PartitionId(message.topic(), message.partition())
    offset = message.offset()
    if error is None and offset < until[partition]:
        headers = tuple(message.headers() or ())
        records[partition].append(Record(*partition, offset, message.key(), message.value(), headers))
    reached = offset + 1 if error is None else offset
    return partition if reached >= until[partition] else None


def lag(broker: Broker, group: str, topic: str) -> dict[str, str]:
    """Return the partitions of a topic whose end the group has not committed, with both offsets in words."""
    partitions = broker.partitions([topic])
    committed = broker.committed(group, partitions)
    return {
        str(partition): f"committed {committed[partition]}, end {ends.raw}"
        for partition, ends in broker.ends(partitions).items()
        if (committed[partition] or 0) != ends.raw
    }


def open_transactions(broker: Broker, topics: Iterable[str]) -> dict[str, str]:
    """Return the partitions in which a transaction is open, with both ends in words."""
    return {
        str(partition): f"a transaction is open, stable end {ends.stable}, raw end {ends.raw}"
        for partition, ends in broker.ends(broker.partitions(topics)).items()
        if ends.stable != ends.raw
    }


def wait_until_settled(broker: Broker, topics: Collection[str], timeout_seconds: float) -> None:
    """Wait until no transaction is open: its markers are written after its end was answered.

    Raises:
        TimeoutError: one still is.
    """
    poll(
        lambda: not open_transactions(broker, topics) or None,
        timeout_seconds,
        lambda: str(open_transactions(broker, topics)),
    )
