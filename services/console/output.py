"""What a command prints: aligned text for people, one JSON object a line for machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
import msgspec
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

_PLAIN_WIDTH = 1_000
_encode = msgspec.json.Encoder().encode


class Output:
    """Where a command's words go. Standard output is for what was asked for, standard error for the rest."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(highlight=False, emoji=False, soft_wrap=False)
        if not self.console.is_terminal:
            # A pipe has no width; a table must not be cut for one.
            self.console = Console(highlight=False, emoji=False, width=_PLAIN_WIDTH)
        self._errors = Console(stderr=True, highlight=False, emoji=False)
        self._bar: Progress | None = None

    @property
    def is_live(self) -> bool:
        """Whether somebody watches: a terminal, and no machine-readable output."""
        return self.console.is_terminal and not self.as_json

    def json(self, value: Any) -> None:
        """Print one JSON object in one line."""
        click.echo(_encode(value))

    def text(self, line: str = "") -> None:
        """Print a line as it is; above a bar, where one is shown on the same terminal."""
        if self._bar is not None and self.console.is_terminal:
            self._errors.print(line, markup=False, soft_wrap=True)
        else:
            click.echo(line)

    def marked(self, line: str) -> None:
        """Print a line with rich's markup: in colour on a terminal, plain elsewhere."""
        self.console.print(line, soft_wrap=True)

    def say(self, line: str) -> None:
        """Tell people how far things are; on standard error, and not where machines read.

        Through rich, which puts it above a live view instead of into it.
        """
        if not self.as_json:
            self._errors.print(line, markup=False, soft_wrap=True)

    def error(self, text: str) -> None:
        """Say why a command failed, on standard error."""
        if self._bar is not None:
            self._errors.print(f"tandem: {text}", markup=False, soft_wrap=True)
        else:
            click.echo(f"tandem: {text}", err=True)

    def show(self, renderable: Any) -> None:
        """Print a table or another thing of rich's."""
        self.console.print(renderable)

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Show a bar on a terminal; yields the function that moves it (done, all)."""
        if self.as_json or not self._errors.is_terminal:
            yield lambda _done, _all: None
            return
        columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        # Left to itself it takes standard output for its terminal too, also when that goes into a file.
        bar = Progress(
            *columns, console=self._errors, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        with bar:
            task = bar.add_task(what, total=None)
            self._bar = bar
            try:
                yield lambda done, everything: bar.update(task, completed=done, total=max(everything, 1))
            finally:
                self._bar = None

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Take the bar away meanwhile: for many lines, or another program that wants the terminal."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.stop()
        try:
            yield
        finally:
            if bar is not None:
                bar.start()
                self._bar = bar


def table(*headers: str, rows: Sequence[Sequence[Any]], title: str | None = None) -> Table:
    """Return an aligned table without lines; numbers are on the right, with thousands separated."""
    result = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, show_edge=False)
    for index, header in enumerate(headers):
        is_number = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        result.add_column(header, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        result.add_row(*(shown(cell) for cell in row))
    return result


def shown(cell: Any) -> str:
    """Return a cell as people read it."""
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return "" if cell is None else str(cell)
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.2f}"
