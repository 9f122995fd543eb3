# ruff: noqa: INP001 -- scripts are no package
"""Prints `.env.example`: every setting with its meaning, what it may be, and its default.

`python -m scripts.env_example > .env.example` from the repository's root, after a setting was changed;
tests/unit/test_env_example.py fails until that is done.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, JsonSchemaWarningKind
from pydantic_core import CoreSchema

from services.console.settings import ConsoleSettings
from services.generator.settings import GeneratorSettings
from services.processor.alerts import Thresholds
from services.processor.settings import ProcessorSettings
from shared.settings import Group, HttpSettings, KafkaSettings, LogSettings

GROUPS: dict[type[Group], str] = {
    KafkaSettings: "how Kafka is reached (generator, processor, tandem)",
    GeneratorSettings: "what the generator makes, how fast, and how it is delivered",
    ProcessorSettings: "what the processor does, and how it commits",
    ConsoleSettings: "the tandem command line",
    HttpSettings: "where a service shows its health, metrics and statistics",
    LogSettings: "what is logged, and how it looks",
}
# Of the compose files alone; no service reads them.
COMPOSE: dict[str, tuple[str, str]] = {
    "TANDEM_KAFKA_PORT": ("9092", "port of this machine (127.0.0.1) where Kafka is reached from outside"),
    "TANDEM_KAFKA_PORT_2": ("9093", "the same, of the second broker of docker-compose.cluster.yml"),
    "TANDEM_KAFKA_PORT_3": ("9094", "the same, of its third broker"),
    "TANDEM_GENERATOR_PORT": ("8081", "port of this machine (127.0.0.1) of the generator's HTTP endpoints"),
    "TANDEM_BOOTSTRAP_SERVERS": (
        "kafka:9092",
        "Kafka as the containers reach it; KAFKA_BOOTSTRAP_SERVERS does not reach into them",
    ),
    "TANDEM_IMAGE": ("tandem:latest", "name of the image that is built and run"),
    "TANDEM_REVISION": ("unknown", "revision that the image is labelled with"),
    "TANDEM_ENV_FILE": (".env", "file with the services' settings"),
    "TANDEM_KAFKA_MEMORY": ("1536m", "memory limit of the broker"),
    "TANDEM_GENERATOR_MEMORY": ("512m", "memory limit of each generator"),
    "TANDEM_PROCESSOR_MEMORY": ("1g", "memory limit of each processor"),
    "TANDEM_CONSOLE_MEMORY": ("1g", "memory limit of each tandem command"),
}
# For the fields that say nothing about themselves.
WORDS = {
    "KAFKA_SECURITY_PROTOCOL": "of the brokers' listener",
    "KAFKA_SASL_MECHANISM": "how to log in, where the protocol is SASL_",
    "KAFKA_SASL_USERNAME": "who logs in",
    "KAFKA_SASL_PASSWORD": "its password",
    "KAFKA_SSL_KEYFILE": "PEM; the private key of KAFKA_SSL_CERTFILE",
    "KAFKA_SSL_KEY_PASSWORD": "of KAFKA_SSL_KEYFILE; empty: it has none",
    "KAFKA_SSL_CHECK_HOSTNAME": "whether a broker's certificate has to name its host",
    "PROCESSOR_FETCH_MIN_BYTES": "a broker answers a fetch when it has as much, or has waited long enough",
    "PROCESSOR_FETCH_MAX_PARTITION_BYTES": "of one partition in one fetch",
    "PROCESSOR_ALERT_MODE": "fire once and resolve, or fire at each reading beyond the threshold",
    "PROCESSOR_REBALANCE_TIMEOUT_SECONDS": "for all members to join again when one comes or goes",
    "PROCESSOR_TRANSACTION_TIMEOUT_SECONDS": "after which brokers abort a transaction that was left open",
    "HTTP_HOST": "address to listen on; the container image says 0.0.0.0",
    "LOG_LEVEL": "the least that is logged",
}
_INTRODUCTION = """\
Every setting there is. A line that is uncommented and changed is in force; the values shown are the
defaults, and nothing after the = means unset. Copy this file to .env:
    cp .env.example .env
It is read by the services and by `tandem` where they are started in this folder, and by
`docker compose` (docs/containers.md); a variable of the environment wins over it. A misspelt name
stops the start, and so does a value that is out of its bounds.

