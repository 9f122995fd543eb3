"""`tandem send`: one record, or the lines of a file."""

from __future__ import annotations

import asyncio
import os
import stat
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import click

from services.console.connection import Connection
from services.console.feeding import fed, lines_of, taken
from services.console.lines import FORMATS, Format, Keys, Malformed, Outgoing, format_of, records, wrong_with
from services.console.output import Output
from services.console.pace import Pace
from services.console.running import Tools, execute, json_option
from services.console.sending import Acknowledged, Failed, OnOutcome, Sender
from services.console.tailing import readable
from shared.errors import TandemError
from shared.partitioners import Partitioner, partitioner_of
from shared.service import FAILED, STOPPED_AS_ASKED

_LINGER_MILLISECONDS = 5
_BAR_LINES = 1_000
_EXAMPLES = """\b
Examples:
  tandem send user_behavior '{"user_id":7,"action":"view","page":"/page/1","timestamp":"2026-11-23T12:00:00",
                              "ip":"192.168.1.7","device":"mobile"}'
  tandem send purchases --raw --key 7 'anything'
  tandem send user_behavior --file events.jsonl --rate 500
  tail -n 100 events.csv | tandem send sensor_data --file - --format csv
  tandem send my_topic --file lines.jsonl --auto-key --async
"""


def _partitioner(_context: click.Context, _parameter: click.Parameter, name: str) -> Partitioner:
    try:
        return partitioner_of(name)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


partitioner_option = click.option(
    "--partitioner",
    default="murmur2",
    show_default=True,
    callback=_partitioner,
    help="murmur2, md5, or the dotted path of a function of key and count.",
)


@click.command("send", epilog=_EXAMPLES)
@click.argument("topic")
@click.argument("value", required=False)
@click.option("--key", help="Of every record that has none of its own.")
@click.option("--auto-key", is_flag=True, help="key-0, key-1, … for records that have none.")
@click.option("--file", "file", type=click.File("rb", lazy=False), help="Lines to send; - is standard input.")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="JSON lines, key<TAB>value, or CSV with a line of names; by default by the file's name.",
)
@click.option(
    "--rate", type=click.FloatRange(0), default=0, help="Records a second; 0, the default: all at once."
)
@click.option("--raw", is_flag=True, help="Send what is no record of the topic's schema too.")
@click.option("--strict", is_flag=True, help="Stop at the first line that is no record.")
@click.option("--async", "each", is_flag=True, help="Show each acknowledgement as it comes, and latencies.")
@partitioner_option
@json_option
def send_command(
    *,
    topic: str,
    value: str | None,
    key: str | None,
    auto_key: bool,
    file: IO[bytes] | None,
    form: Format | None,
    rate: float,
    raw: bool,
    strict: bool,
    each: bool,
    partitioner: Partitioner,
    as_json: bool,
) -> None:
    """Send one record, or the lines of a file, acknowledged by all replicas that are in sync.

    TOPIC is named without KAFKA_TOPIC_PREFIX. VALUE is checked against the topic's schema, and a record of
    the pair's topics takes its key from it unless one is given. Ends with 0 only if everything was sent.
    """
    if (value is None) == (file is None):
        raise click.UsageError("either VALUE or --file is to be sent, and not both")
    if key is not None and auto_key:
        raise click.UsageError("--key and --auto-key exclude each other")
    keys = Keys(topic, constant=key, automatic=auto_key)
    if file is not None:
        lines = lines_of(file.fileno()) if _size(file) is None else file
        found = records(lines, form or format_of(file.name), topic, keys, raw=raw)
    else:
        found = iter([_single(str(value), topic, keys, raw=raw)])
    job = _Job(topic, found, file=file, rate=rate, strict=strict, each=each, partitioner=partitioner)
    execute(job.work, as_json=as_json)


def _single(value: str, topic: str, keys: Keys, *, raw: bool) -> Outgoing:
    content = value.encode()
    if not raw and (wrong := wrong_with(content, topic)):
        raise click.UsageError(f"no record of {topic}: {wrong} (--raw sends it all the same)")
    return Outgoing(1, keys.of(None, content), content)


