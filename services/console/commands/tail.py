"""`tandem tail`: the records of topics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from aiokafka.structs import TopicPartition

from services.console.commands.options import parsed
from services.console.connection import Connection, Isolation, Log
from services.console.following import places_of
from services.console.membership import Handling, Member, consume
from services.console.output import Output
from services.console.running import Tools, execute, json_option
from services.console.tailing import (
    Start,
    Wanted,
    as_fields,
    as_line,
    last_of,
    parse_condition,
    parse_start,
)
from shared.errors import TandemError
from shared.service import STOPPED_AS_ASKED

_EXAMPLES = """\b
Examples:
  tandem tail user_behavior                          the last 10 of each partition
  tandem tail purchases alerts --follow              what comes, until Ctrl-C
  tandem tail user_behavior --from beginning --limit 5
  tandem tail sensor_data --from 2026-11-23T12:00:00Z --where sensor_id=temperature
  tandem tail dead_letters --from beginning --headers
  tandem tail user_behavior --key 1234 --from beginning --json | jq .value.action
  tandem tail purchases --group billing --commit-every 10 --follow
  tandem tail purchases --group billing --each ./charge.sh
"""

_LAST_ONES = Start("last", 10)
_COMMIT_EVERY = 10


@click.command("tail", epilog=_EXAMPLES)
@click.argument("names", metavar="TOPIC...", nargs=-1, required=True)
@click.option(
    "--from",
    "start",
    callback=parsed(parse_start),
    help="beginning, end, an offset, -N for the last N (default: -10), or a time (ISO 8601); of each "
    "partition. With --group beginning (default) or end, where nothing was committed.",
)
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--limit", type=click.IntRange(1), help="Show so many and end.")
@click.option("--partition", "partitions", type=click.IntRange(0), multiple=True, help="Only this one.")
@click.option("--key", "keys", multiple=True, help="Only records with this key.")
@click.option(
    "--where",
    "conditions",
    metavar="FIELD=VALUE",
    multiple=True,
    callback=parsed(parse_condition),
    help="Only JSON objects with this field; all of them where there are several.",
)
@click.option("--headers", is_flag=True, help="Show headers too.")
@click.option("--uncommitted", is_flag=True, help="Also what a transaction has not committed, or aborted.")
@click.option("--group", help="Read as a member of this group, and commit what was shown.")
@click.option(
    "--commit-every",
    type=click.IntRange(1),
    help="With --group: commit after so many records (default: 10), and at the end.",
)
@click.option(
    "--each",
    metavar="COMMAND",
    help="With --group: give each value to this command's standard input. If it ends with anything but 0, "
    "tail stops, and has not committed past that record.",
)
@json_option
def tail_command(
    *,
    names: tuple[str, ...],
    start: Start | None,
    follow: bool,
    limit: int | None,
    partitions: tuple[int, ...],
    keys: tuple[str, ...],
    conditions: list[tuple[str, str]],
    headers: bool,
    uncommitted: bool,
    group: str | None,
    commit_every: int | None,
    each: str | None,
    as_json: bool,
) -> None:
    """Show records: topic, partition and offset, timestamp, key, value.

    Topics and groups are named without KAFKA_TOPIC_PREFIX. Without --group nothing is joined or committed.
    """
    _check(group, start, partitions, commit_every, each)
    wanted = Wanted(frozenset(key.encode() for key in keys), conditions)

    async def work(tools: Tools) -> int:
        isolation: Isolation = "read_uncommitted" if uncommitted else "read_committed"
        shown = Shown(tools.out, wanted, limit=limit, headers=headers)
        async with Connection(tools.kafka, tools.console, log=tools.log) as kafka:
            if group is not None:
                beginning = start is None or start.kind == "beginning"
                consumer = await kafka.member(tools.kafka.named(group), isolation, beginning=beginning)
                topics = dict.fromkeys(
                    place.topic for place in await places_of(kafka, map(tools.kafka.named, names))
                )
                member = Member(
                    consumer,
                    topics,
                    group=tools.kafka.named(group),
                    commit_every=commit_every or _COMMIT_EVERY,
                    at_once=1 if each else commit_every or _COMMIT_EVERY,
                    deadline_seconds=tools.kafka.operation_deadline_seconds,
                    say=tools.out.say,
                )
                handling = Handling(shown, each)
                await (consume(member, handling) if follow else consume(member, handling, kafka, isolation))
                return STOPPED_AS_ASKED
            places = await places_of(kafka, map(tools.kafka.named, names))
            if partitions:
                places = [one for one in places if one.partition in partitions]
                if not places:
                    raise TandemError(f"{', '.join(names)}: no partition {', '.join(map(str, partitions))}")
            ends = await kafka.ends(places, isolation)
            at_time: dict[TopicPartition, int | None] = {}
            begin = start or _LAST_ONES
            if begin.kind == "time":
                at_time = await kafka.offsets_at(places, begin.value)
            starts = {place: begin.offset(ends[place], at_time.get(place)) for place in places}
            reader = await kafka.read(starts, isolation)
            until = {place: ends[place].end for place in places}
            last = begin.value if begin.kind == "last" else None
            with tools.out.progress(f"reading {', '.join(names)}") as bar:
                wants_more = await _what_is_there(reader, starts, until, shown, last=last, on_progress=bar)
            if wants_more and follow:
                await _what_comes(reader, shown)
        return STOPPED_AS_ASKED

    execute(work, as_json=as_json, until_interrupted=follow)


class Shown:
    """Prints what is wanted, up to a limit."""

    def __init__(self, out: Output, wanted: Wanted, *, limit: int | None, headers: bool) -> None:
        self._out = out
        self._wanted = wanted
        self._left = limit
        self._headers = headers

    def wants(self, portions: dict[TopicPartition, list[Any]]) -> list[Any]:
        """Return what is wanted of these records."""
        return [record for found in portions.values() for record in found if self._wanted.has(record)]

    def wants_one(self, record: Any) -> bool:
        """Say whether a record is wanted."""
        return self._wanted.has(record)

    def take(self, records: list[Any]) -> bool:
        """Print records, the oldest first. False where there are enough."""
        if not records:
            return True
        with self._out.suspended():
            for record in sorted(records, key=lambda one: one.timestamp):
                if self._out.as_json:
                    self._out.json(as_fields(record, headers=self._headers))
                else:
                    self._out.text(as_line(record, headers=self._headers))
                if self._left is not None:
                    self._left -= 1
                    if not self._left:
                        return False
        return True


async def _what_is_there(
    reader: Log,
    starts: dict[TopicPartition, int],
    until: dict[TopicPartition, int],
    shown: Shown,
    *,
    last: int | None,
    on_progress: Callable[[int, int], None],
) -> bool:
    """Show what there is, with what came while it was read. False where there was enough."""
    kept: list[Any] = []
    to_read = sum(until[place] - starts[place] for place in starts)
    while portions := await reader.next(until):
        wanted = shown.wants(portions)
        if last is not None:
            kept = last_of([*kept, *wanted], last)
        elif not shown.take(wanted):
            return False
        on_progress(sum([await reader.position(place) - starts[place] for place in starts]), to_read)
    return shown.take(kept)


async def _what_comes(reader: Log, shown: Shown) -> None:
    while shown.take(shown.wants(await reader.more())):
        pass


def _check(
    group: str | None,
    start: Start | None,
    partitions: tuple[int, ...],
    commit_every: int | None,
    each: str | None,
) -> None:
    if group is None:
        for given, name in ((commit_every, "--commit-every"), (each, "--each")):
            if given is not None:
                raise click.UsageError(f"{name} is for members of a group: say --group too")
        return
    if each is not None and not each.strip():
        raise click.UsageError("--each needs a command")
    if start is not None and start.kind not in ("beginning", "end"):
        raise click.UsageError("a group goes on where it has committed: --from is beginning or end here")
    if partitions:
        raise click.UsageError("with --group the group says which partitions are ours, not --partition")
