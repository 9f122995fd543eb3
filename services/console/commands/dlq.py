"""`tandem dlq`: dead letters, from looking at them to sending them again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import click

from services.console.commands.options import parsed
from services.console.connection import Connection
from services.console.letters import (
    RETRIED_HEADER,
    Groups,
    Letter,
    Selection,
    as_fields,
    hexdump,
    moment,
    parse_name,
    status,
)
from services.console.lines import wrong_with
from services.console.output import Output, table
from services.console.pace import Pace
from services.console.redriving import Marks, Parcel, Redriver, letters_in
from services.console.running import Tools, execute, json_option
from services.console.tailing import one_line, parse_start, readable
from shared import topics
from shared.errors import TandemError
from shared.service import FAILED, STOPPED_AS_ASKED

_EXAMPLES = """\b
Examples:
  tandem dlq list                                    by reason and topic
  tandem dlq list --each --since 2026-11-23T12:00:00Z
  tandem dlq show 0:17                               why, headers, bytes, where the decoder stopped
  tandem dlq retry 0:17 0:18
  tandem dlq retry --reason "state is full" --rate 100
  tandem dlq edit 0:17                               in $EDITOR, checked, then sent
  tandem dlq drop --topic sensor_data --all
  tandem dlq retry --delivery --all                  to the webhook once more
"""
_STATUSES = ("open", "retried", "edited", "dropped")


@click.group("dlq", epilog=_EXAMPLES)
def dlq_command() -> None:
    """Dead letters: list and show them, send them again, mend them, drop them.

    A letter is named PARTITION:OFFSET. It is sent again at most once, to the partition that it came from;
    the record and the mark that it was sent stand in one transaction. A letter that is dropped stays in its
    topic and is shown as dropped.
    """


def _time(text: str) -> int:
    start = parse_start(text)
    if start.kind != "time":
        raise ValueError(f"{text!r} is not a time like 2026-11-23T12:00:00Z")
    return start.value


def _selecting(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which letters are meant."""
    for option in (
        click.option("--reason", help="Only where this is part of the message or the exception."),
        click.option("--topic", help="Only those that come from this topic, without KAFKA_TOPIC_PREFIX."),
        click.option(
            "--since", metavar="TIME", callback=parsed(_time), help="Not put aside before (ISO 8601)."
        ),
        click.option("--until", metavar="TIME", callback=parsed(_time), help="Put aside before (ISO 8601)."),
        _delivery_option,
        json_option,
    ):
        function = option(function)
    return function


_delivery_option = click.option(
    "--delivery", is_flag=True, help="The letters of the delivery to a webhook, not those of the processor."
)
_names_argument = click.argument(
    "names", metavar="[PARTITION:OFFSET]...", nargs=-1, callback=parsed(parse_name)
)


@dataclass(frozen=True)
class _Chosen:
    """What the options say, with topics' names as the command line has them."""

    names: frozenset[tuple[int, int]]
    reason: str | None
    topic: str | None
    since: int | None
    until: int | None

    @property
    def is_everything(self) -> bool:
        """Whether nothing narrows it down."""
        return self == _Chosen(frozenset(), None, None, None, None)

    def selection(self, tools: Tools) -> Selection:
        """Return which letters are meant."""
        topic = None if self.topic is None else tools.kafka.named(self.topic)
        return Selection(self.names, self.reason, topic, self.since, self.until)


class _Desk:
    """The letters of one topic, and what became of them."""

    def __init__(self, tools: Tools, kafka: Connection, *, delivery: bool) -> None:
        name = topics.DELIVERY_DEAD_LETTERS if delivery else topics.DEAD_LETTERS
        self.tools = tools
        self.kafka = kafka
        self.is_delivery = delivery
        self.topic = tools.kafka.named(name)
        self.handled = tools.kafka.named(topics.handled_of(name))
        self.marks = Marks(kafka, self.handled)

    async def each(self, selection: Selection, take: Callable[[Letter], Awaitable[None]]) -> None:
        """Hand over every letter that is meant."""
        with self.tools.out.progress(f"reading {self.topic}") as bar:
            async for letter in letters_in(self.kafka, self.topic, selection, bar):
                await take(letter)

    async def partitions(self) -> dict[str, int]:
        """Return the number of partitions of every topic; raise TandemError where ours are missing."""
        existing = await self.kafka.topics()
        missing = [one for one in (self.topic, self.handled) if one not in existing]
        if missing:
            raise TandemError(f"no topic {', '.join(missing)}: `tandem topics create` makes them")
        return {name: facts.partitions for name, facts in existing.items()}


