"""`tandem verify`: the proof."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from services.console.accounts import total
from services.console.connection import Connection
from services.console.output import Output, table
from services.console.running import Tools, execute, json_option
from services.console.verification.findings import Numbers
from services.console.verifier import Verdict, Verification
from shared.errors import TandemError
from shared.memory import calm_garbage_collector, keep_freed_memory
from shared.service import FAILED, STOPPED_AS_ASKED

_EXAMPLES = """\b
Examples:
  tandem verify
  tandem verify --watch                beside running services, until something differs
  tandem verify --json | jq 'select(.type == "difference")'
"""


@click.command("verify", epilog=_EXAMPLES)
@click.option(
    "--timeout-seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="For all of it; CONSOLE_VERIFY_TIMEOUT_SECONDS where not given.",
)
@click.option("--watch", is_flag=True, help="Again and again: until something differs, or Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=5.0,
    show_default=True,
    help="Seconds between two, with --watch.",
)
@json_option
def verify_command(timeout_seconds: float | None, *, watch: bool, interval: float, as_json: bool) -> None:
    """Recompute everything from the input topics and compare it with what was published.

    Accounts, statistics, windows, alerts, purchases and dead letters, record by record, up to the committed
    offsets. What retention has taken away is said, and is no difference. Exit code 0: all equal; 1: there
    are differences, and the first of each kind are listed.

    With --watch everything is recomputed each time, beside running services.
    """

    async def work(tools: Tools) -> int:
        keep_freed_memory()
        calm_garbage_collector()
        seconds = timeout_seconds or tools.console.verify_timeout_seconds
        while True:
            verdict = await _verify(tools, seconds)
            if not watch or not verdict.is_equal:
                break
            _print_line(tools.out, verdict)
            await asyncio.sleep(interval)
        if as_json:
            _print_json(tools.out, verdict)
        else:
            _print_text(tools.out, verdict)
        return STOPPED_AS_ASKED if verdict.is_equal else FAILED

    execute(work, as_json=as_json, until_interrupted=watch)


async def _verify(tools: Tools, seconds: float) -> Verdict:
    try:
        async with (
            asyncio.timeout(seconds),
            Connection(tools.kafka, tools.console, log=tools.log) as kafka,
        ):
            with tools.out.progress("recomputing") as bar:
                return await Verification(kafka, on_progress=bar).run()
    except TimeoutError as error:
        raise TandemError(
            f"not done after {seconds:g} s; give it more with --timeout-seconds "
            "or CONSOLE_VERIFY_TIMEOUT_SECONDS"
        ) from error


def _print_line(out: Output, verdict: Verdict) -> None:
    """Say in a line that all was equal: of --watch."""
    if out.as_json:
        out.json(_summary(verdict))
        return
    now = datetime.now(UTC).isoformat(timespec="seconds")
    account = total(verdict.partitions)
    out.text(
        f"{now}  all equal  recomputed {verdict.records:,}  not counted yet {verdict.behind:,}  "
        f"lost {account.lost:,}  duplicated {account.duplicated:,}  notes {len(verdict.findings.notes)}"
    )


def _print_json(out: Output, verdict: Verdict) -> None:
    for one in verdict.partitions:
        out.json({"type": "account", **msgspec.to_builtins(one)})
    for note in verdict.findings.notes:
        out.json({"type": "note", **msgspec.to_builtins(note)})
    for difference in verdict.findings.differences:
        out.json({"type": "difference", **msgspec.to_builtins(difference)})
    out.json(_summary(verdict))


def _summary(verdict: Verdict) -> dict[str, Any]:
    return {
        "type": "summary",
        "equal": verdict.is_equal,
        "differences": verdict.findings.total,
        "by_kind": [
            {"topic": topic, "kind": kind, "count": count}
            for (topic, kind), count in sorted(verdict.findings.counts.items())
        ],
        "records": verdict.records,
        "compared": dict(sorted(verdict.findings.compared.items())),
        "behind": verdict.behind,
        "account": total(verdict.partitions),
    }


def _print_text(out: Output, verdict: Verdict) -> None:
    findings = verdict.findings
    account = total(verdict.partitions)
    out.text(
        f"sent {account.sent:,}   counted {account.counted:,}   in flight {account.in_flight:,}   "
        f"lost {account.lost:,}   duplicated {account.duplicated:,}   gaps {account.gaps:,}   "
        f"late {account.late:,}   dead-lettered {account.dead_lettered:,}   "
        f"sent, unacknowledged {account.unacknowledged:,}"
    )
    out.text(f"recomputed {verdict.records:,} input records up to the committed offsets")
    if verdict.behind:
        out.text(f"not counted yet: {verdict.behind:,} offsets beyond them")
    if findings.compared:
        out.show(table("compared", "records", rows=sorted(findings.compared.items())))
    for note in findings.notes:
        out.text(f"note: {note.text}{_named(note.numbers)}")
    for difference in findings.differences:
        text = f"{difference.text}{_named(difference.numbers)}"
        out.text(f"{difference.kind:12} {difference.topic}: {text}")
    for (topic, kind), count in sorted(findings.unlisted.items()):
        out.text(f"{kind:12} {topic}: and {count:,} more")
    out.text("all equal" if verdict.is_equal else f"{findings.total:,} differences")


def _named(numbers: Sequence[Numbers]) -> str:
    """Return which events something comes from, or is among, as the end of a line."""
    return f": {', '.join(one.text for one in numbers)}" if numbers else ""
