"""Worlds for the contract tests: on the run's Kafka, and on one behind a proxy that can be frozen and cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from confluent_kafka.admin import AdminClient

from sandbox import Sandbox
from sandbox.ports import HOST, free_ports
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
def own_kafka() -> Iterator[tuple[Sandbox, int, int]]:
    """A broker that tells its clients to connect to a proxy; with the proxy's port and its own."""
    own, proxied = free_ports(2)
    with Sandbox(port=own, properties={"advertised.listeners": f"CLIENT://{HOST}:{proxied}"}) as sandbox:
        yield sandbox, proxied, own


@pytest.fixture
async def proxy(own_kafka: tuple[Sandbox, int, int]) -> AsyncIterator[Proxy]:
    _, proxied, own = own_kafka
    async with Proxy(proxied, own) as running:
        yield running


@pytest.fixture
async def far_world(proxy: Proxy, prefix: str) -> AsyncIterator[World]:
    """A world whose broker is behind the proxy."""
    made = World(f"{HOST}:{proxy.port}", prefix)
    admin = AdminClient({"bootstrap.servers": f"{HOST}:{proxy.port}"})
    await asyncio.to_thread(create, admin, made.topics)
    yield made
    await made.close()
