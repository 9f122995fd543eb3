"""A broker that goes for ever, or that is gone when a stop is asked for, in each state of each process.

All processes of a test meet the same broker at the same moment, so that their waiting is shared. What each
took is printed below the run, and compared with the bound that docs/operations.md states.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from sandbox import Sandbox
from sandbox.ports import HOST
from tests.integration.behavior_topics import topics_of
from tests.integration.blackhole import Blackhole
from tests.integration.conftest import create
from tests.integration.held_processor import STEPS
from tests.verifier import Service, environment
from tests.verifier.polling import poll

pytestmark = pytest.mark.timeout(240)

UNAVAILABLE_SECONDS = 4.0
DEADLINE_SECONDS = 3.0
REQUEST_SECONDS = 2.0
METADATA_SECONDS = 1.0
STOP_SECONDS = 2.0
DRAIN_SECONDS = 2.0
REBALANCE_SECONDS = 3.0
ASK_SECONDS = 5.0
# What a loaded machine may add to any bound.
NOISE_SECONDS = 3.0
AFTER_SECONDS = 1.0

# The bounds of docs/operations.md, "A broker that goes for ever", with these settings.
CLIENT_SECONDS = 4.0  # closing a client: 3, and cutting it off
PROBE_SECONDS = 4.0  # finding out why a client could not connect
STOPPING = STOP_SECONDS + 4 + 4 + 4 + 4 + CLIENT_SECONDS + 1
LAST_TRY = 1 + CLIENT_SECONDS + PROBE_SECONDS
RUNNING = ASK_SECONDS + DEADLINE_SECONDS + UNAVAILABLE_SECONDS + LAST_TRY + STOPPING
STARTING = DEADLINE_SECONDS + 5 + CLIENT_SECONDS + PROBE_SECONDS + UNAVAILABLE_SECONDS + LAST_TRY + 1
JOINING = STARTING + REBALANCE_SECONDS + STOPPING
QUIET = METADATA_SECONDS + 2 * REQUEST_SECONDS
ENDING = 0.5 + 2 + CLIENT_SECONDS + 1
SENDING = max(UNAVAILABLE_SECONDS, QUIET) + ENDING
ASKING = DEADLINE_SECONDS + 4 * CLIENT_SECONDS

SETTINGS = {
    "HTTP_PORT": 0,
    "LOG_FORMAT": "json",
    "KAFKA_UNAVAILABLE_SECONDS": UNAVAILABLE_SECONDS,
    "KAFKA_OPERATION_DEADLINE_SECONDS": DEADLINE_SECONDS,
    "KAFKA_REQUEST_TIMEOUT_SECONDS": REQUEST_SECONDS,
    "KAFKA_METADATA_MAX_AGE_SECONDS": METADATA_SECONDS,
    "PROCESSOR_REBALANCE_TIMEOUT_SECONDS": REBALANCE_SECONDS,
    "PROCESSOR_TOPOLOGIES": "behavior",
    "PROCESSOR_STOP_SECONDS": STOP_SECONDS,
    "GENERATOR_STREAMS": "behavior",
    "GENERATOR_DRAIN_SECONDS": DRAIN_SECONDS,
    "GENERATOR_RATE": 200,
}
Measured = Callable[[str, object], None]
SAID = ("kafka_unavailable", "task_rebuilt", "kafka_slow", "stopping", "stopped", "membership_error")


@dataclass
class Case:
    """One process in one state.

    Attributes:
        state: for the report.
        what: module and arguments.
        bound_seconds: from the fault, or the SIGTERM, to the end of the process.
        codes: exit codes that are as documented.
        is_ready: says that it is in its state; None: it is started only after the fault.
        stopped: it gets a SIGTERM a moment after the fault.
        loaded: events are sent to its topics meanwhile.
    """

    state: str
    what: str
    bound_seconds: float
    codes: tuple[int, ...] = (1,)
    is_ready: Callable[[Service], object] | None = None
    stopped: bool = False
    loaded: bool = False
    settings: dict[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.what.split()[0].split('.')[-1]} {self.state}{', SIGTERM' if self.stopped else ''}"


def ready(service: Service) -> None:
    service.wait_until_ready(90)


def sends(service: Service) -> None:
    service.wait_for_line('"event":"generated"', 90)


def shows(service: Service) -> None:
    service.wait_for_line("unique", 90)


def held(count: int) -> Callable[[Service], object]:
    return lambda service: poll(
        lambda: sum('"event":"held"' in line for line in service.lines()) >= count or None,
        90,
        lambda: "\n".join(["not held", *service.lines()[-20:]]),
    )


HELD = "tests.integration.held_processor"
NORMAL, GENERATOR, CONSOLE = "services.processor", "services.generator", "services.console"


def processor(state: str, *, bound: float, stopped: bool = False) -> Case:
    """Return a processor that is held in a state until the broker is gone."""
    in_transaction = state == "transaction"
    return Case(
        f"{state} ({', '.join(STEPS)})" if in_transaction else state,
        HELD,
        STOPPING if stopped else bound,
        codes=(0,) if stopped else (1,),
        is_ready=held(len(STEPS) if in_transaction else 1),
        stopped=stopped,
        loaded=in_transaction,
        settings={"HOLD": state},
    )


IN_A_TRANSACTION = processor("transaction", bound=RUNNING)
UNDER_LOAD = Case("under load", NORMAL, RUNNING, is_ready=ready, loaded=True)
IDLE = Case("idle", NORMAL, RUNNING, is_ready=ready)
SENDS = Case("sending", GENERATOR, SENDING, is_ready=sends)
WATCHES = Case("stats --watch", f"{CONSOLE} stats --watch", ASKING, is_ready=shows)
STOPPED = [
    processor("transaction", bound=0, stopped=True),
    Case("under load", NORMAL, STOPPING, (0,), ready, stopped=True, loaded=True),
    Case("idle", NORMAL, STOPPING, (0,), ready, stopped=True),
    # Draining: nothing will be acknowledged any more.
    Case("sending", GENERATOR, DRAIN_SECONDS + ENDING, (1,), sends, stopped=True),
]
EVERYWHERE = [IN_A_TRANSACTION, UNDER_LOAD, IDLE, SENDS, WATCHES]
CASES = {
    "frozen": [
        *EVERYWHERE,
        *STOPPED,
        processor("starting", bound=STARTING),
        processor("joining", bound=JOINING),
        processor("restoring", bound=RUNNING),
        processor("starting", bound=0, stopped=True),
        processor("joining", bound=0, stopped=True),
        processor("restoring", bound=0, stopped=True),
        Case("starting", GENERATOR, STARTING),
        Case("topics describe", f"{CONSOLE} topics describe", STARTING),
    ],
    "killed": [*EVERYWHERE, *STOPPED],
    "swallowed by the network": [*EVERYWHERE, *STOPPED],
}


class Broken:
    """A broker of the test's own, and ways to lose it."""

    def __init__(self, sandbox: Sandbox, servers: str, hole: Blackhole) -> None:
        self.servers = servers
        self._sandbox = sandbox
        self._hole = hole

    def lose(self, how: str) -> None:
        {"frozen": self._sandbox.pause, "killed": self._sandbox.kill}.get(how, self._hole.swallow)()


