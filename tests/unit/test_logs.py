"""What a log line looks like, what never gets into one, and how repeats are folded."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import structlog

from shared import logs
from shared.logs import FoldRepeats
from shared.settings import LogSettings

SECRET = "hunter2-in-a-frame"


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


Configure = Callable[..., io.StringIO]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Return what sets the logs up; everything is as before when the test is over."""
    root = logging.getLogger()
    # As it is in a new process, whatever other tests have done to it.
    monkeypatch.setattr(logging.getLogger("aiokafka"), "propagate", True)
    handlers, level = root.handlers[:], root.level

    def set_up(**settings: Any) -> io.StringIO:
        stream = io.StringIO()
        logs.configure(LogSettings(**{"format": "json"} | settings), service="processor", stream=stream)
        return stream

    yield set_up
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in stream.getvalue().splitlines()]


def record(text: str, *args: object, level: int = logging.ERROR, name: str = "aiokafka") -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, text, args, None)


def fail_with_a_secret_in_the_frame() -> None:
    password = SECRET
    raise ValueError(f"a password of {len(password)} characters is wrong")


def test_a_line_is_one_json_object_with_its_level_time_and_service(configure: Configure) -> None:
    stream = configure()
    logs.get("processor.task").info("task_running", offset=42, text="two\nlines")
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "task_running",
        "level": "info",
        "module": "processor.task",
        "offset": 42,
        "service": "processor",
        "text": "two\nlines",
    }


def test_what_json_does_not_know_is_written_as_its_text(configure: Configure) -> None:
    stream = configure()
    logs.get("x").info("odd", error=ValueError("why"), path=io.StringIO)
    assert lines(stream)[0]["error"] == "why"


def test_lines_below_the_level_are_left_out(configure: Configure) -> None:
    stream = configure(level="warning")
    logs.get("x").info("quiet")
    logs.get("x").warning("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_an_exception_is_structured_and_shows_no_variables(configure: Configure) -> None:
    stream = configure()
    try:
        fail_with_a_secret_in_the_frame()
    except ValueError:
        logs.get("x").exception("failed")
    (line,) = lines(stream)
    (exception,) = line["exception"]
    assert exception["exc_type"] == "ValueError"
    assert exception["frames"][-1]["name"] == "fail_with_a_secret_in_the_frame"
    assert SECRET not in stream.getvalue()


def test_an_exception_of_the_client_library_is_structured_too_and_shows_no_variables(
    configure: Configure,
) -> None:
    stream = configure()
    try:
        fail_with_a_secret_in_the_frame()
    except ValueError:
        logging.getLogger("aiokafka").exception("Unable to bootstrap from %s", "127.0.0.1:9092")
    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["level"], line["service"]) == (
        "Unable to bootstrap from 127.0.0.1:9092",
        "aiokafka",
        "warning",
        "processor",
    )
    assert line["exception"][0]["exc_value"] == "a password of 18 characters is wrong"
    assert SECRET not in stream.getvalue()


def test_on_a_terminal_lines_are_for_people_and_show_no_variables(configure: Configure) -> None:
    stream = configure(format="console")
    logs.get("x").info("task_running", offset=42)
    try:
        fail_with_a_secret_in_the_frame()
    except ValueError:
        logs.get("x").exception("failed")
    assert "task_running" in stream.getvalue()
    assert "offset=42" in stream.getvalue()
    assert SECRET not in stream.getvalue()


def test_a_stream_that_is_no_terminal_gets_json_by_default(configure: Configure) -> None:
    stream = configure(format=None)
    logs.get("x").info("hello")
    assert lines(stream)[0]["event"] == "hello"


def test_the_library_says_the_same_thing_once_and_then_how_often(configure: Configure) -> None:
    stream = configure()
    for port in range(50):
        logging.getLogger("aiokafka").error("Unable connect to node at port %d", port)
    assert [line["event"] for line in lines(stream)] == ["Unable connect to node at port 0"]


def test_setting_up_again_replaces_what_was_there(configure: Configure) -> None:
    first = configure()
    second = configure()
    logging.getLogger("aiokafka").error("once")
    logs.get("y").info("once more")
    assert first.getvalue() == ""
    assert [line["event"] for line in lines(second)] == ["once", "once more"]


def test_the_first_of_each_kind_passes_and_repeats_are_held_back() -> None:
    fold = FoldRepeats(seconds=10, clock=Clock())
    assert fold.filter(record("node %d is away", 1))
    assert not fold.filter(record("node %d is away", 2)), "the template is what makes a kind"
    assert fold.filter(record("node %d is back", 1))
    assert fold.filter(record("node %d is away", 1, level=logging.WARNING))
    assert fold.filter(record("node %d is away", 1, name="aiokafka.conn"))


def test_the_next_one_that_passes_says_how_many_were_held_back() -> None:
    clock = Clock()
    fold = FoldRepeats(seconds=10, clock=clock)
    for _ in range(8):
        fold.filter(record("node %d is away", 1))
    clock.now = 10.0
    passed = record("node %d is away", 3)
    assert fold.filter(passed)
    assert passed.getMessage() == "node 3 is away [7 like it held back]"


def test_the_count_starts_anew_when_it_was_told() -> None:
    clock = Clock()
    fold = FoldRepeats(seconds=10, clock=clock)
    told = [record("away") for _ in range(4)]
    for clock.now, one in zip((0.0, 1.0, 10.0, 20.0), told, strict=True):
        fold.filter(one)
    assert [one.getMessage() for one in told[2:]] == ["away [1 like it held back]", "away"]


def test_a_percent_sign_in_what_is_folded_does_no_harm() -> None:
    clock = Clock()
    fold = FoldRepeats(seconds=10, clock=clock)
    told = [record("%s is away", "100 %s") for _ in range(3)]
    for clock.now, one in zip((0.0, 1.0, 10.0), told, strict=True):
        fold.filter(one)
    assert told[-1].getMessage() == "100 %s is away [1 like it held back]"


def test_no_more_kinds_are_remembered_than_the_bound() -> None:
    fold = FoldRepeats(seconds=10, kinds=3, clock=Clock())
    for kind in ("a", "b", "c", "d"):
        assert fold.filter(record(kind))
    assert fold.filter(record("a")), "forgotten, and so told again"
    assert not fold.filter(record("d"))
