"""`PROCESSOR_*`: what the processor does, and how it commits."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from services.processor.alerts import Thresholds
from shared import topics
from shared.settings import CommaSeparated, Group, PositiveSeconds

# In the place of names in PROCESSOR_TOPOLOGIES: this process only delivers.
NO_TOPOLOGY = "none"
# What comes of delivering; the retries are delivered in any case.
_NEVER_DELIVERED = frozenset(
    {
        topics.DELIVERY_DEAD_LETTERS,
        topics.DELIVERY_RETRIES,
        topics.handled_of(topics.DELIVERY_DEAD_LETTERS),
    }
)
# The bounds of the reference system.
_DEFAULT_THRESHOLDS = {
    "temperature": Thresholds(10.0, 80.0),
    "cpu_usage": Thresholds(None, 90.0),
    "memory_usage": Thresholds(None, 85.0),
}
# Below it a fetch costs more than what it brings.
_LEAST_FETCH_BYTES = 64 * 1024

# A table's head, or a key: neither stands in `sensor:min:max`.
_LOOKS_LIKE_TOML = re.compile(r"^\s*(\[|[^,:=]+=)", re.MULTILINE)


def _parse_thresholds(value: object) -> object:
    """Read `sensor:min:max`, comma separated, or TOML with a table for each sensor; either bound left out.

    `temperature:10:80,cpu_usage::90` is the same as tables `[temperature]` with `min = 10` and `max = 80`,
    and `[cpu_usage]` with `max = 90`.
    """
    if not isinstance(value, str):
        return value
    found = _tables(value) if _LOOKS_LIKE_TOML.search(value) else _entries(value)
    thresholds: dict[str, Thresholds] = {}
    for sensor, lower, upper in found:
        if sensor in thresholds:
            raise ValueError(f"{sensor} is named twice")
        given = [bound for bound in (lower, upper) if bound is not None]
        if not all(map(math.isfinite, given)) or given != sorted(given):
            raise ValueError(f"the bounds of {sensor} have to be numbers, min not above max")
        thresholds[sensor] = Thresholds(lower, upper)
    return thresholds


def _entries(text: str) -> Iterator[tuple[str, float | None, float | None]]:
    for entry in filter(None, (part.strip() for part in text.split(","))):
        sensor, lower, upper = (["", "", *entry.rsplit(":", 2)])[-3:]
        if not sensor:
            raise ValueError(f"{entry!r} is not sensor:min:max (either bound may be left out)")
        try:
            yield sensor, float(lower) if lower else None, float(upper) if upper else None
        except ValueError:
            raise ValueError(f"the bounds of {sensor} have to be numbers or empty") from None


def _tables(text: str) -> Iterator[tuple[str, float | None, float | None]]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"it is no TOML: {error}") from None
    for sensor, bounds in tables.items():
        if not isinstance(bounds, dict):
            raise ValueError(f"{sensor} has to be a table with min, max or both, as in [{sensor}] max = 90")  # noqa: TRY004 — pydantic takes a ValueError
        unknown = bounds.keys() - {"min", "max"}
        if unknown:
            raise ValueError(f"[{sensor}] has {', '.join(sorted(unknown))}: a sensor has min, max or both")
        for name, bound in bounds.items():
            if isinstance(bound, bool) or not isinstance(bound, int | float):
                raise ValueError(f"{name} of [{sensor}] has to be a number")  # noqa: TRY004 — the same
        lower, upper = bounds.get("min"), bounds.get("max")
        try:
            yield sensor, None if lower is None else float(lower), None if upper is None else float(upper)
        except OverflowError:
            raise ValueError(f"the bounds of {sensor} are too large") from None


class ProcessorSettings(Group):
    """See each field's description."""

    model_config = SettingsConfigDict(env_prefix="PROCESSOR_", arbitrary_types_allowed=True)

    topologies: CommaSeparated = Field(
        ("behavior", "sensors"),
        description="behavior, sensors, or the dotted path of one's own; none: delivery alone",
    )
    guarantee: Literal["exactly_once", "at_least_once"] = Field(
        "exactly_once", description="how results reach Kafka; docs/reliability.md has what may count twice"
    )
    start: Literal["earliest", "latest"] = Field(
        "earliest", description="where a group without a committed offset starts"
    )
    validation: Literal["counted", "full"] = Field(
        "counted", description="check the fields that are counted, or every field of the schema"
    )

    commit_every_events: int = Field(
        100_000, ge=0, le=10_000_000, description="no transaction holds more records; 0: no bound by number"
    )
    commit_every_milliseconds: int = Field(100, ge=0, le=600_000, description="0: no bound by time")
    commit_stretch_milliseconds: int = Field(
        1000,
        ge=0,
        le=600_000,
        description="behind, commits that take long or hold little are up to this far apart; 0: never",
    )
    commit_when_caught_up: bool = Field(True, description="commit at once when nothing is left to read")
    commit_pause_milliseconds: int = Field(
        25, ge=0, le=60_000, description="between two commits of a caught-up partition: the price of one"
    )
    pending_bytes: int = Field(
        16 * 2**20, ge=2**16, le=2**30, description="results held for one transaction of a partition"
    )

    fetch_min_bytes: int = Field(1, ge=1, le=2**30)
    fetch_max_wait_milliseconds: int = Field(
        2000,
        ge=1,
        le=60_000,
        description=(
            "how long a broker waits for PROCESSOR_FETCH_MIN_BYTES; half of KAFKA_REQUEST_TIMEOUT_SECONDS at "
            "most"
        ),
    )
    fetch_max_partition_bytes: int = Field(2**20, ge=2**10, le=2**30)
    fetch_max_bytes: int = Field(
        16 * 2**20,
        ge=2**10,
        le=2**32,
        description="of all partitions of a topology in this process, in equal parts",
    )

    window_size: int = Field(10, ge=1, le=10_000, description="readings a sensor")
    alert_mode: Literal["transitions", "every_breach"] = "transitions"
    alert_hysteresis: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="how far back inside a reading resolves an alert"
    )
    thresholds: Annotated[dict[str, Thresholds], NoDecode, BeforeValidator(_parse_thresholds)] = Field(
        _DEFAULT_THRESHOLDS, description="sensor:min:max, comma separated, either bound may be empty; or TOML"
    )

    state_max_keys: int = Field(20_000_000, ge=1, le=2**40, description="of one partition")
    on_retention_loss: Literal["stop", "skip"] = Field(
        "stop", description="when retention has removed records that were not read yet"
    )

    instance_id: str | None = Field(
        None, pattern=r"^[A-Za-z0-9._-]{1,200}$", description="static membership: unique for each process"
    )
    session_timeout_seconds: float = Field(6, ge=1, le=1800, description="brokers refuse under 6 as shipped")
    rebalance_timeout_seconds: float = Field(10, ge=1, le=1800)
    transaction_timeout_seconds: float = Field(30, ge=1, le=900)
    stop_seconds: PositiveSeconds = Field(5, description="to finish what is in flight at a stop")
    delivery_url: SecretStr | None = Field(
        None, description="webhook that purchases and alerts are delivered to; empty: no delivery"
    )
    delivery_token: SecretStr | None = Field(None, description="goes as Authorization: Bearer")
    delivery_topics: CommaSeparated = Field(
        (topics.PURCHASES, topics.ALERTS), description="what is delivered, without the prefix"
    )
    worker_count: int = Field(3, ge=1, le=1000, description="deliveries at a time")
    delivery_timeout_seconds: PositiveSeconds = Field(10, description="of one attempt")
    delivery_attempts: int = Field(8, ge=1, le=1000, description="then it is a dead letter")
    delivery_first_pause_seconds: PositiveSeconds = Field(
        0.5, description="after the first failure; doubled after each further one"
    )
    delivery_longest_pause_seconds: PositiveSeconds = Field(
        60, description="of any pause, also of one that Retry-After asks for"
    )
    delivery_window_records: int = Field(
        1_000, ge=1, le=1_000_000, description="read and not committed, of a partition"
    )
    delivery_buffer_bytes: int = Field(
        16 * 2**20, ge=2**16, le=2**30, description="read and not delivered, of a topic"
    )
    log_every_events: int = Field(
        100, ge=1, description="statistics are logged each time as many more are committed"
    )

    def fetch_bytes(self, partitions: int) -> int:
        """Return how much a fetch may bring where so many partitions are served; one batch comes anyway."""
        part = max(self.fetch_max_bytes // max(partitions, 1), _LEAST_FETCH_BYTES)
        return min(part, self.fetch_max_partition_bytes)

    def shown(self, field: str) -> str:
        """Return a field's value as its variable would be set."""
        if field != "thresholds":
            return super().shown(field)
        bounds = [(sensor, of.min, of.max) for sensor, of in self.thresholds.items()]
        return ",".join(
            f"{sensor}:{'' if lower is None else f'{lower:g}'}:{'' if upper is None else f'{upper:g}'}"
            for sensor, lower, upper in bounds
        )

    @field_validator("topologies", "delivery_topics")
    @classmethod
    def _at_least_one(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError("at least one is needed")
        if len(set(names)) != len(names):
            raise ValueError("one is named twice")
        return names

    @field_validator("delivery_url")
    @classmethod
    def _http(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url.get_secret_value())
            port = parts.port
            # As a name is looked up: no empty part, none over 63 characters.
            (parts.hostname or "").encode("idna")
        except ValueError:
            raise ValueError("it is not a URL") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise ValueError("it has to be http://host[:port]/path, or https")
        return url

    @field_validator("delivery_token")
    @classmethod
    def _fits_a_header(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not re.fullmatch(r"[!-~]+", token.get_secret_value()):
            raise ValueError("it has to be printable ASCII without spaces")
        return token

    @model_validator(mode="after")
    def _something_to_do(self) -> ProcessorSettings:
        reserved = _NEVER_DELIVERED.intersection(self.delivery_topics)
        if reserved:
            raise ValueError(f"PROCESSOR_DELIVERY_TOPICS: {', '.join(sorted(reserved))} can't be delivered")
        url = self.delivery_url and urlsplit(self.delivery_url.get_secret_value())
        if url and self.delivery_token is not None and url.username is not None:
            raise ValueError(
                "PROCESSOR_DELIVERY_URL has a user name and PROCESSOR_DELIVERY_TOKEN is set: keep one"
            )
        if NO_TOPOLOGY in self.topologies:
            if len(self.topologies) > 1:
                raise ValueError(f"PROCESSOR_TOPOLOGIES: {NO_TOPOLOGY} stands alone")
            if self.delivery_url is None:
                raise ValueError(
                    f"nothing to do: PROCESSOR_TOPOLOGIES={NO_TOPOLOGY} needs PROCESSOR_DELIVERY_URL"
                )
        return self

    @model_validator(mode="after")
    def _something_commits(self) -> ProcessorSettings:
        if not (self.commit_every_events or self.commit_every_milliseconds or self.commit_when_caught_up):
            raise ValueError(
                "nothing would ever be committed: set PROCESSOR_COMMIT_EVERY_EVENTS, "
                "PROCESSOR_COMMIT_EVERY_MILLISECONDS or PROCESSOR_COMMIT_WHEN_CAUGHT_UP"
            )
        return self
