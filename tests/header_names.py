"""Sends records with header names that are not UTF-8. No client does: librdkafka's takes text, so the batch
is made by the pure Python builder of another one, which only asks a name for its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

# key, value, headers
Content = tuple[bytes | None, bytes | None, Sequence[tuple[bytes, bytes | None]]]
CODECS = {None: 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
FIRST_TIMESTAMP = 1_700_000_000_000


class Name:
    """A header's name, of any bytes."""

    def __init__(self, name: bytes) -> None:
        self._name = name

    def encode(self, _: str) -> bytes:
        return self._name


async def send_any_names(
    servers: str,
    topic: str,
    partition: int,
    contents: Sequence[Content],
    *,
    compression: str | None = None,
) -> int:
    """Send records as one batch, and return the offset of the first."""
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        batch: Any = producer.create_batch()
        batch._builder = _DefaultRecordBatchBuilderPy(2, CODECS[compression], 0, -1, -1, -1, 2**20)
        for number, (key, value, headers) in enumerate(contents):
            named = [(Name(name), content) for name, content in headers]
            stamp = FIRST_TIMESTAMP + number
            assert batch.append(timestamp=stamp, key=key, value=value, headers=named) is not None
        batch.close()
        metadata = await (await producer.send_batch(batch, topic, partition=partition))
    return int(metadata.offset)