Any setting may come from a file instead: KAFKA_SASL_PASSWORD_FILE=/run/secrets/kafka names a file
that holds the value of KAFKA_SASL_PASSWORD.

This file is made by `python -m scripts.env_example`; a test holds it to the code.
"""
_SEEN_IN_COMPOSE = re.compile(r"\$\{(\w+)")
_COLUMNS = 100


class _Schema(GenerateJsonSchema):
    """Takes a type that JSON Schema does not know for text: in a variable it is."""

    # The defaults are taken from the fields, not from here.
    ignored_warning_kinds: set[JsonSchemaWarningKind] = {"non-serializable-default"}  # noqa: RUF012 -- pydantic's

    def handle_invalid_for_json_schema(self, schema: CoreSchema, error_info: str) -> JsonSchemaValue:  # noqa: ARG002
        return {"type": "string"}


def render() -> str:
    """Return the whole file.

    Raises:
        KeyError: a field has no description, and WORDS has none for it.
    """
    return "\n".join(_lines()) + "\n"


def variables_of_compose(compose_file: Path) -> set[str]:
    """Return the variables that a compose file takes from the shell or from `.env`."""
    return set(_SEEN_IN_COMPOSE.findall(compose_file.read_text(encoding="utf-8")))


def undescribed() -> set[str]:
    """Return the variables whose fields have no description."""
    return {
        variable
        for group in GROUPS
        for field, variable in group.variables().items()
        if not group.model_fields[field].description
    }


def _lines() -> Iterator[str]:
    for line in _INTRODUCTION.splitlines():
        yield f"# {line}".rstrip()
    for group, heading in GROUPS.items():
        yield from _heading(f"{group.prefix()}*: {heading}")
        schema = group.model_json_schema(schema_generator=_Schema)["properties"]
        for field, variable in group.variables().items():
            info = group.model_fields[field]
            meaning, allowed = info.description or WORDS[variable], _allowed(schema[field])
            if allowed and allowed not in meaning:
                meaning += f" [{allowed}]"
            yield from _setting(variable, as_text(info.default), meaning)
    yield from _heading("TANDEM_*: docker-compose.yml alone; no service reads them")
    for variable, (default, meaning) in COMPOSE.items():
        yield from _setting(variable, default, meaning)


def _heading(text: str) -> Iterator[str]:
    yield from ("", f"# ---- {text} ".ljust(_COLUMNS, "-"))


def _setting(variable: str, default: str, meaning: str) -> Iterator[str]:
    yield ""
    for line in textwrap.wrap(meaning, _COLUMNS - 2, break_on_hyphens=False):
        yield f"# {line}"
    yield f"#{variable}={default}"


def as_text(value: Any) -> str:
    """Return a setting's value as it is written in the environment."""
    match value:
        case None:
            text = ""
        case bool():
            text = str(value).lower()
        case float() if value.is_integer():
            text = str(int(value))
        case SecretStr():
            text = value.get_secret_value()
        case Thresholds():
            text = f"{as_text(value.min)}:{as_text(value.max)}"
        case dict():
            text = ",".join(f"{key}:{as_text(one)}" for key, one in value.items())
        case tuple():
            text = ",".join(as_text(one) for one in value)
        case _:
            text = str(value)
    return text


def _allowed(schema: dict[str, Any]) -> str:
    """Say in a few words what a value may be; nothing where it is any text."""
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    return " or ".join(filter(None, (_one_kind(option) for option in options)))


def _one_kind(schema: dict[str, Any]) -> str:
    if "const" in schema:
        return f"{schema['const']} only"
    if "enum" in schema:
        return ", ".join(schema["enum"])
    kind = str(schema["type"])
    if kind in {"integer", "number"}:
        return _bounded("whole number" if kind == "integer" else "number", schema)
    named = {"boolean": "true, false", "array": "comma separated"}
    return named.get(kind) or {"password": "secret", "path": "path"}.get(schema.get("format", ""), "")


def _bounded(kind: str, schema: dict[str, Any]) -> str:
    above, lowest, highest = (schema.get(key) for key in ("exclusiveMinimum", "minimum", "maximum"))
    words = [kind]
    if above is not None:
        words.append(f"above {as_text(above)}")
    if lowest is not None:
        words.append(f"from {as_text(lowest)}")
    if highest is not None:
        words.append(f"up to {as_text(highest)}")
    return " ".join(words)


if __name__ == "__main__":
    sys.stdout.write(render())
