"""The processor, saying of each wait of its consumers how long it may be."""

from __future__ import annotations

import sys
from typing import Any

from aiokafka import AIOKafkaConsumer

from services.processor.__main__ import run
from shared import logs

getmany = AIOKafkaConsumer.getmany


async def said(consumer: AIOKafkaConsumer, *places: Any, timeout_ms: int = 0, **more: Any) -> Any:
    logs.get("waiting").info("waits", milliseconds=timeout_ms)
    return await getmany(consumer, *places, timeout_ms=timeout_ms, **more)


if __name__ == "__main__":
    AIOKafkaConsumer.getmany = said
    sys.exit(run())
