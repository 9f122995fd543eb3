"""`tandem check`: the connection test."""

from __future__ import annotations

import asyncio

import click
import msgspec
from rich.markup import escape

from services.console.checking import Finding, check, is_ok
from services.console.connection import Connection
from services.console.output import Output
from services.console.running import Tools, execute, json_option
from shared.errors import TandemError
from shared.service import FAILED, STOPPED_AS_ASKED

_EXAMPLES = """\b
Examples:
  tandem check
  KAFKA_BOOTSTRAP_SERVERS=kafka-1:9092 tandem check --deadline 5
  tandem check --json | jq 'select(.state != "ok")'
"""


@click.command("check", epilog=_EXAMPLES)
@click.option(
    "--deadline", type=click.FloatRange(1, 600), default=10, show_default=True, help="Seconds for all of it."
)
@json_option
def check_command(*, deadline: float, as_json: bool) -> None:
    """Test the connection: servers, login, brokers, topics against what they should be, groups and lag.

    A line each, with what to do where something is wrong. Ends with 0 only if nothing is. Changes nothing.
    """

    async def work(tools: Tools) -> int:
        # Nobody who asks whether Kafka is there waits for it to come.
        console = tools.console.model_copy(update={"unavailable_seconds": deadline / 2})
        findings = []
        try:
            async with asyncio.timeout(deadline), Connection(tools.kafka, console, log=tools.log) as kafka:
                async for finding in check(kafka):
                    findings.append(finding)
                    _show(tools.out, finding)
        except TimeoutError as error:
            raise TandemError(
                f"Kafka has not answered everything within {deadline:g} s (--deadline)"
            ) from error
        return STOPPED_AS_ASKED if is_ok(findings) else FAILED

    execute(work, as_json=as_json)


def _show(out: Output, finding: Finding) -> None:
    if out.as_json:
        out.json(msgspec.to_builtins(finding))
        return
    mark = "[green]OK  [/]" if finding.state == "ok" else "[red]FAIL[/]"
    advice = f"\n      [yellow]→ {escape(finding.advice)}[/]" if finding.advice else ""
    out.marked(f"{mark}  {escape(finding.what)}: {escape(finding.text)}{advice}")
