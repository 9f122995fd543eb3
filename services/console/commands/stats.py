"""`tandem stats`: the global view."""

from __future__ import annotations

import asyncio
from typing import Any

import click
import msgspec
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from services.console.accounts import Account
from services.console.connection import Connection
from services.console.following import GlobalFollower
from services.console.merge import GlobalView
from services.console.output import Output, shown, table
from services.console.running import Tools, execute, json_option
from shared.service import STOPPED_AS_ASKED

_EXAMPLES = """\b
Examples:
  tandem stats
  tandem stats --watch
  tandem stats --json | jq .account
"""


@click.command("stats", epilog=_EXAMPLES)
@click.option("--watch", is_flag=True, help="Again every CONSOLE_REFRESH_SECONDS, until Ctrl-C.")
@json_option
def stats_command(*, watch: bool, as_json: bool) -> None:
    """Show totals, windows, alerts, accounts, latency and lag, merged from the result topics.

    Everything shown is committed.
    """

    async def work(tools: Tools) -> int:
        async with Connection(tools.kafka, tools.console, log=tools.log) as kafka:
            follower = GlobalFollower(kafka)
            with tools.out.progress("reading the results") as bar:
                view = await follower.view(bar)
            if not watch:
                _show(tools.out, view)
                return STOPPED_AS_ASKED
            await _watch(tools, follower, view)
        return STOPPED_AS_ASKED

    execute(work, as_json=as_json, until_interrupted=watch)


async def _watch(tools: Tools, follower: GlobalFollower, view: GlobalView) -> None:
    if not tools.out.is_live:
        while True:
            _show(tools.out, view)
            await asyncio.sleep(tools.console.refresh_seconds)
            view = await follower.view()
    with Live(render(view), console=tools.out.console, auto_refresh=False) as live:
        while True:
            await asyncio.sleep(tools.console.refresh_seconds)
            view = await follower.view()
            live.update(render(view), refresh=True)


def _show(out: Output, view: GlobalView) -> None:
    if out.as_json:
        out.json(as_fields(view))
    else:
        out.show(render(view))


def as_fields(view: GlobalView) -> dict[str, Any]:
    """Return the view as JSON types."""
    return dict(msgspec.to_builtins(view))


def render(view: GlobalView) -> RenderableType:
    """Return the view as text for people."""
    behavior, account = view.behavior, view.account
    latency = view.latency_ms
    head = [
        ("events", behavior.total_events),
        ("unique users", behavior.unique_users),
        ("purchases", behavior.purchases),
        ("alerts firing", len(view.firing)),
        ("dead letters", account.dead_lettered),
        ("lag", sum(view.lag.values())),
        ("latency ms p50 / p99", "-" if latency is None else f"{latency.p50:.1f} / {latency.p99:.1f}"),
    ]
    parts: list[RenderableType] = [
        Text("   ".join(f"{name} {shown(value)}" for name, value in head)),
        Text(),
        table("action", "events", rows=list(behavior.actions.items())),
        Text(),
        table("device", "events", rows=list(behavior.devices.items())),
        Text(),
        accounts_table(view),
    ]
    if view.sensors:
        rows = [
            (one.sensor_id, one.partition, one.count, one.avg, one.min, one.max, one.median, one.breaches)
            for one in view.sensors
        ]
        names = ("sensor", "partition", "readings", "avg", "min", "max", "median", "breaches")
        parts += [Text(), table(*names, rows=rows)]
    if view.firing:
        rows_of_alerts = [
            (one.sensor_id, one.bound, one.threshold, one.value, one.location) for one in view.firing
        ]
        parts += [Text(), table("firing", "bound", "threshold", "value", "where", rows=rows_of_alerts)]
    if view.unreadable:
        parts += [Text(), Text(f"{view.unreadable} records are not as the contract says and are not in here")]
    return Group(*parts)


def accounts_table(view: GlobalView) -> RenderableType:
    """Return the accounts, a line for each input and one for all."""
    by_topic: dict[str, Account] = {}
    for one in view.partitions:
        by_topic[one.topic] = by_topic.get(one.topic, Account()) + one.account
    rows = [_account_row(topic, account) for topic, account in by_topic.items()]
    if len(rows) > 1:
        rows.append(_account_row("all", view.account))
    return table(*ACCOUNT_COLUMNS, rows=rows)


ACCOUNT_COLUMNS = (
    "account",
    "sent",
    "counted",
    "in flight",
    "lost",
    "duplicated",
    "gaps",
    "late",
    "dead letters",
    "unacknowledged",
)


def _account_row(name: str, account: Account) -> tuple[Any, ...]:
    return (
        name,
        account.sent,
        account.counted,
        account.in_flight,
        account.lost,
        account.duplicated,
        account.gaps,
        account.late,
        account.dead_lettered,
        account.unacknowledged,
    )
