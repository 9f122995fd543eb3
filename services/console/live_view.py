"""How a running demo looks: a picture on a terminal, a line a second elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from services.console.accounts import Account
from services.console.demonstration import Moment, Summary
from shared.results import Alert, LatencyMilliseconds, Purchase

_BAR_CHARACTERS = 18


def picture(moment: Moment, *, bootstrap_servers: str, prefix: str) -> RenderableType:
    """Return one moment as a picture of about 80 columns and 24 lines."""
    view = moment.view
    left = Table.grid(padding=(0, 1))
    for row in _bars(view.behavior.actions):
        left.add_row(*row)
    right = Table.grid(padding=(0, 1))
    for row in _bars(view.behavior.devices):
        right.add_row(*row)
    halves = Table.grid(expand=True, padding=(0, 2))
    halves.add_column(ratio=1)
    halves.add_column(ratio=1)
    halves.add_row(left, Group(right, *_firing(view.firing)))
    latest = Table.grid(expand=True, padding=(0, 2))
    latest.add_column(ratio=1, no_wrap=True)
    latest.add_column(ratio=1, no_wrap=True)
    latest.add_row(
        Group(Text("latest purchases", style="bold"), *map(_purchase, reversed(view.recent_purchases))),
        Group(Text("latest alerts", style="bold"), *map(_alert, reversed(view.recent_alerts))),
    )
    body = Group(
        _accounts(view.account),
        Text(),
        _speed(moment),
        Text(),
        halves,
        Text(),
        latest,
        Text(),
        _next(bootstrap_servers, prefix),
    )
    title = f"Tandem   {_clock(moment.seconds)}   Kafka on {bootstrap_servers}"
    return Panel(body, title=title, subtitle="Ctrl-C ends it", title_align="left", subtitle_align="right")


def line(moment: Moment) -> str:
    """Return one moment as a line."""
    account = moment.view.account
    return (
        f"{moment.seconds:4.0f} s  {_numbers(account)}  {moment.counted_per_second:,.0f} events/s  "
        f"lag {sum(moment.view.lag.values()):,}  latency {latency_text(moment.view.latency_ms)}"
    )


def closing(summary: Summary) -> str:
    """Return what a demo came to, as text."""
    account = summary.account
    rows: list[tuple[str, str]] = [
        ("sent", f"{account.sent:,}"),
        ("counted", f"{account.counted:,}"),
        ("lost", f"{account.lost:,}"),
        ("duplicated", f"{account.duplicated:,}"),
        ("dead-lettered", f"{account.dead_lettered:,}"),
        ("events/s", f"{summary.events_per_second:,.0f} over {summary.seconds:.1f} s"),
        ("latency", latency_text(summary.latency_ms)),
    ]
    if account.in_flight:
        rows.insert(2, ("not counted in time", f"{account.in_flight:,}"))
    if account.unacknowledged:
        rows.insert(2, ("sent, unacknowledged", f"{account.unacknowledged:,}"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(["summary", *(f"  {name:{width}}  {value}" for name, value in rows)])


def latency_text(latency: LatencyMilliseconds | None) -> str:
    """Return p50 and p99 as text."""
    return "-" if latency is None else f"p50 {latency.p50:.1f} ms  p99 {latency.p99:.1f} ms"


def _numbers(account: Account) -> str:
    return (
        f"sent {account.sent:,}  counted {account.counted:,}  in flight {account.in_flight:,}  "
        f"lost {account.lost:,}  duplicated {account.duplicated:,}  dead-lettered {account.dead_lettered:,}"
    )


def _accounts(account: Account) -> RenderableType:
    grid = Table.grid(expand=True)
    cells: list[tuple[str, int, bool]] = [
        ("sent", account.sent, False),
        ("counted", account.counted, False),
        ("in flight", account.in_flight, False),
        ("lost", account.lost, True),
        ("duplicated", account.duplicated, True),
        ("dead-lettered", account.dead_lettered, False),
    ]
    for _ in cells:
        grid.add_column(justify="right", ratio=1)
    grid.add_row(*(Text(name, style="dim") for name, _, _ in cells))
    grid.add_row(*(Text(f"{value:,}", style=_style(value, must_be_0)) for _, value, must_be_0 in cells))
    return grid


def _style(value: int, must_be_0: bool) -> str:
    if must_be_0:
        return "bold red" if value else "bold green"
    return "bold"


def _speed(moment: Moment) -> Text:
    view = moment.view
    return Text(
        f"sent {moment.sent_per_second:,.0f}/s   counted {moment.counted_per_second:,.0f}/s   "
        f"lag {sum(view.lag.values()):,}   latency {latency_text(view.latency_ms)}\n"
        f"user events {view.behavior.total_events:,}   users {view.behavior.unique_users:,}   "
        f"purchases {view.behavior.purchases:,}   sensors {len(view.sensors):,}"
    )


def _bars(counts: Mapping[str, int]) -> Sequence[tuple[Text, Text, Text]]:
    largest = max(counts.values(), default=0)
    return [
        (
            Text(f"{name:8}"),
            Text("█" * round(_BAR_CHARACTERS * count / largest) if largest else "", style="cyan"),
            Text(f"{count:,}", justify="right"),
        )
        for name, count in counts.items()
    ]


def _firing(alerts: Sequence[Alert]) -> list[RenderableType]:
    names = ", ".join(f"{alert.sensor_id} {alert.bound}" for alert in alerts[:3])
    more = f" and {len(alerts) - 3} more" if len(alerts) > 3 else ""
    return [Text(), Text(f"firing: {names or 'none'}{more}", style="yellow" if alerts else "dim")]


def _purchase(purchase: Purchase) -> Text:
    return Text(f"user {purchase.user_id}  {purchase.page}  {purchase.device}")


def _alert(alert: Alert) -> Text:
    style = "yellow" if alert.state == "firing" else "dim"
    bound = f"{alert.bound} {alert.threshold:g}"
    return Text(f"{alert.sensor_id} {alert.value:g} ({bound}) {alert.state}", style=style)


def _next(bootstrap_servers: str, prefix: str) -> Text:
    return Text(f"In another shell: {command(bootstrap_servers, prefix)}", style="dim", overflow="fold")


def command(bootstrap_servers: str, prefix: str, what: str = "tandem stats") -> str:
    """Return a command line that looks at the demo's Kafka."""
    set_prefix = f"KAFKA_TOPIC_PREFIX={prefix} " if prefix else ""
    return f"KAFKA_BOOTSTRAP_SERVERS={bootstrap_servers} {set_prefix}{what}"


def _clock(seconds: float) -> str:
    minutes, left = divmod(int(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{left:02}"