@pytest.fixture
def broker() -> Iterator[Broken]:
    with Blackhole() as hole, Sandbox(advertised={"CLIENT": [hole.port]}) as sandbox:
        hole.target = int(sandbox.bootstrap_servers.rpartition(":")[2])
        yield Broken(sandbox, f"{HOST}:{hole.port}", hole)


class Run:
    """A case as it goes."""

    def __init__(self, case: Case, servers: str, folder: Path, number: int) -> None:
        self.case = case
        self.prefix = f"case{number}."
        self.go_on = folder / "the broker is gone"
        module, *arguments = case.what.split()
        variables = environment(
            **{
                **SETTINGS,
                "KAFKA_BOOTSTRAP_SERVERS": servers,
                "KAFKA_TOPIC_PREFIX": self.prefix,
                "HOLD_UNTIL": self.go_on,
                **case.settings,
            }
        )
        self.service = Service(
            [sys.executable, "-m", module, *arguments], variables, folder / f"{number}.log"
        )
        self.began = 0.0
        self.mark = 0
        self.said: float | None = None
        self.ended: float | None = None

    def topics(self) -> list[NewTopic]:
        partitions = len(STEPS) if self.case.state.startswith("transaction") else 1
        return topics_of(self.prefix, partitions, every=self.case.what.startswith(CONSOLE))

    def look(self) -> None:
        """Note when it first said something, and when it ended."""
        if self.said is None and any(f'"event":"{event}"' in line for line in self.new() for event in SAID):
            self.said = time.monotonic() - self.began
        if self.ended is None and not self.service.is_running:
            self.ended = time.monotonic() - self.began

    def new(self) -> list[str]:
        return self.service.lines(self.mark)

    def begin(self) -> None:
        """Count from here on."""
        self.mark = self.service.mark()
        self.began = time.monotonic()

    @property
    def reason(self) -> str:
        last = (self.service.lines() or [""])[-1]
        with contextlib.suppress(ValueError):
            return str(json.loads(last).get("reason", last))
        return last

    def verdict(self, measured: Measured) -> str | None:
        """Return what is wrong, and give the report its line."""
        case = self.case
        code = None if self.ended is None else self.service.wait(1)
        said = "-" if self.said is None else f"{self.said:.1f}"
        ended = "never" if self.ended is None else f"{self.ended:.1f}"
        line = f"{case.name:62} {said:>5} {ended:>6} {case.bound_seconds:6.1f} {code}  {self.reason}"
        measured("measured", line)
        in_time = self.ended is not None and self.ended <= case.bound_seconds + NOISE_SECONDS
        return None if in_time and code in case.codes else line


