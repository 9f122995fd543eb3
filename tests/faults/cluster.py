"""Three real brokers that are broken on purpose, and what has to be known to break the right one."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from confluent_kafka.admin import AdminClient, NewTopic

from sandbox import Broker, Sandbox
from sandbox.ports import HOST
from shared import topics
from tests.conftest import create
from tests.faults.proxy import Network
from tests.verifier.broker import QUIET
from tests.verifier.polling import poll

NODES = 3
REQUEST_SECONDS = 10
PROXIED = "PROXIED"  # the listener whose clients are told the proxies' ports
_DESCRIBE_QUORUM = 55
_METADATA_TOPIC = b"__cluster_metadata"


def _knows(admin: AdminClient, names: set[str]) -> bool | None:
    known = admin.list_topics(timeout=REQUEST_SECONDS).topics
    has_all = all(
        name in known and all(p.leader > 0 for p in known[name].partitions.values()) for name in names
    )
    return True if has_all else None


class Cluster:
    """A three-node sandbox: replication 3, min ISR 2, internal topics too.

    Clients of `servers` reach the brokers directly, those of `network.servers` through proxies.
    """

    def __init__(self, sandbox: Sandbox, network: Network) -> None:
        self.sandbox = sandbox
        self.network = network
        self.servers = sandbox.bootstrap_servers
        self.admin = AdminClient({"bootstrap.servers": self.servers, **QUIET})

    def node(self, node_id: int) -> Broker:
        """Return a node by its id, from 1."""
        return self.sandbox.nodes[node_id - 1]

    def create_topics(self, prefix: str, partitions: int, *, only: str | None = None) -> None:
        """Create the pair's topics: replication 3, and no write is acknowledged by one broker alone.

        Returns when every node knows them: who asks may ask any.
        """
        safe = {"min.insync.replicas": "2"}
        wanted = [
            NewTopic(prefix + one.name, one.partitions, NODES, config=one.configs | safe)
            for one in topics.definitions(partitions=partitions, retention_hours=168)
            if only in {None, prefix + one.name}
        ]
        create(self.admin, wanted)
        names = {one.topic for one in wanted}
        for node in self.sandbox.nodes:
            # A new client asks the one server that it knows.
            asked = AdminClient({"bootstrap.servers": node.bootstrap_servers, **QUIET})
            poll(
                partial(_knows, asked, names), REQUEST_SECONDS, lambda: f"a node does not know all of {names}"
            )

    def leader(self, topic: str, partition: int) -> Broker:
        """Return the node that leads a partition."""
        return self.node(self._leader_id(topic, partition))

    def group_coordinator(self, group: str) -> Broker:
        """Return the node that coordinates a consumer group."""
        return self._coordinator("__consumer_offsets", group)

    def transaction_coordinator(self, transactional_id: str) -> Broker:
        """Return the node that coordinates a transactional id."""
        return self._coordinator("__transaction_state", transactional_id)

    def controller(self) -> Broker:
        """Return the node that leads the quorum of controllers; metadata would name any broker."""
        return self.node(poll(self._controller_id, REQUEST_SECONDS, lambda: "no node knows the controller"))

    def wait_until_whole(self, timeout_seconds: float = 60) -> None:
        """Wait until all nodes run and every replica is in sync again."""
        poll(self._whole, timeout_seconds, lambda: f"not whole: {self._missing()}", interval_seconds=0.2)

    def mend(self) -> None:
        """Bring back whatever a scenario left down or frozen, and wait until the cluster is whole."""
        self.network.heal()
        for node in self.sandbox.nodes:
            if node.running:
                node.resume()
        self.sandbox.start()
        self.wait_until_whole(120)

    def _coordinator(self, topic: str, name: str) -> Broker:
        count = len(self.admin.list_topics(topic, timeout=REQUEST_SECONDS).topics[topic].partitions)
        return self.leader(topic, java_hash(name) % count)

    def _leader_id(self, topic: str, partition: int) -> int:
        def look() -> int | None:
            known = self.admin.list_topics(topic, timeout=REQUEST_SECONDS).topics[topic].partitions
            leader: int = known[partition].leader if partition in known else -1
            return leader if leader > 0 else None

        return poll(look, REQUEST_SECONDS, lambda: f"{topic}:{partition} has no leader")

    def _controller_id(self) -> int | None:
        for node in self.sandbox.nodes:
            if node.running and (found := quorum_leader(node.bootstrap_servers)) is not None:
                return found
        return None

    def _whole(self) -> bool | None:
        return True if not self._missing() else None

    def _missing(self) -> list[str]:
        known = self.admin.list_topics(timeout=REQUEST_SECONDS)
        down = [f"node {id_}" for id_ in range(1, NODES + 1) if id_ not in known.brokers]
        return down + [
            f"{topic.topic}:{partition.id} in sync {partition.isrs}"
            for topic in known.topics.values()
            for partition in topic.partitions.values()
            if len(partition.isrs) < len(partition.replicas)
        ]


@contextmanager
def cluster(properties: dict[str, str] | None = None) -> Iterator[Cluster]:
    """Run a cluster for the length of a block."""
    with (
        Network(NODES) as network,
        Sandbox(
            nodes=NODES,
            properties=properties,
            more_listeners={PROXIED: "PLAINTEXT"},
            advertised={PROXIED: network.ports},
        ) as sandbox,
    ):
        network.lead_to([int(one.rpartition(":")[2]) for one in sandbox.servers_of(PROXIED).split(",")])
        yield Cluster(sandbox, network)


def java_hash(text: str) -> int:
    """Return Java's `String.hashCode() & 0x7fffffff`, by which Kafka spreads groups and transactional ids."""
    value = 0
    for unit in struct.unpack(f">{len(text.encode('utf-16-be')) // 2}H", text.encode("utf-16-be")):
        value = (31 * value + unit) & 0xFFFFFFFF
    return value & 0x7FFFFFFF


def quorum_leader(address: str) -> int | None:
    """Ask one broker who leads the quorum (DescribeQuorum, version 0), None where it does not answer.

    Written by hand: neither of the two clients at hand knows this request.
    """
    port = int(address.rpartition(":")[2])
    topic = _compact(_METADATA_TOPIC)
    body = b"\x02" + topic + b"\x02" + struct.pack(">i", 0) + b"\0" + b"\0" + b"\0"
    request = struct.pack(">hhih", _DESCRIBE_QUORUM, 0, 1, -1) + b"\0" + body
    try:
        with socket.create_connection((HOST, port), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = _receive(connection, struct.unpack(">i", _receive(connection, 4))[0])
    except OSError:
        return None
    # correlation id, tags, error, topics (1), name, partitions (1), index, error: then the leader's id
    at = 4 + 1 + 2 + 1 + len(topic) + 1 + 4 + 2
    leader: int = struct.unpack_from(">i", answer, at)[0] if len(answer) >= at + 4 else -1
    return leader if leader > 0 else None


def _compact(text: bytes) -> bytes:
    return bytes([len(text) + 1]) + text


def _receive(connection: socket.socket, count: int) -> bytes:
    parts: list[bytes] = []
    while count:
        part = connection.recv(count)
        if not part:
            raise ConnectionError("closed in the middle of an answer")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def others(brokers: Sequence[Broker], one: Broker) -> list[Broker]:
    """Return the nodes but this one."""
    return [node for node in brokers if node is not one]
