"""Configuration from environment variables: frozen groups, every problem in one message, no secret in it.

A service names its groups and calls `load`. A `.env` file in the working directory is read where there
is one (development); the environment wins. `X_FILE` names a file that holds the value of `X`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from dotenv import dotenv_values
from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from shared.errors import BadConfigurationError
from shared.presets import PRESETS, Preset

# Variables that begin like ours and belong to somebody else: proxies, the Kafka tools' Java options,
# and what Kubernetes puts into a pod for a Service called `kafka`, `http` or `log`.
_FOREIGN = re.compile(
    r"^HTTP_PROXY$"
    r"|^KAFKA_(HEAP_OPTS|OPTS|JVM_PERFORMANCE_OPTS|LOG4J_OPTS|JMX_OPTS|JMX_PORT|HOME)$"
    r"|^[A-Z0-9_]+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?)$"
)
_SECRET_SHOWN = "********"  # noqa: S105 — what is printed in a secret's place


def _split_on_commas(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_on_commas)]
PositiveSeconds = Annotated[float, Field(gt=0, le=86_400)]


class Group(BaseSettings):
    """One group of settings. A field `name` under the prefix `X_` is the variable `X_NAME`.

    Values reach a group only through `load` or as keyword arguments, never from the process's
    environment behind its back.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 — the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take nothing but what is handed in: `load` has read and checked the environment."""
        return (cast("InitSettingsSource", init_settings),)

    @classmethod
    def prefix(cls) -> str:
        """Return the prefix of this group's variables, with its underscore."""
        return str(cls.model_config.get("env_prefix", ""))

    @classmethod
    def variables(cls) -> dict[str, str]:
        """Return the variable's name for each field's name."""
        return {name: f"{cls.prefix()}{name.upper()}" for name in cls.model_fields}

    def shown(self, field: str) -> str:
        """Return a field's value as its variable would be set, or asterisks in a secret's place."""
        value: Any = getattr(self, field)
        if isinstance(value, SecretStr):
            return _SECRET_SHOWN
        if isinstance(value, tuple):
            return ",".join(str(part) for part in value)
        return "" if value is None else str(value)


