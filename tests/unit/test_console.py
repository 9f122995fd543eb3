"""The command line itself: what it offers, and what it does with nonsense."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner, Result

from services.console import launching
from services.console.__main__ import main
from services.console.accounts import Account
from services.console.demonstration import Moment, Summary
from services.console.launching import last_words
from services.console.live_view import closing, command, line
from services.console.merge import Latest, merge
from services.console.topic_plan import Existing, discrepancies, replication_for
from shared.results import LatencyMilliseconds
from shared.topics import definitions
from tests.leftovers import has_ended


@pytest.fixture(autouse=True)
def in_a_folder_without_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def untouched_logs() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def tandem(*arguments: str, **variables: str) -> Result:
    return CliRunner().invoke(main, arguments, env=dict(variables))


def test_the_help_names_every_command_and_gives_examples() -> None:
    result = tandem("--help")
    assert result.exit_code == 0
    assert all(f"  {name} " in result.output for name in main.commands)
    assert "Examples:" in result.output
    assert "Exit codes: 0" in result.output


# That of `bench` comes from the benchmarks, which take the place of this process.
@pytest.mark.parametrize("name", sorted(main.commands.keys() - {"bench"}))
def test_every_command_has_help_with_examples(name: str) -> None:
    result = tandem(name, "--help")
    assert result.exit_code == 0
    assert f"tandem {name}" in result.output.partition("Examples:")[2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["topics", "nonsense"],
        ["topics", "create", "--partitions", "0"],
        ["topics", "create", "--partitions", "many"],
        ["topics", "create", "--topic", "nonsense"],
        ["topics", "create", "--replication", "-1"],
        ["verify", "--timeout-seconds", "0"],
        ["demo", "--seconds", "soon"],
        ["demo", "--partitions", "0"],
        ["sandbox", "--nodes", "2"],
        ["stats", "surplus"],
        ["config", "--nonsense"],
    ],
)
def test_bad_use_is_said_and_exits_with_2(arguments: list[str]) -> None:
    result = tandem(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("name", [["stats"], ["verify"], ["topics", "create"], ["sandbox"], ["demo"]])
def test_wrong_settings_are_all_said_and_exit_with_2(name: list[str]) -> None:
    result = tandem(*name, KAFKA_TOPIK_PREFIX="x", CONSOLE_STALL_SECONDS="never")
    assert result.exit_code == 2
    assert "did you mean KAFKA_TOPIC_PREFIX?" in result.stderr
    assert "CONSOLE_STALL_SECONDS" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("name", ["sandbox", "demo"])
def test_without_a_sandbox_it_says_so_and_exits_with_2(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(launching, "ROOT", tmp_path)
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    result = tandem(name)
    assert result.exit_code == 2
    assert "the sandbox is not part of this installation" in result.stderr


def test_an_absent_kafka_is_one_line_and_exits_with_1() -> None:
    result = tandem(
        "stats",
        KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1",
        CONSOLE_UNAVAILABLE_SECONDS="0.1",
        LOG_LEVEL="error",
    )
    assert result.exit_code == 1
    assert result.stderr.startswith("tandem: Kafka has been unavailable for")
    assert "CONSOLE_UNAVAILABLE_SECONDS" in result.stderr
    assert result.stderr.count("\n") == 1


# --- topics ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("brokers", "wanted", "replication"), [(1, None, 1), (2, None, 1), (3, None, 3), (5, None, 3), (3, 2, 2)]
)
def test_replication_is_what_is_set_or_what_the_cluster_allows(
    brokers: int, wanted: int | None, replication: int
) -> None:
    assert replication_for(brokers, wanted) == replication


def differing(name: str, existing: Existing, *, asked: int | None = None, replication: int = 1) -> list[str]:
    (definition,) = (one for one in definitions(partitions=6, retention_hours=168) if one.name == name)
    found = discrepancies(
        definition, existing, full_name=f"p-{name}", replication=replication, partitions_asked=asked
    )
    return [one.property for one in found]


def test_a_topic_that_is_as_it_should_be_differs_in_nothing() -> None:
    wanted = {one.name: one.configs for one in definitions(partitions=6, retention_hours=168)}
    configs = wanted["behavior_stats"] | {"compression.type": "producer"}
    assert differing("behavior_stats", Existing(6, 1, configs)) == []


def test_the_partitions_of_an_input_are_the_truth_unless_others_are_asked_for() -> None:
    existing = Existing(4, 1, {"cleanup.policy": "delete", "retention.ms": "604800000"})
    assert differing("user_behavior", existing) == []
    assert differing("user_behavior", existing, asked=8) == ["partitions"]


def test_every_difference_is_named() -> None:
    existing = Existing(3, 1, {"cleanup.policy": "compact", "retention.ms": "604800000"})
    assert differing("purchases", existing, replication=3) == [
        "partitions",
        "replication",
        "cleanup.policy",
        "min.insync.replicas",
        "retention.ms",
    ]


# --- what a demo says -----------------------------------------------------------------------------


def test_the_summary_says_what_came_of_everything() -> None:
    account = Account(sent=1_234, counted=1_230, dead_lettered=4)
    text = closing(Summary(account, 20.0, 61.7, LatencyMilliseconds(4.0, 18.5)))
    for part in (
        "sent",
        "1,234",
        "counted",
        "1,230",
        "lost",
        "duplicated",
        "dead-lettered",
        "62 over 20.0 s",
    ):
        assert part in text
    assert "p50 4.0 ms  p99 18.5 ms" in text


@pytest.mark.parametrize(
    ("account", "is_flawless"),
    [
        (Account(sent=5, counted=5), True),
        (Account(sent=5, counted=4, lost=1), False),
        (Account(sent=5, counted=5, duplicated=1), False),
        (Account(sent=5, counted=4, in_flight=1), False),
    ],
)
def test_a_demo_is_flawless_when_all_was_counted_once(account: Account, is_flawless: bool) -> None:
    assert Summary(account, 1.0, 5.0, None).is_flawless is is_flawless


def test_a_moment_is_one_line() -> None:
    moment = Moment(7.2, merge(Latest(), {}), sent_per_second=1.0, counted_per_second=2.0)
    assert "\n" not in line(moment)
    assert "lost 0" in line(moment)


def test_the_next_command_can_be_pasted() -> None:
    assert command("127.0.0.1:9", "") == "KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:9 tandem stats"
    assert "KAFKA_TOPIC_PREFIX=demo- " in command("127.0.0.1:9", "demo-")


def test_the_last_words_of_a_service_are_its_reason() -> None:
    assert last_words(['{"event":"x"}', '{"event":"stopped","reason":"no topic"}']) == "no topic"
    assert last_words(["Traceback", "ValueError: x"]) == "ValueError: x"
    assert last_words([]) == ""


# --- processes that end with us -------------------------------------------------------------------

PARENT = """
import asyncio, os, signal, sys
from pathlib import Path
from services.console.children import Child, ScratchFolder

async def main():
    sys.platform = sys.argv[1]
    async with ScratchFolder("tandem-test-") as folder:
        child = Child("sleeper", ["-c", "import time; time.sleep(600)"], os.environ, log=folder.path / "log")
        await child.start()
        print(child.process.pid, folder.path, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("platform", [sys.platform, "darwin"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_we_started_goes_with_us_however_we_go(platform: str, number: signal.Signals) -> None:
    root = Path(launching.__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, platform],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    pid, folder = parent.stdout.readline().split()
    os.kill(int(pid), 0)
    parent.send_signal(number)
    parent.wait(10)
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while not has_ended(int(pid)) or Path(folder.decode()).exists():
        assert time.monotonic() < deadline, "something is left behind"
        time.sleep(0.02)


_INTERRUPTED_WHILE_LOADING = """
import os, signal, sys

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "services.console.commands.verify":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
from services.console.entry import main
main()
"""


def test_ctrl_c_while_the_command_line_is_loaded_is_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_WHILE_LOADING, "--version"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "tandem: interrupted\n")