@asynccontextmanager
async def _desk(tools: Tools, *, delivery: bool) -> AsyncIterator[_Desk]:
    async with Connection(tools.kafka, tools.console, log=tools.log) as kafka:
        desk = _Desk(tools, kafka, delivery=delivery)
        await desk.partitions()
        await desk.marks.refresh()
        yield desk


@dlq_command.command("list")
@click.option("--each", is_flag=True, help="Each letter in a line, not their number by reason and topic.")
@click.option("--status", "wanted", type=click.Choice(_STATUSES), help="Only those.")
@_selecting
def list_command(
    *,
    each: bool,
    wanted: str | None,
    reason: str | None,
    topic: str | None,
    since: int | None,
    until: int | None,
    delivery: bool,
    as_json: bool,
) -> None:
    """Show dead letters, by reason and topic or each."""
    chosen = _Chosen(frozenset(), reason, topic, since, until)

    async def work(tools: Tools) -> int:
        groups = Groups()
        async with _desk(tools, delivery=delivery) as desk:

            async def take(letter: Letter) -> None:
                mark = desk.marks.of(letter)
                if wanted is not None and status(mark) != wanted:
                    return
                if not each:
                    groups.add(letter, mark)
                elif as_json:
                    tools.out.json(as_fields(letter, mark, whole=False))
                else:
                    fields = as_fields(letter, mark, whole=False)
                    told = ("letter", "timestamp", "status", "from", "reason")
                    tools.out.text("  ".join(one_line(str(fields[name])) for name in told))

            await desk.each(chosen.selection(tools), take)
        if not each:
            _show_groups(tools.out, groups)
        return STOPPED_AS_ASKED

    execute(work, as_json=as_json)


def _show_groups(out: Output, groups: Groups) -> None:
    found = groups.ordered()
    if out.as_json:
        for one in found:
            out.json(
                {
                    "reason": one.reason,
                    "topic": one.topic,
                    "count": one.count,
                    "open": one.open,
                    "handled": one.handled,
                    "first": moment(one.first),
                    "last": moment(one.last),
                    "example": one.example,
                }
            )
        return
    if not found:
        out.text("no dead letters")
        return
    rows = [
        (one.open, one.count, one.topic, one.reason, moment(one.first), moment(one.last), one.example)
        for one in found
    ]
    out.show(table("open", "all", "from", "reason", "first", "last", "such as", rows=rows))


@dlq_command.command("show")
@click.argument("names", metavar="PARTITION:OFFSET...", nargs=-1, required=True, callback=parsed(parse_name))
@click.option("--hex", "in_hex", is_flag=True, help="The value as bytes; what is no text is shown so anyway.")
@_delivery_option
@json_option
def show_command(*, names: list[tuple[int, int]], in_hex: bool, delivery: bool, as_json: bool) -> None:
    """Show letters whole: why, from where, headers, the bytes, and where the decoder stopped."""

    async def work(tools: Tools) -> int:
        found: set[tuple[int, int]] = set()
        async with _desk(tools, delivery=delivery) as desk:

            async def take(letter: Letter) -> None:
                found.add((letter.partition, letter.offset))
                fields = as_fields(letter, desk.marks.of(letter), whole=True)
                if as_json:
                    tools.out.json(fields)
                else:
                    _show(tools.out, letter, fields, in_hex=in_hex)

            await desk.each(Selection(frozenset(names)), take)
            return _missing(tools.out, desk.topic, set(names) - found)

    execute(work, as_json=as_json)


def _show(out: Output, letter: Letter, fields: dict[str, Any], *, in_hex: bool) -> None:
    for name in ("letter", "timestamp", "status", "from", "exception", "reason", "stopped_at", "key"):
        if fields[name]:
            out.text(f"{name.replace('_', ' '):<11}{one_line(str(fields[name]))}")
    for name, value in letter.headers:
        out.text(f"{'header':<11}{one_line(name)}: {one_line(readable(value) or '')}")
    cut = "" if letter.full_bytes is None else f" of {letter.full_bytes:,}"
    out.text(
        f"{'value':<11}{len(letter.value or b''):,}{cut} bytes" if letter.value is not None else "no value"
    )
    value = letter.value or b""
    if in_hex or (readable(value) or "").startswith("0x"):
        for line in hexdump(value):
            out.text(f"  {line}")
    else:
        for line in value.decode().splitlines():
            out.text(f"  {one_line(line)}")
    for line in letter.stacktrace.splitlines():
        out.text(f"  | {one_line(line)}")
    out.text()