class KafkaSettings(Group):
    """How Kafka is reached, by both services and the console."""

    model_config = SettingsConfigDict(env_prefix="KAFKA_")

    bootstrap_servers: CommaSeparated = Field(("127.0.0.1:9092",), description="host:port, comma separated")
    client_id: str = Field("tandem", min_length=1, max_length=200, description="shown in the brokers' logs")
    topic_prefix: str = Field(
        "", pattern=r"^[A-Za-z0-9._-]{0,100}$", description="before every topic, group and transactional id"
    )
    preset: Preset = Field("balanced", description="what holds where nothing else is set; see docs")
    topic_partitions: int = Field(6, ge=1, le=10_000, description="for creating input topics only")
    topic_replication: int | None = Field(
        None, ge=1, le=9, description="for creating; empty: 3 where there are 3 brokers, else 1"
    )
    topic_retention_hours: int = Field(168, ge=1, le=876_000, description="of the input topics")
    unavailable_seconds: PositiveSeconds = Field(
        300, description="how long an absent Kafka is borne, at start and later"
    )
    request_timeout_seconds: PositiveSeconds = Field(4, description="of one request to a broker")
    operation_deadline_seconds: PositiveSeconds = Field(
        10, description="of one operation, retries included; then the task is rebuilt"
    )
    metadata_max_age_seconds: PositiveSeconds = Field(5, description="how old the known topology may be")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_cafile: Path | None = Field(None, description="PEM; empty: the system's authorities")
    ssl_certfile: Path | None = Field(None, description="PEM; for mutual TLS")
    ssl_keyfile: Path | None = None
    ssl_key_password: SecretStr | None = None
    ssl_check_hostname: bool = True

    @field_validator("bootstrap_servers")
    @classmethod
    def _hosts_with_ports(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        if not servers:
            raise ValueError("at least one host:port is needed")
        for server in servers:
            host, _, port = server.rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65_536:
                raise ValueError("each entry has to be host:port, comma separated, without a scheme")
        return servers

    @field_validator("ssl_cafile", "ssl_certfile", "ssl_keyfile")
    @classmethod
    def _readable(cls, path: Path | None) -> Path | None:
        if path is not None and not os.access(path, os.R_OK):
            raise ValueError(f"no readable file at {path}")
        return path

    @model_validator(mode="after")
    def _complete(self) -> KafkaSettings:
        needs_login = self.security_protocol.startswith("SASL")
        if needs_login and (not self.sasl_username or self.sasl_password is None):
            raise ValueError(
                f"KAFKA_SECURITY_PROTOCOL={self.security_protocol} needs KAFKA_SASL_USERNAME and "
                "KAFKA_SASL_PASSWORD (or KAFKA_SASL_PASSWORD_FILE)"
            )
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise ValueError("KAFKA_SSL_KEYFILE needs KAFKA_SSL_CERTFILE")
        return self

    def named(self, name: str) -> str:
        """Return a topic, group or transactional id with the prefix in front."""
        return f"{self.topic_prefix}{name}"


class HttpSettings(Group):
    """Where health, metrics and statistics are served."""

    model_config = SettingsConfigDict(env_prefix="HTTP_")

    host: str = Field("127.0.0.1", min_length=1)
    port: int | None = Field(
        None, ge=0, le=65_535, description="0 takes a free one and logs it; empty: the service's own"
    )
    stall_seconds: PositiveSeconds = Field(
        60, description="how long a partition may be behind without moving before /livez says so"
    )


class LogSettings(Group):
    """What is logged, and how it looks."""

    model_config = SettingsConfigDict(env_prefix="LOG_")

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] | None = Field(
        default=None, description="empty: console on a terminal, json elsewhere"
    )

    @field_validator("level", mode="before")
    @classmethod
    def _any_case(cls, level: object) -> object:
        return level.lower() if isinstance(level, str) else level


@dataclass(frozen=True)
class Origin:
    """A setting as it is in force. `source` is environment, .env, file, preset or default."""

    variable: str
    value: str
    source: str


GroupT = TypeVar("GroupT", bound=Group)


class Settings:
    """The loaded groups of one process, each by its type."""

    def __init__(self, groups: dict[type[Group], Group], origins: list[Origin]) -> None:
        self._groups = groups
        self.origins = origins

    def __getitem__(self, group: type[GroupT]) -> GroupT:
        return cast("GroupT", self._groups[group])


def load(
    *groups: type[Group], environ: Mapping[str, str] | None = None, dotenv: Path | None = Path(".env")
) -> Settings:
    """Read, check and freeze the settings of `groups`.

    Raises:
        BadConfigurationError: with every problem there is: unknown names (and the nearest right one),
            bad values, files that can't be read.
    """
    from_file = {k: v for k, v in dotenv_values(dotenv).items() if v} if dotenv and dotenv.is_file() else {}
    from_environment = {k: v for k, v in (os.environ if environ is None else environ).items() if v}
    # One X_FILE pushes out an X from a weaker source, and the other way round.
    merged: dict[str, tuple[str, str]] = {k: (v, ".env") for k, v in from_file.items()}
    for name in from_environment:
        merged.pop(name.removesuffix("_FILE") if name.endswith("_FILE") else f"{name}_FILE", None)
    merged |= {name: (value, "environment") for name, value in from_environment.items()}
    problems = _unknown_names(merged, groups)
    merged |= _of_preset(merged, groups)
    loaded: dict[type[Group], Group] = {}
    origins: list[Origin] = []
    for group in groups:
        values, sources = _values_of(group, merged, problems)
        try:
            instance = group(**values)
        except ValidationError as error:
            problems += _explain(group, error, values)
            problems += _explain_together(group, error, values)
            continue
        loaded[group] = instance
        origins += _origins(instance, sources)
    if problems:
        raise BadConfigurationError(problems)
    return Settings(loaded, origins)


