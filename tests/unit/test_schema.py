"""The topics as documents: nothing is left out, nothing drifts, and what they say is what is decoded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from services.console import schema
from services.console.__main__ import main
from services.console.commands.schema import document
from services.console.letters import Mark
from services.console.lines import SCHEMAS
from shared import topics

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "docs" / "asyncapi.json"
# One record of each topic as 0.1.0 wrote it, and what came since where that is not the first version.
YESTERDAYS = ROOT / "tests" / "data" / "records.jsonl"
EVENT: dict[str, Any] = {
    "user_id": 7,
    "action": "view",
    "page": "/page/1",
    "timestamp": "2026-11-23T00:00:00.000001+00:00",
    "ip": "192.168.1.1",
    "device": "mobile",
}


def yesterdays() -> list[tuple[str, Any]]:
    lines = [json.loads(line) for line in YESTERDAYS.read_text().splitlines()]
    return [(one["topic"], one["value"]) for one in lines]


def test_the_committed_document_is_what_the_structs_say() -> None:
    """After a change: `tandem schema > docs/asyncapi.json`, and look at the difference."""
    committed = json.loads(COMMITTED.read_text())
    made = document()
    made["info"]["version"] = committed["info"]["version"]
    assert made == committed


def test_every_topic_is_described_but_the_changelogs() -> None:
    made = {one.name for one in topics.definitions(partitions=1, retention_hours=1)}
    changelogs = {topics.changelog_of(name) for name in topics.INPUTS}
    assert set(schema.described_topics()) == made - changelogs
    assert set(document()["channels"]) == made - changelogs


def test_every_reference_in_the_document_leads_somewhere() -> None:
    made = document()

    def references(found: Any) -> list[str]:
        if isinstance(found, dict):
            own = [found["$ref"]] if "$ref" in found else []
            return own + [one for value in found.values() for one in references(value)]
        return [one for value in found for one in references(value)] if isinstance(found, list) else []

    assert len(references(made)) > 20
    for reference in references(made):
        at: Any = made
        for part in reference.removeprefix("#/").split("/"):
            at = at[part]
        assert isinstance(at, dict)


@pytest.mark.parametrize("topic", SCHEMAS)
def test_a_schema_is_one_and_yesterdays_records_are_valid_and_decode(topic: str) -> None:
    found = schema.json_schema(topic)
    Draft202012Validator.check_schema(found)
    values = [value for name, value in yesterdays() if name == topic]
    assert values, "there is one of each"
    for value in values:
        assert list(Draft202012Validator(found).iter_errors(value)) == []
        msgspec.json.decode(json.dumps(value), type=SCHEMAS[topic])


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": -1},
        {"user_id": "7"},
        {"action": "dance"},
        {"ip": "192.168.1.256"},
        {"ip": "192.168.1.1\n"},
        {"source": "s"},
        {"seq": 1},
        {"source": "", "seq": 0},
        {"page": None},
        {"page": "x" * 2049},
    ],
    ids=str,
)
def test_what_is_no_record_is_none_by_its_schema_either(change: dict[str, Any]) -> None:
    validator = Draft202012Validator(schema.json_schema(topics.USER_BEHAVIOR))
    assert validator.is_valid(EVENT)
    assert validator.is_valid(EVENT | {"source": "s", "seq": 0})
    assert not validator.is_valid(EVENT | change)


def test_a_mark_of_yesterday_decodes() -> None:
    [value] = [value for name, value in yesterdays() if name == topics.handled_of(topics.DEAD_LETTERS)]
    msgspec.json.decode(json.dumps(value), type=Mark)


def test_the_command_prints_either_and_names_what_there_is() -> None:
    runner = CliRunner()
    everything = runner.invoke(main, ["schema"])
    assert (everything.exit_code, json.loads(everything.stdout)["asyncapi"]) == (0, "3.0.0")
    one = runner.invoke(main, ["schema", "alerts"])
    assert json.loads(one.stdout)["title"] == "Alert"
    unknown = runner.invoke(main, ["schema", "alarms"])
    assert (unknown.exit_code, "alarms is unknown: topics are alerts, " in unknown.stderr) == (1, True)
    raw = runner.invoke(main, ["schema", "dead_letters"])
    assert (raw.exit_code, "holds records as they were" in raw.stderr) == (1, True)
