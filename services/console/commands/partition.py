"""`tandem partition`: where keys go."""

from __future__ import annotations

from collections import Counter

import click

from services.console.commands.send import partitioner_option
from services.console.connection import Connection
from services.console.following import places_of
from services.console.output import Output, table
from services.console.running import Tools, execute, json_option
from services.console.sending import place_of
from shared.partitioners import Partitioner
from shared.service import STOPPED_AS_ASKED

_FIRST_USER = 1_000  # as the generator's users begin
_EXAMPLES = """\b
Examples:
  tandem partition 1000 1001 --partitions 6
  tandem partition temperature --topic sensor_data --partitioner md5
  tandem partition --sample 9000 --partitions 12
"""


@click.command("partition", epilog=_EXAMPLES)
@click.argument("keys", metavar="KEY...", nargs=-1)
@click.option("--topic", default="user_behavior", show_default=True, help="Whose count of partitions.")
@click.option("--partitions", type=click.IntRange(1), help="Instead of a topic's; asks no Kafka.")
@click.option("--sample", type=click.IntRange(1), help="Show how so many users, 1000 and on, spread.")
@partitioner_option
@json_option
def partition_command(
    *,
    keys: tuple[str, ...],
    topic: str,
    partitions: int | None,
    sample: int | None,
    partitioner: Partitioner,
    as_json: bool,
) -> None:
    """Show which partition keys go to, and how a sample of keys spreads."""
    if not keys and sample is None:
        raise click.UsageError("name a KEY, or --sample")

    async def work(tools: Tools) -> int:
        count = partitions
        if count is None:
            async with Connection(tools.kafka, tools.console, log=tools.log) as kafka:
                count = len(await places_of(kafka, [tools.kafka.named(topic)]))
        placed = [(key, place_of(partitioner, key.encode(), count)) for key in keys]
        users = (str(_FIRST_USER + number) for number in range(sample or 0))
        spread = Counter(place_of(partitioner, user.encode(), count) for user in users)
        _show(tools.out, placed, [(number, spread[number]) for number in range(count)] if sample else [])
        return STOPPED_AS_ASKED

    execute(work, as_json=as_json)


def _show(out: Output, placed: list[tuple[str, int]], spread: list[tuple[int, int]]) -> None:
    if out.as_json:
        for key, number in placed:
            out.json({"key": key, "partition": number})
        for number, keys in spread:
            out.json({"partition": number, "keys": keys})
        return
    if placed:
        out.show(table("key", "partition", rows=placed))
    if spread:
        total = sum(keys for _, keys in spread)
        rows = [(number, keys, f"{keys / total:.1%}") for number, keys in spread]
        out.show(table("partition", "keys", "share", rows=rows))
