"""The generator's settings: `GENERATOR_*`."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from shared.partitioners import partitioner_of
from shared.settings import CommaSeparated, Group, PositiveSeconds

StreamName = Literal["behavior", "sensors"]
_STREAMS = ("behavior", "sensors")
_KIBIBYTE = 2**10
_MEBIBYTE = 2**20
_OCTET = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IP_PREFIX = re.compile(rf"{_OCTET}(\.{_OCTET}){{2}}")


def _rate(value: object) -> object:
    if value in ("reference", "max"):
        return value
    try:
        rate = float(str(value))
    except ValueError:
        rate = math.nan
    if not 0 < rate <= 100_000_000:
        raise ValueError("has to be reference, max, or a number of events a second above 0")
    return rate


Rate = Annotated[Literal["reference", "max"] | float, BeforeValidator(_rate)]


class GeneratorSettings(Group):
    """What is generated, how fast, for how long, and how it is delivered."""

    model_config = SettingsConfigDict(env_prefix="GENERATOR_")

    # What, how fast, how long.
    streams: CommaSeparated = Field(_STREAMS, description="behavior, sensors, or both, comma separated")
    rate: Rate = Field(
        "reference", description="of user events: reference (random gaps), max, or events a second"
    )
    sensor_rate: Rate = Field(
        "reference",
        description="of readings: reference (each sensor at its interval), max, or readings a second",
    )
    seed: int | None = Field(
        None, ge=0, le=2**63 - 1, description="the same seed, the same events; empty: random, and logged"
    )
    duration_seconds: float | None = Field(
        None, gt=0, le=31_536_000, description="events are made for so long; empty: no limit"
    )
    events: int | None = Field(
        None, ge=1, le=2**62, description="acknowledged events a stream, exactly; empty: no limit"
    )
    catch_up_seconds: float = Field(
        1.0, ge=0, le=3_600, description="how much lateness a paced stream makes up for; the rest it lets go"
    )

    # How it is delivered.
    partitioner: str = Field(
        "murmur2", description="murmur2 (as Kafka's own clients), md5 (reference), or a dotted path"
    )
    partition_cache_keys: int = Field(
        100_000, ge=0, le=10_000_000, description="keys whose partition is remembered"
    )
    acks: Literal["all", "1"] = Field(
        "all", description="all: idempotent, no duplicates; 1: the leader alone, a retry may duplicate"
    )
    linger_milliseconds: float = Field(
        5, ge=0, le=60_000, description="how long a batch may wait to be filled"
    )
    batch_bytes: int = Field(
        256 * _KIBIBYTE, ge=_KIBIBYTE, le=_MEBIBYTE, description="of one record batch, before compression"
    )
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(
        "none", description="of record batches"
    )
    buffer_bytes: int = Field(
        32 * _MEBIBYTE,
        ge=64 * _KIBIBYTE,
        # One request may carry all of it, and a broker takes 100 MB (socket.request.max.bytes).
        le=96 * _MEBIBYTE,
        description="made and not acknowledged, all streams together; full: the generator waits",
    )
    delivery_timeout_seconds: PositiveSeconds = Field(
        120, description="from handing a batch over to its acknowledgement, while Kafka answers"
    )
    drain_seconds: PositiveSeconds = Field(
        8, description="after SIGTERM: how long what is in flight is waited for"
    )
    ledger_seconds: PositiveSeconds = Field(1, description="from one entry in the ledger to the next")

    # What the events look like; the defaults are the reference system's.
    user_id_min: int = Field(1_000, ge=0, le=2**62, description="the lowest user id")
    user_id_max: int = Field(9_999, ge=0, le=2**62, description="the highest user id")
    pages: int = Field(10, ge=1, le=1_000_000, description="pages are /page/1 up to this one")
    ip_prefix: str = Field("192.168.1", description="first three octets of addresses; the last is 1 to 255")
    gap_min_seconds: float = Field(
        0.1, ge=0.001, le=86_400, description="shortest gap between user events at the reference rate"
    )
    gap_max_seconds: float = Field(
        1.0, ge=0.001, le=86_400, description="longest gap between user events at the reference rate"
    )
    sensors: CommaSeparated = Field(
        ("temperature", "humidity", "pressure", "cpu_usage", "memory_usage"), description="sensor ids"
    )
    sensor_value_min: float = Field(0, ge=-1e7, le=1e7, description="lowest reading; two decimal places")
    sensor_value_max: float = Field(100, ge=-1e7, le=1e7, description="highest reading")
    sensor_locations: CommaSeparated = Field(("server1", "server2", "server3"), description="of readings")
    sensor_interval_seconds: float = Field(
        0.5, ge=0.001, le=86_400, description="between readings of a sensor at the reference rate"
    )

    @field_validator("streams")
    @classmethod
    def _known_streams(cls, streams: tuple[str, ...]) -> tuple[str, ...]:
        if not streams or not set(streams) <= set(_STREAMS) or len(set(streams)) != len(streams):
            raise ValueError(f"has to be one or both of {', '.join(_STREAMS)}, each once")
        return streams

    @field_validator("partitioner")
    @classmethod
    def _known_partitioner(cls, name: str) -> str:
        partitioner_of(name)
        return name

    @field_validator("acks", mode="before")
    @classmethod
    def _accountable(cls, acks: object) -> object:
        if str(acks) == "0":
            raise ValueError(
                "0 is refused: without acknowledgements nobody knows what is in Kafka, nothing can be "
                "sent again, and the ledger would be a guess; choose all or 1"
            )
        return acks

    @field_validator("ip_prefix")
    @classmethod
    def _three_octets(cls, prefix: str) -> str:
        if not _IP_PREFIX.fullmatch(prefix):
            raise ValueError("has to be three octets, such as 192.168.1")
        return prefix

    @field_validator("sensors")
    @classmethod
    def _sensor_ids(cls, sensors: tuple[str, ...]) -> tuple[str, ...]:
        if not 1 <= len(sensors) <= 100_000 or len(set(sensors)) != len(sensors):
            raise ValueError("has to be 1 to 100000 ids, each once")
        if max(map(len, sensors)) > 128:
            raise ValueError("an id has at most 128 characters")
        return sensors

    @field_validator("sensor_locations")
    @classmethod
    def _locations(cls, locations: tuple[str, ...]) -> tuple[str, ...]:
        if not 1 <= len(locations) <= 100_000 or max(map(len, locations)) > 128:
            raise ValueError("has to be 1 to 100000 names of at most 128 characters")
        return locations

    @model_validator(mode="after")
    def _together(self) -> GeneratorSettings:
        problems = []
        if not self.user_id_min <= self.user_id_max < self.user_id_min + 2**32:
            problems.append("GENERATOR_USER_ID_MAX has to be GENERATOR_USER_ID_MIN or up to 2^32 - 1 more")
        if self.gap_max_seconds < self.gap_min_seconds:
            problems.append("GENERATOR_GAP_MAX_SECONDS has to be GENERATOR_GAP_MIN_SECONDS or more")
        if self.sensor_value_max < self.sensor_value_min:
            problems.append("GENERATOR_SENSOR_VALUE_MAX has to be GENERATOR_SENSOR_VALUE_MIN or more")
        if self.buffer_bytes < 4 * self.batch_bytes:
            problems.append("GENERATOR_BUFFER_BYTES has to be 4 times GENERATOR_BATCH_BYTES or more")
        if problems:
            raise ValueError("; ".join(problems))
        return self
