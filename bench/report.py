"""What a comparison says: one row an entry, as a table and as a picture. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from bench.entries import ENTRIES, OURS, Entry

_BAR_PIXELS = 420
_LABEL_PIXELS = 330
_ROW_PIXELS = 26
_TOP_PIXELS = 34


@dataclass(frozen=True)
class Run:
    """One run with the right counts.

    Attributes:
        seconds: from the first record to the last commit.
        cpu_seconds: user and system time in these seconds, all threads.
        peak_mebibytes: resident memory, at most.
    """

    entry: str
    round: int
    events: int
    seconds: float
    cpu_seconds: float
    peak_mebibytes: float

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds


@dataclass(frozen=True)
class Row:
    """The figures of one entry.

    Attributes:
        rates: events a second, round by round, ascending.
        cpu_per_million: seconds of user and system time, median.
        peak_mebibytes: of resident memory, the most of all rounds.
        ratios: how many times ours is as fast, within each round, ascending.
    """

    entry: str
    rates: list[float]
    cpu_per_million: float
    peak_mebibytes: float
    ratios: list[float]

    @property
    def rate(self) -> float:
        """The median rate."""
        return statistics.median(self.rates)


def rows(runs: Sequence[Run], ours_is: str = OURS) -> list[Row]:
    """Return the rows, fastest first."""
    ours = {run.round: run.rate for run in runs if run.entry == ours_is}
    found = []
    for name in dict.fromkeys(run.entry for run in runs):
        mine = [run for run in runs if run.entry == name]
        found.append(
            Row(
                name,
                sorted(run.rate for run in mine),
                statistics.median(run.cpu_seconds / run.events * 1e6 for run in mine),
                max(run.peak_mebibytes for run in mine),
                sorted(ours[run.round] / run.rate for run in mine if run.round in ours),
            )
        )
    return sorted(found, key=lambda row: -row.rate)


def markdown(
    table: Sequence[Row], about: str, entries: Mapping[str, Entry] = ENTRIES, ours_is: str = OURS
) -> str:
    """Return the table with what it was measured on."""
    lines = [
        about,
        "",
        "| who | what survives a kill | events/s, median (range) | CPU s per million | peak MiB | ours is |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in table:
        entry = entries[row.entry]
        spread = f"{row.rate:,.0f} ({row.rates[0]:,.0f} to {row.rates[-1]:,.0f})"
        ratio = "" if row.entry == ours_is or not row.ratios else f"{statistics.median(row.ratios):.2f} times"
        if ratio and len(row.ratios) > 1:
            ratio += f" ({row.ratios[0]:.2f} to {row.ratios[-1]:.2f})"
        title = f"**{entry.title}**" if row.entry == ours_is else entry.title
        lines.append(
            f"| {title} | {entry.durability} | {spread} | {row.cpu_per_million:.2f} "
            f"| {row.peak_mebibytes:,.0f} | {ratio} |"
        )
    return "\n".join(lines)


def svg(table: Sequence[Row], about: str) -> str:
    """Return the medians as bars, their ranges as lines."""
    most = max((row.rates[-1] for row in table), default=1.0)
    height = _TOP_PIXELS + _ROW_PIXELS * len(table) + 12
    width = _LABEL_PIXELS + _BAR_PIXELS + 110
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
        "<style>text { font: 12px sans-serif; fill: #1f2328 }</style>",
        f"<title>Events per second. {escape(about)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        '<text x="8" y="20">Events per second, median and range</text>',
    ]
    for number, row in enumerate(table):
        top = _TOP_PIXELS + number * _ROW_PIXELS
        middle = top + _ROW_PIXELS / 2
        length = row.rate / most * _BAR_PIXELS
        low, high = (rate / most * _BAR_PIXELS + _LABEL_PIXELS for rate in (row.rates[0], row.rates[-1]))
        colour = "#1a7f37" if row.entry == OURS else "#8c959f" if ENTRIES[row.entry].counts else "#d0d7de"
        title, bar = escape(ENTRIES[row.entry].title), _ROW_PIXELS - 8
        parts += [
            f'<text x="{_LABEL_PIXELS - 8}" y="{middle + 4}" text-anchor="end">{title}</text>',
            f'<rect x="{_LABEL_PIXELS}" y="{top + 4}" width="{length:.1f}" height="{bar}" fill="{colour}"/>',
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="#1f2328"/>',
            f'<text x="{high + 6:.1f}" y="{middle + 4}">{row.rate:,.0f}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
