"""A node's server.properties: pure text, no processes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sandbox.ports import HOST


@dataclass(frozen=True)
class NodePorts:
    """Where one node listens on 127.0.0.1.

    `internal` is a second, always plaintext way in, for the brokers and for administrators; there
    is one only where clients have to authenticate or encrypt. `more` are further listeners by name.
    """

    client: int
    controller: int
    internal: int | None = None
    more: Mapping[str, int] = field(default_factory=dict)


def node_properties(
    node_id: int,
    cluster: Mapping[int, NodePorts],
    data: Path,
    *,
    security_protocol: str = "PLAINTEXT",
    more_listeners: Mapping[str, str] | None = None,
    advertised: Mapping[str, int] | None = None,
    overrides: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The settings of one node (broker and controller in one) of a development cluster.

    `cluster` holds every node's ports by node id, `more_listeners` the security protocol of each of a
    node's `more` ports by name, `advertised` the ports that clients of a listener are told in place of
    the node's own; `overrides` come last and win.
    """
    ports = cluster[node_id]
    listeners = {"CLIENT": ports.client, "CONTROLLER": ports.controller, **ports.more}
    protocols = {"CLIENT": security_protocol, **(more_listeners or {})}
    if ports.internal is not None:
        listeners["INTERNAL"] = ports.internal
    replicas = min(3, len(cluster))
    quorum = str(max(1, replicas - 1))
    settings = {
        "process.roles": "broker,controller",
        "node.id": str(node_id),
        "controller.quorum.voters": ",".join(
            f"{node}@{HOST}:{at.controller}" for node, at in cluster.items()
        ),
        "listeners": _listeners(listeners),
        "advertised.listeners": _listeners(
            {
                name: (advertised or {}).get(name, port)
                for name, port in listeners.items()
                if name != "CONTROLLER"
            }
        ),
        "listener.security.protocol.map": ",".join(
            f"{name}:{protocols.get(name, 'PLAINTEXT')}" for name in listeners
        ),
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "CLIENT" if ports.internal is None else "INTERNAL",
        "log.dirs": str(data),
        # A topic exists because somebody made it, with the partitions they meant.
        "auto.create.topics.enable": "false",
        # The first member of a group need not wait 3 s for others.
        "group.initial.rebalance.delay.ms": "0",
        # A node that was killed is let in again when its old session is over: 2 s, not 9.
        "broker.heartbeat.interval.ms": "500",
        "broker.session.timeout.ms": "2000",
        "default.replication.factor": str(replicas),
        "min.insync.replicas": quorum,
        # Few internal partitions: each is files, memory and time at start.
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": str(replicas),
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": str(replicas),
        "transaction.state.log.min.isr": quorum,
        "share.coordinator.state.topic.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": str(replicas),
        "share.coordinator.state.topic.min.isr": quorum,
        # The cleaner's table is 128 MiB by default; 2 MiB compacts some 80,000 keys in one pass.
        "log.cleaner.threads": "1",
        "log.cleaner.dedupe.buffer.size": str(2 * 1024 * 1024),
    }
    return settings | dict(overrides or {})


def _listeners(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://{HOST}:{port}" for name, port in ports.items())


def bootstrap_servers(ports: Sequence[int]) -> str:
    """The address list that clients take."""
    return ",".join(f"{HOST}:{port}" for port in ports)


def render(settings: Mapping[str, str]) -> str:
    """The text of a Java properties file with these settings."""
    return "".join(f"{name}={_escape(value)}\n" for name, value in settings.items())


def _escape(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    if escaped.startswith(" "):
        escaped = "\\" + escaped
    units = escaped.encode("utf-16-be", "surrogatepass")
    codes = [int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2)]
    return "".join(chr(code) if code < 127 else f"\\u{code:04x}" for code in codes)