def _unknown_names(present: Mapping[str, object], groups: tuple[type[Group], ...]) -> list[str]:
    known = {variable for group in groups for variable in group.variables().values()}
    prefixes = tuple(group.prefix() for group in groups)
    problems = []
    for name in sorted(present):
        plain = name.removesuffix("_FILE")
        if not name.startswith(prefixes) or name in known or plain in known or _FOREIGN.match(name):
            continue
        near = difflib.get_close_matches(plain, known, n=1, cutoff=0.7)
        hint = f"did you mean {near[0]}?" if near else f"known are: {', '.join(sorted(known))}"
        problems.append(f"{name}: there is no such setting; {hint}")
    return problems


def _of_preset(
    present: Mapping[str, tuple[str, str]], groups: tuple[type[Group], ...]
) -> dict[str, tuple[str, str]]:
    """Return what the preset sets of these groups, but for what is set otherwise."""
    # As the group itself reads it; what is wrong is said there.
    name = _values_of(KafkaSettings, present, [])[0].get("preset")
    if KafkaSettings not in groups or name not in PRESETS:
        return {}
    known = {one for group in groups for one in group.variables().values()}
    return {
        one: (value, f"preset {name}")
        for one, value in PRESETS[name].items()
        if one in known and one not in present and f"{one}_FILE" not in present
    }


def _values_of(
    group: type[Group], present: Mapping[str, tuple[str, str]], problems: list[str]
) -> tuple[dict[str, str], dict[str, str]]:
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    for field, variable in group.variables().items():
        if variable in present and f"{variable}_FILE" in present:
            problems.append(f"{variable}: set twice, also by {variable}_FILE; keep one of them")
        elif variable in present:
            values[field], sources[field] = present[variable]
        elif f"{variable}_FILE" in present:
            path = present[f"{variable}_FILE"][0]
            try:
                values[field] = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
                problems.append(f"{variable}_FILE: {path} can't be read: {reason}")
            sources[field] = f"file {path}"
    return values, sources


def _explain(group: type[Group], error: ValidationError, values: Mapping[str, str]) -> list[str]:
    """One line for each thing wrong in a group. A value is shown only where it can't be a secret."""
    lines = []
    for problem in error.errors(include_input=False, include_context=False, include_url=False):
        message = str(problem["msg"]).removeprefix("Value error, ")
        if not problem["loc"]:
            lines.append(message)
            continue
        field = str(problem["loc"][0])
        variable = group.variables().get(field, field)
        may_be_shown = "sasl" not in field and "password" not in field and not _is_secret(group, field)
        shown = f" (it is {values[field][:80]!r})" if may_be_shown and field in values else ""
        lines.append(f"{variable}: {message}{shown}")
    return lines


def _explain_together(group: type[Group], error: ValidationError, values: Mapping[str, str]) -> list[str]:
    """What is wrong with the good fields together: pydantic looks only when each one is right alone."""
    bad = {str(problem["loc"][0]) for problem in error.errors(include_input=False) if problem["loc"]}
    good: dict[str, Any] = {field: value for field, value in values.items() if field not in bad}
    if not bad:
        return []
    try:
        group(**good)
    except ValidationError as together:
        return _explain(group, together, values)
    return []


def _is_secret(group: type[Group], field: str) -> bool:
    info = group.model_fields.get(field)
    return info is not None and "SecretStr" in str(info.annotation)


def _origins(group: Group, sources: Mapping[str, str]) -> list[Origin]:
    origins = []
    for field, variable in type(group).variables().items():
        origins.append(Origin(variable, group.shown(field), sources.get(field, "default")))
    return origins
