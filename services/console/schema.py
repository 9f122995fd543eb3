"""The topics and what they hold, as documents: JSON Schema and AsyncAPI 3.0. Pure.

All of it comes from the structs that the services encode and decode, and from the topics' definitions.
https://www.asyncapi.com/docs/reference/specification/v3.0.0 says what an AsyncAPI document is,
https://json-schema.org/draft/2020-12 what a schema is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from services.console.letters import ERRORS, OWN_HEADERS, RETRIED_HEADER, Mark
from services.console.lines import SCHEMAS
from shared import topics
from shared.results import Alert, Purchase
from shared.topics import TopicDefinition

JSON_SCHEMA = "https://json-schema.org/draft/2020-12/schema"
ASYNCAPI_VERSION = "3.0.0"
# https://github.com/asyncapi/bindings/tree/master/kafka
_BINDING_VERSION = "0.5.0"
_KNOWN_CONFIGS = {"cleanup.policy", "retention.ms", "max.message.bytes"}
# The very end, for Python and for ECMA: what "$" is differs by a line break, and the latter has no "\Z".
_THE_END = r"(?![\s\S])"
_WHY = ("exception", "message", "stacktrace", "topic", "partition", "offset")

Direction = Literal["send", "receive"]


@dataclass(frozen=True)
class _Use:
    """What one part of the system does with a topic."""

    part: str
    action: Direction
    topic: str


_USES = (
    _Use("generator", "send", topics.USER_BEHAVIOR),
    _Use("generator", "send", topics.SENSOR_DATA),
    _Use("generator", "send", topics.GENERATOR_LEDGER),
    _Use("processor", "receive", topics.USER_BEHAVIOR),
    _Use("processor", "receive", topics.SENSOR_DATA),
    *(
        _Use("processor", "send", name)
        for name in (
            topics.PURCHASES,
            topics.ALERTS,
            topics.BEHAVIOR_STATS,
            topics.SENSOR_STATS,
            topics.PROGRESS,
            topics.DEAD_LETTERS,
        )
    ),
    _Use("delivery", "receive", topics.PURCHASES),
    _Use("delivery", "receive", topics.ALERTS),
    _Use("delivery", "receive", topics.DELIVERY_RETRIES),
    _Use("delivery", "send", topics.DELIVERY_DEAD_LETTERS),
    _Use("console", "send", topics.DELIVERY_RETRIES),
    _Use("console", "send", topics.handled_of(topics.DEAD_LETTERS)),
    _Use("console", "send", topics.handled_of(topics.DELIVERY_DEAD_LETTERS)),
)
_TITLES = {
    topics.USER_BEHAVIOR: "What users do, keyed by user.",
    topics.SENSOR_DATA: "Readings of sensors, keyed by sensor.",
    topics.PURCHASES: "Every purchase that was counted, once, keyed by user.",
    topics.ALERTS: "Sensors that went beyond a bound or came back, keyed by sensor.",
    topics.BEHAVIOR_STATS: "The latest statistics of each input partition, which is the key.",
    topics.SENSOR_STATS: "The latest window of each sensor, which is the key.",
    topics.PROGRESS: "The latest accounts of each input partition, keyed `topic:partition`.",
    topics.DEAD_LETTERS: "Input records that are not counted, untouched, with why and from where in headers.",
    topics.handled_of(topics.DEAD_LETTERS): "What became of a dead letter, keyed `partition:offset`.",
    topics.DELIVERY_DEAD_LETTERS: "Purchases and alerts that the webhook did not take, with why in headers.",
    topics.handled_of(topics.DELIVERY_DEAD_LETTERS): "What became of one of these, keyed `partition:offset`.",
    topics.DELIVERY_RETRIES: "Purchases and alerts that go to the webhook once more.",
    topics.GENERATOR_LEDGER: "What Kafka acknowledged of each generator and partition.",
}


def described_topics() -> list[str]:
    """Return the names, without prefix, of the topics that are open to others: all but the changelogs."""
    return list(_TITLES)


def json_schema(topic: str) -> dict[str, Any]:
    """Return the JSON Schema of a topic's values.

    Raises:
        KeyError: it is none of ours, or holds records as they were, of whatever kind.
    """
    struct = _STRUCTS[topic]
    [reference], components = msgspec.json.schema_components([struct], ref_template="#/$defs/{name}")
    own = components.pop(struct.__name__)
    assert reference == {"$ref": f"#/$defs/{struct.__name__}"}, "a struct is named"
    return {"$schema": JSON_SCHEMA, **_mended(struct, own)} | ({"$defs": components} if components else {})


def asyncapi(version: str, definitions: Sequence[TopicDefinition]) -> dict[str, Any]:
    """Return the AsyncAPI document: channels, who sends and receives on them, messages, schemas.

    Args:
        version: of this project.
        definitions: the topics as they are made; those of the input with as many partitions as are asked for.
    """
    structs = list(dict.fromkeys(_STRUCTS.values()))
    _, schemas = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    for struct in structs:
        schemas[struct.__name__] = _mended(struct, schemas[struct.__name__])
    by_name = {one.name: one for one in definitions}
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {
            "title": "Tandem",
            "version": version,
            "description": "Topics of the generator, the processor and the console. Names are those without "
            "KAFKA_TOPIC_PREFIX. Results are written in transactions: read them with read_committed. The "
            "changelogs are the processor's own and no part of this.",
        },
        "defaultContentType": "application/json",
        "channels": {name: _channel(name, by_name[name]) for name in _TITLES},
        "operations": {
            f"{one.part}.{one.action}.{one.topic}": {
                "action": one.action,
                "title": f"The {one.part} {'writes' if one.action == 'send' else 'reads'} {one.topic}",
                "channel": {"$ref": f"#/channels/{one.topic}"},
            }
            for one in _USES
        },
        "components": {"messages": _messages(), "schemas": schemas},
    }


def _channel(name: str, definition: TopicDefinition) -> dict[str, Any]:
    configs: dict[str, Any] = {}
    for key, value in definition.configs.items():
        if key in _KNOWN_CONFIGS:
            configs[key] = [value] if key == "cleanup.policy" else int(value)
    return {
        "address": name,
        "description": _TITLES[name],
        "messages": {message: {"$ref": f"#/components/messages/{message}"} for message in _messages_of(name)},
        "bindings": {
            "kafka": {
                "topic": name,
                "partitions": definition.partitions,
                "topicConfiguration": configs,
                "bindingVersion": _BINDING_VERSION,
            }
        },
    }


def _messages_of(topic: str) -> list[str]:
    if topic in _STRUCTS:
        return [_STRUCTS[topic].__name__]
    if topic == topics.DELIVERY_RETRIES:
        return [Purchase.__name__, Alert.__name__]
    return ["DeadLetter"]


def _messages() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for struct in dict.fromkeys(_STRUCTS.values()):
        found[struct.__name__] = {
            "payload": {"$ref": f"#/components/schemas/{struct.__name__}"},
            "bindings": {"kafka": {"key": {"type": "string"}, "bindingVersion": _BINDING_VERSION}},
        }
    names = [*(ERRORS + name for name in _WHY), *OWN_HEADERS, RETRIED_HEADER]
    found["DeadLetter"] = {
        "title": "Dead letter",
        "contentType": "application/octet-stream",
        "description": "Key, value and headers of the record as it was; a value that is too large is cut: "
        f"{OWN_HEADERS[0]} and {OWN_HEADERS[1]} tell of the whole.",
        "headers": {"type": "object", "properties": {name: {"type": "string"} for name in names}},
    }
    return found


def _mended(struct: type[Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Say what types do not say, and say it as ECMA's regular expressions do."""
    properties = {name: dict(one) for name, one in schema["properties"].items()}
    for one in properties.values():
        if "pattern" in one:
            one["pattern"] = one["pattern"].replace(r"\Z", _THE_END)
    for name in ("timestamp", "updated_at", "at"):
        if properties.get(name, {}).get("type") == "string":
            properties[name]["format"] = "date-time"
    mended = schema | {"properties": properties}
    if {"source", "seq"} <= properties.keys() and struct is not _STRUCTS[topics.GENERATOR_LEDGER]:
        # One without the other is a dead letter.
        mended["dependentRequired"] = {"source": ["seq"], "seq": ["source"]}
    return mended


_STRUCTS: dict[str, type[Any]] = {
    **SCHEMAS,
    topics.handled_of(topics.DEAD_LETTERS): Mark,
    topics.handled_of(topics.DELIVERY_DEAD_LETTERS): Mark,
}