@dataclass
class _Job:
    """One call of the command. `file` is None where a single record is sent."""

    topic: str
    found: Iterator[Outgoing | Malformed]
    file: IO[bytes] | None
    rate: float
    strict: bool
    each: bool
    partitioner: Partitioner
    malformed: int = 0

    async def work(self, tools: Tools) -> int:
        """Send everything, and return the exit code."""
        name = tools.kafka.named(self.topic)
        async with Connection(tools.kafka, tools.console, log=tools.log) as kafka:
            existing = await kafka.topics()
            if name not in existing:
                raise TandemError(f"no topic {name}: `tandem topics create` makes those of the pair")
            sender = Sender(
                partial(kafka.producer, enable_idempotence=True, acks="all", linger_ms=_LINGER_MILLISECONDS),
                kafka.let_go,
                name,
                partitions=existing[name].partitions,
                partitioner=self.partitioner,
                deadline_seconds=tools.kafka.operation_deadline_seconds,
                on_outcome=_teller(tools.out, name, show_each=self.each or self.file is None),
                clock=asyncio.get_running_loop().time,
            )
            try:
                with tools.out.progress(f"sending to {name}") as bar:
                    await self._send_all(tools, sender, bar)
            finally:
                # Also when it was interrupted, and once more: what is under way is waited for, and said.
                try:
                    await sender.flush()
                finally:
                    if self.file is not None:
                        _summary(tools.out, sender, self.malformed, latencies=self.each)
        return FAILED if sender.tally.failed or self.malformed else STOPPED_AS_ASKED

    async def _send_all(self, tools: Tools, sender: Sender, bar: Callable[[int, int], None]) -> None:
        pace = Pace(self.rate, asyncio.get_running_loop().time)
        size = _size(self.file)
        # Only a file that lies on a disk never makes anybody wait.
        async for one in taken(self.found) if size is not None else fed(self.found):
            if isinstance(one, Outgoing):
                await pace.wait()
                await sender.send(one)
                if size and self.file is not None and one.line % _BAR_LINES == 0:
                    bar(self.file.tell(), size)
                continue
            self.malformed += 1
            tools.out.error(f"line {one.line}: {one.why}")
            if self.strict:
                return


def _size(file: IO[bytes] | None) -> int | None:
    """Return the size of a file on a disk; 0 where there is none, None where it is a pipe or the like."""
    if file is None:
        return 0
    about = os.fstat(file.fileno())
    return about.st_size if stat.S_ISREG(about.st_mode) else None


def _teller(out: Output, topic: str, *, show_each: bool) -> OnOutcome:
    def tell(outcome: Acknowledged | Failed) -> None:
        if isinstance(outcome, Failed):
            out.error(f"line {outcome.record.line}: not acknowledged: {outcome.why}")
            return
        if not show_each:
            return
        fields: dict[str, Any] = {
            "topic": topic,
            "partition": outcome.partition,
            "offset": outcome.offset,
            "timestamp": outcome.timestamp,
            "key": readable(outcome.record.key),
            "milliseconds": round(outcome.seconds * 1_000, 1),
        }
        if out.as_json:
            out.json(fields)
        else:
            out.text("  ".join(f"{name} {found}" for name, found in fields.items() if found is not None))

    return tell


def _summary(out: Output, sender: Sender, malformed: int, *, latencies: bool) -> None:
    tally = sender.tally
    fields: dict[str, Any] = {"sent": tally.sent, "failed": tally.failed, "malformed": malformed}
    if latencies and len(tally.seconds) > 1:
        cuts = statistics.quantiles(tally.seconds, n=100)
        fields |= {f"p{share}_milliseconds": round(cuts[share - 1] * 1_000, 1) for share in (50, 95, 99)}
    if out.as_json:
        out.json(fields)
    else:
        out.text("  ".join(f"{name} {found:,}" for name, found in fields.items()))
