"""The command line on a terminal, in a pipe, and half in each: bars, colours, and where words go."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Kafka
from tests.integration.commands import COMMAND_SECONDS, Tandem, start_tandem
from tests.integration.test_console_letters import letters

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
ESCAPE = "\x1b"

Run = Callable[..., "Shown"]

pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True)
class Shown:
    """What a terminal was sent, and what went through a pipe instead."""

    exit_code: int
    terminal: str
    piped: str

    @property
    def lines(self) -> list[str]:
        """What is left on the terminal of whole lines, without bars and colours."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.terminal).replace("\r", "\n").splitlines()


@pytest.fixture
def on_a_terminal(kafka: Kafka, prefix: str, tmp_path: Path) -> Run:
    """Return what runs a command on a terminal; `piped`: its standard output goes into a pipe instead."""

    def run(*arguments: str, piped: bool = False, **more: str) -> Shown:
        ours, its_own = pty.openpty()
        told: list[bytes] = []

        def read() -> None:
            with contextlib.suppress(OSError):  # Nobody has the other end any more.
                while chunk := os.read(ours, 65_536):
                    told.append(chunk)

        reader = threading.Thread(target=read)
        variables = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "KAFKA_TOPIC_PREFIX": prefix}
        variables |= {"TERM": "xterm-256color", **more}
        try:
            process = start_tandem(
                *arguments,
                folder=tmp_path,
                variables=variables,
                stdin=its_own,
                stdout=subprocess.PIPE if piped else its_own,
                stderr=its_own,
            )
            os.close(its_own)
            reader.start()
            caught, _ = process.communicate(timeout=COMMAND_SECONDS)
            reader.join(10)
        finally:
            os.close(ours)
        return Shown(process.returncode, b"".join(told).decode(), caught or "")

    return run


@pytest.fixture(autouse=True)
def _topics(prefix: str, make_topics: Callable[..., None]) -> None:
    make_topics(prefix, partitions=2)


def test_a_terminal_gets_bars_and_colours_no_color_takes_the_colours_and_a_pipe_gets_neither(
    on_a_terminal: Run, tandem: Tandem
) -> None:
    checked, verified = on_a_terminal("check"), on_a_terminal("verify")
    assert (checked.exit_code, verified.exit_code) == (0, 0)
    assert COLOUR.search(checked.terminal)
    assert "recomputing" in verified.terminal
    assert "all equal" in verified.lines
    for plain in (on_a_terminal("check", NO_COLOR="1"), on_a_terminal("verify", NO_COLOR="1")):
        assert plain.exit_code == 0
        assert not COLOUR.search(plain.terminal)
    for command in ("check", "verify"):
        ran = tandem(command)
        assert (ran.exit_code, ESCAPE in ran.out, ran.err) == (0, False, "")


def test_what_was_asked_for_goes_into_the_pipe_while_a_bar_is_on_the_terminal(
    on_a_terminal: Run, kafka: Kafka, prefix: str, tmp_path: Path
) -> None:
    letters(kafka, prefix, 30)
    (tmp_path / "lines.jsonl").write_text("".join(f'{{"n":{number}}}\n' for number in range(30)))
    for command in (
        ("dlq", "list", "--each"),
        ("dlq", "retry", "--all", "--dry-run"),
        ("send", "user_behavior", "--raw", "--file", "lines.jsonl", "--async"),
        ("tail", "user_behavior", "--from", "beginning"),
    ):
        shown = on_a_terminal(*command, piped=True)
        assert shown.exit_code == 0, shown
        assert len(shown.piped.splitlines()) >= 30, command
        assert ESCAPE not in shown.piped
        assert ESCAPE in shown.terminal, "there is a bar"
        assert prefix + "user_behavior:" not in shown.terminal, command


def test_lines_above_a_bar_are_whole_and_as_they_are(on_a_terminal: Run, kafka: Kafka, prefix: str) -> None:
    """However wide the terminal is: what is copied from it has no line ends of its own."""
    letters(
        kafka, prefix, 1, more=(("__streams.errors.message", b":warning: [red]" + b"long " * 40 + b"end"),)
    )
    for command in (("dlq", "list", "--each"), ("tail", "dead_letters", "--from", "beginning", "--headers")):
        shown = on_a_terminal(*command)
        assert [line for line in shown.lines if ":warning: [red]long" in line and line.endswith("long end")]


def test_an_editor_has_the_terminal_for_itself(
    on_a_terminal: Run, kafka: Kafka, prefix: str, tmp_path: Path
) -> None:
    letters(kafka, prefix, 1)
    editor = tmp_path / "editor.py"
    # As long as a bar takes to come back several times.
    editor.write_text("import time\nprint('BEGIN', flush=True)\ntime.sleep(0.6)\nprint('END', flush=True)\n")
    shown = on_a_terminal("dlq", "edit", "0:0", EDITOR=f"{sys.executable} {editor}")
    assert shown.exit_code == 1
    assert re.search(r"BEGIN\s+END", shown.terminal), shown.terminal
    assert "letter 0:0: not sent: nothing was saved" in shown.terminal
