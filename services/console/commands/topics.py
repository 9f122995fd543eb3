"""`tandem topics`: create, list, describe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from services.console.connection import Connection
from services.console.output import Output, table
from services.console.running import Tools, execute, json_option
from services.console.topic_admin import Report, TopicAdmin, Wishes
from shared.service import FAILED, STOPPED_AS_ASKED
from shared.topics import definitions

_NAMES = tuple(one.name for one in definitions(partitions=1, retention_hours=1))


def _wishes(function: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--partitions",
            type=click.IntRange(1, 10_000),
            help="Of the input topics; KAFKA_TOPIC_PARTITIONS where not given.",
        ),
        click.option(
            "--replication",
            type=click.IntRange(1, 9),
            help="KAFKA_TOPIC_REPLICATION where not given, else 3 where there are 3 brokers, else 1.",
        ),
        click.option(
            "--topic",
            "only",
            multiple=True,
            type=click.Choice(_NAMES),
            metavar="NAME",
            help="Only this one, by its name without prefix; may be repeated.",
        ),
    ):
        function = option(function)
    return function


_EXAMPLES = """\b
Examples:
  tandem topics create
  tandem topics create --partitions 12
  tandem topics describe --topic user_behavior
"""


@click.group("topics", epilog=_EXAMPLES)
def topics_command() -> None:
    """Create the topics, or say how they are."""


@topics_command.command("create")
@_wishes
@json_option
def create(partitions: int | None, replication: int | None, only: tuple[str, ...], *, as_json: bool) -> None:
    """Create every topic that is not there.

    Creating again changes nothing. A topic that exists with other settings is reported with the difference
    and what to do about it, and the exit code is 1. Returns when every broker knows the new topics.
    """

    async def work(tools: Tools) -> int:
        # Services wait for this command, so it waits for Kafka as they would.
        async with Connection(tools.kafka, tools.console, log=tools.log, as_a_service=True) as kafka:
            reports = await TopicAdmin(kafka).create(Wishes(partitions, replication, only))
        return _show(tools.out, reports)

    execute(work, as_json=as_json)


@topics_command.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the topics of the pair, with the prefix that is set."""

    async def work(tools: Tools) -> int:
        async with Connection(tools.kafka, tools.console, log=tools.log) as kafka:
            reports = await TopicAdmin(kafka).describe(Wishes())
        for report in reports:
            if as_json:
                tools.out.json({"topic": report.name, "exists": report.state != "missing"})
            else:
                tools.out.text(report.name if report.state != "missing" else f"{report.name}  (missing)")
        return STOPPED_AS_ASKED

    execute(work, as_json=as_json)


@topics_command.command("describe")
@_wishes
@json_option
def describe(
    partitions: int | None, replication: int | None, only: tuple[str, ...], *, as_json: bool
) -> None:
    """Say how the topics are and what is not as it should be, and change nothing."""

    async def work(tools: Tools) -> int:
        async with Connection(tools.kafka, tools.console, log=tools.log) as kafka:
            reports = await TopicAdmin(kafka).describe(Wishes(partitions, replication, only))
        return _show(tools.out, reports)

    execute(work, as_json=as_json)


def _show(out: Output, reports: list[Report]) -> int:
    if out.as_json:
        for report in reports:
            out.json(_as_fields(report))
    else:
        rows = [(one.name, one.partitions, one.replication, one.state) for one in reports]
        out.show(table("topic", "partitions", "replication", "", rows=rows))
        for report in reports:
            for found in report.discrepancies:
                out.text(f"{report.name}: {found}: {found.remedy}")
    return FAILED if any(one.state in ("differs", "missing") for one in reports) else STOPPED_AS_ASKED


def _as_fields(report: Report) -> dict[str, Any]:
    return {
        "topic": report.name,
        "partitions": report.partitions,
        "replication": report.replication,
        "state": report.state,
        "differences": report.discrepancies,
    }
