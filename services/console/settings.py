"""The console's settings: `CONSOLE_*`."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.settings import Group, HttpSettings, KafkaSettings, LogSettings, PositiveSeconds


class ConsoleSettings(Group):
    """How long an operator's command waits, and how much it shows."""

    model_config = SettingsConfigDict(env_prefix="CONSOLE_")

    unavailable_seconds: PositiveSeconds = Field(
        10,
        description="how long a command waits for an absent Kafka, at most KAFKA_UNAVAILABLE_SECONDS; "
        "topics create, which services wait for, waits as long as that one says",
    )
    stall_seconds: PositiveSeconds = Field(
        45, description="how long reading may yield nothing; longer than a transaction may stay open"
    )
    refresh_seconds: float = Field(1, ge=0.1, le=3_600, description="between two looks of a live view")
    verify_timeout_seconds: PositiveSeconds = Field(600, description="for all of one verification")
    verify_differences: int = Field(20, ge=1, le=100_000, description="listed of each kind; all are counted")
    drain_seconds: PositiveSeconds = Field(
        60, description="how long the end of a demo waits until all that was sent is counted"
    )


# What every command loads. The services' own groups are theirs: see `tandem config`.
GROUPS: tuple[type[Group], ...] = (KafkaSettings, HttpSettings, LogSettings, ConsoleSettings)