@pytest.mark.parametrize("how", list(CASES))
def test_a_broker_that_is_gone_leaves_every_process_in_a_known_end(
    broker: Broken, tmp_path: Path, record_property: Measured, how: str
) -> None:
    admin = AdminClient({"bootstrap.servers": broker.servers})
    runs = [Run(case, broker.servers, tmp_path, number) for number, case in enumerate(CASES[how])]
    with contextlib.ExitStack() as stack:
        create(admin, [topic for run in runs for topic in run.topics()])
        for run in runs:
            stack.callback(run.service.end)
            if run.case.is_ready is not None:
                run.service.start()
        for number, run in enumerate([run for run in runs if run.case.loaded]):
            stack.enter_context(feeder(broker.servers, run.prefix, tmp_path / f"feeder-{number}.log"))
        for run in runs:
            if run.case.is_ready is not None:
                run.case.is_ready(run.service)
        broker.lose(how)
        runs[0].go_on.touch()
        for run in runs:
            if run.case.is_ready is None:
                run.service.start()
            run.begin()
        time.sleep(AFTER_SECONDS)  # A stop that is asked for while the fault is known to nobody yet.
        for run in runs:
            if run.case.stopped:
                run.begin()
                os.kill(run.service.pid, signal.SIGTERM)
        watch(runs)
    record_property("measured", f"{how}: process and state, first word, end, bound (s), exit code, reason")
    problems = [problem for run in runs if (problem := run.verdict(record_property))]
    assert not problems, "\n".join(problems)


def watch(runs: list[Run]) -> None:
    """Look at all of them until each has ended or is far too late."""
    limit = max(run.case.bound_seconds for run in runs) + NOISE_SECONDS + 5

    def look() -> bool | None:
        for run in runs:
            run.look()
        is_over = all(run.ended is not None or time.monotonic() > run.began + limit for run in runs)
        return True if is_over else None

    poll(look, limit + 10, lambda: "the loop above ends by itself")


def feeder(servers: str, prefix: str, log: Path) -> Service:
    """Return what sends events as long as there is a broker, and is killed with the test."""
    variables = {"KAFKA_BOOTSTRAP_SERVERS": servers, "KAFKA_TOPIC_PREFIX": prefix}
    return Service(GENERATOR, environment(**{**SETTINGS, **variables}), log)
