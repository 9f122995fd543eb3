"""`tandem schema`: what the topics hold, as documents."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from services.console import schema
from services.console.commands.options import project_version
from services.console.output import Output
from shared import topics
from shared.service import FAILED
from shared.settings import KafkaSettings

_EXAMPLES = """\b
Examples:
  tandem schema > asyncapi.json          every topic: AsyncAPI 3.0
  tandem schema user_behavior            one topic's values: JSON Schema
"""


@click.command("schema", epilog=_EXAMPLES)
@click.argument("topic", required=False)
def schema_command(topic: str | None) -> None:
    """Print AsyncAPI 3.0 of all topics, or the JSON Schema of one TOPIC's values.

    Made from what the services encode and decode. Asks no Kafka; names are without KAFKA_TOPIC_PREFIX.
    """
    out = Output(as_json=True)
    if topic is None:
        _print(document())
        return
    try:
        _print(schema.json_schema(topic))
    except KeyError:
        known = sorted(schema.described_topics())
        why = "holds records as they were, of whatever kind" if topic in known else "is unknown"
        out.error(f"{topic} {why}: topics are {', '.join(known)}")
        sys.exit(FAILED)


def document() -> dict[str, Any]:
    """Return the AsyncAPI document, with topics as they are made where nothing is set."""
    fields = KafkaSettings.model_fields
    definitions = topics.definitions(
        partitions=fields["topic_partitions"].default, retention_hours=fields["topic_retention_hours"].default
    )
    return schema.asyncapi(project_version(), definitions)


def _print(found: dict[str, Any]) -> None:
    click.echo(json.dumps(found, indent=2, ensure_ascii=False))
