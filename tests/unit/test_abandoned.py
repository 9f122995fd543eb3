"""What the client leaves behind is no error of ours, and nothing else is taken for it."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError

from shared import abandoned, logs


async def complaints_of(leave: Any) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return what the service logged, and what the event loop was left to say, of what `leave` leaves."""
    loop = asyncio.get_running_loop()
    others: list[dict[str, Any]] = []
    with structlog.testing.capture_logs() as lines:
        abandoned.keep_quiet(loop, logs.get("test"))
        ours = loop.get_exception_handler()
        assert ours is not None
        loop.set_exception_handler(
            lambda loop, context: (
                ours(loop, context) if abandoned.is_clients(context) else others.append(context)
            )
        )
        await leave()
        gc.collect()
        await asyncio.sleep(0)
    loop.set_exception_handler(None)
    return lines, others


async def test_a_future_with_an_error_of_kafkas_is_the_clients() -> None:
    async def leave() -> None:
        asyncio.get_running_loop().create_future().set_exception(KafkaConnectionError("gone"))

    lines, others = await complaints_of(leave)
    assert [(line["event"], line["log_level"]) for line in lines] == [("client_left_behind", "debug")]
    assert "never retrieved" in lines[0]["what"]
    assert not others


async def test_a_task_of_the_clients_is_the_clients() -> None:
    async def leave() -> None:
        client = AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
        await asyncio.wait({asyncio.ensure_future(client.bootstrap())})
        await client.close()

    lines, others = await complaints_of(leave)
    assert "client_left_behind" in [line["event"] for line in lines]
    assert not others


async def test_a_task_of_ours_is_said_as_always() -> None:
    async def ours() -> None:
        raise KafkaConnectionError("gone")

    async def leave() -> None:
        await asyncio.wait({asyncio.ensure_future(ours())})

    lines, others = await complaints_of(leave)
    assert not lines
    assert len(others) == 1


async def test_a_future_with_another_error_is_said_as_always() -> None:
    async def leave() -> None:
        asyncio.get_running_loop().create_future().set_exception(ValueError("ours"))

    lines, others = await complaints_of(leave)
    assert not lines
    assert len(others) == 1
