"""`tandem reset-offsets`: an input, counted again from the beginning."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from services.console.connection import Connection
from services.console.output import table
from services.console.resetting import Input, PartitionPlan, Reset, input_of, known_inputs
from services.console.running import Tools, execute, json_option
from shared.errors import TandemError
from shared.service import STOPPED_AS_ASKED

_EXAMPLES = """\b
Examples:
  tandem reset-offsets user_behavior                what would be done
  tandem reset-offsets user_behavior --execute
  tandem reset-offsets sensor_data --partition 3 --execute
  tandem reset-offsets page_views --group page-views --execute
"""
_AGAIN = (
    "What is counted again is published again, with the same identities: purchases and alerts come twice to "
    "whoever reads them, and `tandem verify` names them as published twice."
)


@click.command("reset-offsets", epilog=_EXAMPLES)
@click.argument("topic", metavar="INPUT")
@click.option("--group", help="Of another topology, without KAFKA_TOPIC_PREFIX.")
@click.option(
    "--partition", "partitions", type=click.IntRange(0), multiple=True, help="Only this; more than once."
)
@click.option("--execute", "really", is_flag=True, help="Do it. Without this it is only said.")
@json_option
def reset_command(
    *, topic: str, group: str | None, partitions: tuple[int, ...], really: bool, as_json: bool
) -> None:
    """Count an INPUT topic again from where its log begins.

    The state is taken back to nothing and the group's offset to the first record, partition by partition,
    each in one transaction. All processors of the group have to be stopped. Only to the beginning: there is
    no state for any other place.
    """

    async def work(tools: Tools) -> int:
        source = _source(tools, topic, group)
        async with Connection(tools.kafka, tools.console, log=tools.log) as kafka:
            reset = Reset(kafka, source)
            with tools.out.progress(f"reading {source.changelog}") as bar:
                plans = await reset.plan(partitions, bar)
            plans = [plan for plan in plans if plan.has_something]
            if not plans:
                tools.out.say(f"nothing of {source.topic} was ever counted by group {source.group}")
                return STOPPED_AS_ASKED
            if not really:
                _show(tools, plans, "would be")
                tools.out.say(f"{_AGAIN} --execute does it.")
                return STOPPED_AS_ASKED
            try:
                with tools.out.progress(f"resetting {source.topic}") as bar:
                    for done, plan in enumerate(plans, 1):
                        try:
                            await reset.carry_out(plan)
                        except asyncio.CancelledError:
                            if not plan.is_done:
                                tools.out.error(
                                    f"partition {plan.number}: not known whether it was reset, whole or not "
                                    "at all; `tandem lag` says where its group is"
                                )
                            raise
                        bar(done, len(plans))
            finally:
                # Also when it was interrupted: what was done is said.
                _show(tools, [plan for plan in plans if plan.is_done], "was")
            tools.out.say(_AGAIN)
        return STOPPED_AS_ASKED

    execute(work, as_json=as_json)


def _source(tools: Tools, topic: str, group: str | None) -> Input:
    known = known_inputs(tools.kafka.named)
    if group is not None:
        found = input_of(topic, group, tools.kafka.named)
        if topic in known and found != known[topic]:
            raise TandemError(f"{topic} is counted by group {known[topic].group}, not by {found.group}")
        return found
    if topic not in known:
        raise TandemError(f"{topic} is not one of {', '.join(known)}: say which --group counts it")
    return known[topic]


def _show(tools: Tools, plans: list[PartitionPlan], word: str) -> None:
    if tools.out.as_json:
        for plan in plans:
            fields: dict[str, Any] = {
                "partition": plan.number,
                "committed": plan.lag.committed,
                "to": plan.lag.start,
                "keys": plan.keys,
                "counted_again": plan.counted_again,
                "done": word == "was",
            }
            tools.out.json(fields)
        return
    rows = []
    for plan in plans:
        committed = "" if plan.lag.committed is None else plan.lag.committed
        rows.append((plan.number, committed, plan.lag.start, plan.keys, plan.counted_again))
    tools.out.show(
        table("partition", "committed", f"{word} reset to", "keys deleted", "counted again", rows=rows)
    )
