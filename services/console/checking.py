"""The connection test, in the order in which things go wrong: network, login, brokers, topics, groups."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from aiokafka.protocol.admin import ApiVersionRequest

from services.console.connection import Connection
from services.console.groups import GroupFacts, pair
from services.console.topic_admin import Report, TopicAdmin, Wishes
from shared.errors import TandemError
from shared.kafka import principal
from shared.settings import KafkaSettings

State = Literal["ok", "failed"]
# https://kafka.apache.org/protocol#protocol_api_keys
_PRODUCE, _FETCH = 0, 1
_CONNECT_SECONDS = 2.0


@dataclass(frozen=True)
class Finding:
    """One line of the test.

    Attributes:
        what: what was looked at.
        state: how it is.
        text: what was found.
        advice: what to do about it; empty where nothing is.
    """

    what: str
    state: State
    text: str
    advice: str = ""


async def check(connection: Connection) -> AsyncIterator[Finding]:
    """Yield the findings as they come. What can't be looked at because of an earlier one is left out.

    Raises:
        TandemError: Kafka stopped answering in the middle.
    """
    kafka = connection.kafka
    reached = False
    for finding in await asyncio.gather(*map(_reach, kafka.bootstrap_servers)):
        reached = reached or finding.state == "ok"
        yield finding
    if not reached:
        return
    began = time.perf_counter()
    try:
        admin = await connection.admin()
    except TandemError as error:
        yield Finding("login", "failed", str(error), "see KAFKA_SECURITY_PROTOCOL and what goes with it")
        return
    yield Finding("login", "ok", f"{_how(kafka)} as {principal(kafka)}, {_since(began)}")
    cluster = await connection.ask(admin.describe_cluster, doing="look up the brokers")
    for broker in cluster["brokers"]:
        yield await _broker(admin, broker, deadline_seconds=kafka.operation_deadline_seconds)
    existing = await connection.topics()
    for report in await TopicAdmin(connection).describe(Wishes()):
        yield _topic(report)
    for group in await pair(connection, existing):
        yield _group(group)


def is_ok(findings: Iterable[Finding]) -> bool:
    """Say whether there is nothing to be done."""
    return all(one.state == "ok" for one in findings)


async def _reach(server: str) -> Finding:
    """Open a connection to a bootstrap server, and no more."""
    host, _, port = server.rpartition(":")
    began = time.perf_counter()
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except TimeoutError:
        return Finding(
            f"server {server}",
            "failed",
            f"no answer within {_CONNECT_SECONDS:g} s",
            "is it the right address (KAFKA_BOOTSTRAP_SERVERS), and does a firewall let us through?",
        )
    except OSError as error:
        return Finding(
            f"server {server}",
            "failed",
            str(error),
            "is Kafka running there (KAFKA_BOOTSTRAP_SERVERS)? `tandem sandbox` starts one",
        )
    writer.close()
    with suppress(OSError):  # It was reached, whatever it thinks of our hanging up.
        await writer.wait_closed()
    return Finding(f"server {server}", "ok", f"reached in {_since(began)}")


async def _broker(admin: Any, broker: dict[str, Any], *, deadline_seconds: float) -> Finding:
    """Ask a broker what it speaks, at the address that it tells its clients."""
    number, address = broker["node_id"], f"{broker['host']}:{broker['port']}"
    try:
        async with asyncio.timeout(deadline_seconds):
            await admin._send_request_to_node(number, ApiVersionRequest())  # noqa: SLF001 — no public way
            # The connection was part of the first one.
            began = time.perf_counter()
            answer = await admin._send_request_to_node(number, ApiVersionRequest())  # noqa: SLF001
    except Exception as error:  # noqa: BLE001 — of any kind: that it can't be reached is the finding
        return Finding(
            f"broker {number}",
            "failed",
            f"{address}: {error!r}",
            "it is down, or its advertised.listeners names an address that is not to be reached from here",
        )
    most = {key: highest for key, _lowest, highest in answer.api_versions}
    return Finding(
        f"broker {number}",
        "ok",
        f"{address}, there and back in {_since(began)}, "
        f"speaks Produce up to {most[_PRODUCE]} and Fetch up to {most[_FETCH]}",
    )


def _topic(report: Report) -> Finding:
    what = f"topic {report.name}"
    if report.state == "missing":
        return Finding(what, "failed", "missing", "`tandem topics create` makes it")
    size = f"{report.partitions} partition{'s' * (report.partitions != 1)}, replication {report.replication}"
    if report.discrepancies:
        found = map(str, report.discrepancies)
        remedies = dict.fromkeys(one.remedy for one in report.discrepancies)
        return Finding(what, "failed", "; ".join([size, *found]), "; ".join(remedies))
    return Finding(what, "ok", size)


def _group(group: GroupFacts) -> Finding:
    count = len(group.members)
    members = f"{count} member{'s' * (count != 1)}" if count else "no member: no processor runs"
    # Not wrong by itself: a processor may be stopped on purpose.
    advice = "" if count or not group.lag else "`python -m services.processor` starts one, and counts them"
    return Finding(
        f"group {group.name}", "ok", f"{group.state.lower()}, {members}, lag {group.lag:,}", advice
    )


def _how(kafka: KafkaSettings) -> str:
    protocol = kafka.security_protocol
    return f"{protocol}, {kafka.sasl_mechanism}" if protocol.startswith("SASL") else protocol


def _since(began: float) -> str:
    return f"{(time.perf_counter() - began) * 1_000:.1f} ms"