def _missing(out: Output, topic: str, names: set[tuple[int, int]]) -> int:
    for partition, offset in sorted(names):
        out.error(f"{topic} holds no letter {partition}:{offset}")
    return FAILED if names else STOPPED_AS_ASKED


@dlq_command.command("retry")
@_names_argument
@click.option("--all", "everything", is_flag=True, help="Where nothing else says which: all of them.")
@click.option(
    "--rate", type=click.FloatRange(0), default=0, help="Letters a second; 0, the default: no bound."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be sent.")
@_selecting
def retry_command(
    *,
    names: list[tuple[int, int]],
    everything: bool,
    rate: float,
    dry_run: bool,
    reason: str | None,
    topic: str | None,
    since: int | None,
    until: int | None,
    delivery: bool,
    as_json: bool,
) -> None:
    """Send letters again, each at most once, as they were, to the partition that they came from.

    With --delivery they go to the webhook once more, and are not published again.
    """
    chosen = _Chosen(frozenset(names), reason, topic, since, until)
    _insist(chosen, everything=everything)
    execute(_Handling(chosen, "retried", rate, dry_run, delivery).work, as_json=as_json)


@dlq_command.command("drop")
@_names_argument
@click.option("--all", "everything", is_flag=True, help="Where nothing else says which: all of them.")
@click.option("--dry-run", is_flag=True, help="Only say what would be dropped.")
@_selecting
def drop_command(
    *,
    names: list[tuple[int, int]],
    everything: bool,
    dry_run: bool,
    reason: str | None,
    topic: str | None,
    since: int | None,
    until: int | None,
    delivery: bool,
    as_json: bool,
) -> None:
    """Mark letters as dropped: they are not sent again. They stay in their topic."""
    chosen = _Chosen(frozenset(names), reason, topic, since, until)
    _insist(chosen, everything=everything)
    execute(_Handling(chosen, "dropped", 0, dry_run, delivery).work, as_json=as_json)


@dlq_command.command("edit")
@click.argument("name", metavar="PARTITION:OFFSET", callback=parsed(parse_name))
@click.option("--raw", is_flag=True, help="Send it even if it is no record of its topic's schema.")
@json_option
def edit_command(*, name: tuple[int, int], raw: bool, as_json: bool) -> None:
    """Mend one letter in $EDITOR, and send it to the partition that it came from.

    What the editor saves is checked against the topic's schema. Nothing is sent if nothing was saved.
    """
    execute(
        _Handling(
            _Chosen(frozenset([name]), None, None, None, None), "edited", 0, False, False, raw=raw
        ).work,
        as_json=as_json,
    )


def _insist(chosen: _Chosen, *, everything: bool) -> None:
    if chosen.is_everything and not everything:
        raise click.UsageError("which ones? Name them, narrow them down (--reason, --topic, …), or say --all")
    if chosen.names and everything:
        raise click.UsageError("--all and names exclude each other")


@dataclass
class _Handling:
    """One call of retry, edit or drop."""

    chosen: _Chosen
    action: Any
    rate: float
    dry_run: bool
    delivery: bool
    raw: bool = False
    left_out: int = 0
    would: int = 0

    async def work(self, tools: Tools) -> int:
        """Handle what is meant, and return the exit code."""
        found: set[tuple[int, int]] = set()
        async with _desk(tools, delivery=self.delivery) as desk:
            partitions = await desk.partitions()
            redriver = self._redriver(desk)

            async def take(letter: Letter) -> None:
                found.add((letter.partition, letter.offset))
                if desk.marks.of(letter) is not None:
                    redriver.done.before += 1
                    return
                parcel = self._parcel(tools, desk, letter, partitions)
                if parcel is None:
                    return
                if self.dry_run:
                    self.would += 1
                    self._say_what_would_be(tools.out, parcel)
                    return
                await redriver.add(parcel)

            try:
                await desk.each(self.chosen.selection(tools), take)
                await redriver.flush()
            finally:
                # Also when it was interrupted: what was done is said.
                self._summary(tools.out, redriver)
            missing = _missing(tools.out, desk.topic, set(self.chosen.names) - found)
        return FAILED if missing or self.left_out or redriver.done.refused else STOPPED_AS_ASKED

    def _say_what_would_be(self, out: Output, parcel: Parcel) -> None:
        letter = parcel.letter
        where = None if parcel.topic is None else f"{parcel.topic}:{parcel.partition}"
        if out.as_json:
            out.json({"letter": letter.name, "would_be": self.action, "to": where, "reason": letter.message})
            return
        to = "" if where is None else f" to {where}"
        out.text(f"{letter.name}  would be {self.action}{to}  {one_line(letter.message)}")

    def _redriver(self, desk: _Desk) -> Redriver:
        pace = Pace(self.rate, asyncio.get_running_loop().time)

        async def pause(count: int) -> None:
            for _ in range(count):
                await pace.wait()

        def refused(parcel: Parcel, error: Exception) -> None:
            where = f"{parcel.topic}:{parcel.partition}"
            desk.tools.out.error(
                f"letter {parcel.letter.name}: not sent: {where} does not take it: {error} "
                f"({parcel.size_bytes:,} bytes; max.message.bytes of the topic bounds it)"
            )

        # At a set rate in steps of at most a second.
        at_once = {"at_once": max(int(self.rate), 1)} if self.rate else {}
        return Redriver(
            desk.kafka,
            letters=desk.topic,
            handled=desk.handled,
            marks=desk.marks,
            pause=pause,
            on_refused=refused,
            **at_once,
        )

    def _parcel(self, tools: Tools, desk: _Desk, letter: Letter, partitions: dict[str, int]) -> Parcel | None:
        """Return what is to be sent; None where it can't be, which is said."""
        if self.action == "dropped":
            return Parcel(letter, "dropped")
        try:
            topic, partition = _destination(tools, desk, letter, partitions)
            value = self._edited(tools, letter) if self.action == "edited" else _whole_value(letter)
        except TandemError as error:
            self.left_out += 1
            tools.out.error(f"letter {letter.name}: not sent: {error}")
            return None
        again = (RETRIED_HEADER, f"{desk.topic}:{letter.name}".encode())
        origin = letter.origin_headers if desk.is_delivery else ()
        headers = tuple(one for one in letter.headers if one[0] != RETRIED_HEADER)
        return Parcel(letter, self.action, topic, partition, letter.key, value, (*headers, *origin, again))

    def _edited(self, tools: Tools, letter: Letter) -> bytes:
        try:
            text = (letter.value or b"").decode()
        except UnicodeDecodeError as error:
            raise TandemError("it is no text: it can't be edited") from error
        with tools.out.suspended():
            saved = click.edit(text, extension=".json")
        if saved is None:
            raise TandemError("nothing was saved")
        value = saved.rstrip("\r\n").encode()
        name = (letter.topic or "").removeprefix(tools.kafka.topic_prefix)
        wrong = None if self.raw else wrong_with(value, name)
        if wrong:
            raise TandemError(f"no record of {name}: {wrong} (--raw sends it all the same)")
        return value

    def _summary(self, out: Output, redriver: Redriver) -> None:
        fields: dict[str, Any] = {self.action: redriver.done.handled}
        if self.dry_run:
            fields = {f"would_be_{self.action}": self.would}
        done = redriver.done
        fields |= {"handled_before": done.before, "left_out": self.left_out + done.refused}
        if done.in_doubt:
            out.error("it is not known whether the last ones were sent: `tandem dlq list` says so")
            fields |= {"in_doubt": done.in_doubt}
        if out.as_json:
            out.json(fields)
        else:
            out.text("  ".join(f"{name.replace('_', ' ')} {found:,}" for name, found in fields.items()))


def _whole_value(letter: Letter) -> bytes | None:
    if letter.full_bytes is not None:
        raise TandemError(
            f"only {len(letter.value or b''):,} of its {letter.full_bytes:,} bytes were kept: "
            "send the whole record from where it came from"
        )
    return letter.value


def _destination(tools: Tools, desk: _Desk, letter: Letter, partitions: dict[str, int]) -> tuple[str, int]:
    """Return topic and partition that a letter is sent to.

    Raises:
        TandemError: there is none.
    """
    if letter.topic is None or letter.source_partition is None:
        raise TandemError("its headers do not say where it comes from")
    if desk.is_delivery:
        topic = tools.kafka.named(topics.DELIVERY_RETRIES)
        if topic not in partitions:
            raise TandemError(
                f"there is no {topic} that we may write to (`tandem topics create`; Write on topic {topic})"
            )
        return topic, letter.partition % partitions[topic]
    if partitions.get(letter.topic, 0) <= letter.source_partition:
        raise TandemError(
            f"there is no {letter.topic}:{letter.source_partition} that we may write to "
            f"(Write on topic {letter.topic})"
        )
    return letter.topic, letter.source_partition
