"""Worlds for the contract tests: on the run's Kafka, and on one behind a proxy that can be frozen and cut."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from confluent_kafka.admin import AdminClient

from sandbox import Sandbox
from sandbox.ports import HOST
from tests.conftest import Kafka, create
from tests.contract.guarantees import World
from tests.contract.proxy import Proxy


@pytest.fixture
async def world(kafka: Kafka, prefix: str) -> AsyncIterator[World]:
    made = World(kafka.bootstrap_servers, prefix)
    await asyncio.to_thread(create, kafka.admin, made.topics)
    yield made
    await made.close()


@pytest.fixture(scope="module")
def own_kafka() -> Iterator[tuple[Sandbox, socket.socket]]:
    """A broker that tells its clients to connect to a proxy; with the socket at which that listens."""
    with (
        socket.create_server((HOST, 0)) as listening,
        Sandbox(advertised={"CLIENT": [listening.getsockname()[1]]}) as sandbox,
    ):
        yield sandbox, listening


@pytest.fixture
async def proxy(own_kafka: tuple[Sandbox, socket.socket]) -> AsyncIterator[Proxy]:
    sandbox, listening = own_kafka
    async with Proxy(listening, int(sandbox.bootstrap_servers.rpartition(":")[2])) as running:
        yield running


@pytest.fixture
async def far_world(proxy: Proxy, prefix: str) -> AsyncIterator[World]:
    """A world whose broker is behind the proxy."""
    # A member is to outlive all the time that a broker is frozen for.
    made = World(f"{HOST}:{proxy.port}", prefix, session_seconds=60)
    admin = AdminClient({"bootstrap.servers": f"{HOST}:{proxy.port}"})
    await asyncio.to_thread(create, admin, made.topics)
    yield made
    await made.close()
