"""`tandem groups` and `tandem lag`: who works on the inputs, and how far behind they are."""

from __future__ import annotations

import time
from typing import Any

import click
from aiokafka.structs import TopicPartition

from services.console.connection import Connection
from services.console.groups import GroupFacts, PartitionLag, behind_seconds, pair
from services.console.output import table
from services.console.running import Tools, execute, json_option
from shared.service import STOPPED_AS_ASKED

_GROUPS_EXAMPLES = """\b
Examples:
  tandem groups
  tandem groups --json | jq .members
"""
_LAG_EXAMPLES = """\b
Examples:
  tandem lag
  tandem lag --json | jq -s 'map(.lag) | add'
"""


@click.command("groups", epilog=_GROUPS_EXAMPLES)
@json_option
def groups_command(*, as_json: bool) -> None:
    """Show the processor's consumer groups: state, members, how partitions are shared, lag."""

    async def work(tools: Tools) -> int:
        async with Connection(tools.kafka, tools.console, log=tools.log) as kafka:
            found = await pair(kafka, await kafka.topics())
        if as_json:
            for group in found:
                tools.out.json(
                    {
                        "group": group.name,
                        "state": group.state,
                        "assignor": group.assignor,
                        "members": group.members,
                        "lag": group.lag,
                    }
                )
        else:
            rows = [(one.name, one.state, len(one.members), one.assignor, one.lag) for one in found]
            tools.out.show(table("group", "state", "members", "assignor", "lag", rows=rows))
        return STOPPED_AS_ASKED

    execute(work, as_json=as_json)


@click.command("lag", epilog=_LAG_EXAMPLES)
@json_option
def lag_command(*, as_json: bool) -> None:
    """Show how far each input partition is behind, in records and in seconds.

    Seconds are the age of the next record, by its own timestamp; records are offsets, so that markers of
    transactions and what compaction took away count too.
    """

    async def work(tools: Tools) -> int:
        async with Connection(tools.kafka, tools.console, log=tools.log) as kafka:
            found = await pair(kafka, await kafka.topics())
            partitions = [one for group in found for one in group.partitions]
            seconds = await behind_seconds(kafka, partitions, now=time.time())
        rows = [_row(group, one, seconds) for group in found for one in group.partitions]
        if as_json:
            for row in rows:
                tools.out.json(row)
        else:
            names = ("group", "topic", "partition", "committed", "end", "lag", "seconds")
            cells = [[_cell(row[name]) for name in names] for row in rows]
            tools.out.show(table(*names, rows=cells))
        return STOPPED_AS_ASKED

    execute(work, as_json=as_json)


def _row(group: GroupFacts, one: PartitionLag, seconds: dict[TopicPartition, float]) -> dict[str, Any]:
    behind = seconds.get(TopicPartition(one.topic, one.partition), 0.0)
    return {
        "group": group.name,
        "topic": one.topic,
        "partition": one.partition,
        "committed": one.committed,
        "end": one.end,
        "lag": one.lag,
        "seconds": round(behind, 1),
    }


def _cell(value: Any) -> Any:
    return "-" if value is None else value
