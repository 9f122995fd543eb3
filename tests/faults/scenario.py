"""What a scenario is, how one is run, and what is kept of it when something is wrong.

A scenario is a function that is given a `Stage`: load is running, the cluster is whole, no processor is. It
starts processors, does harm, and leaves at least one processor running. Then the load ends, and everything
published is compared with a recomputation of the input by `tests.verifier`, which shares no code with the
services and uses another client.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import random
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import scenarios
from tests.faults.cluster import Cluster
from tests.faults.stage import Fault, Stage
from tests.faults.watch import SOCKET_SECONDS, Watch
from tests.verifier import (
    BackgroundLoad,
    Difference,
    LoadPlan,
    Report,
    SensorRules,
    verify,
    wait_until_caught_up,
)
from tests.verifier.broker import Broker
from tests.verifier.contract import TOPOLOGIES

CATCH_UP_SECONDS = 120
USERS = 20_000
STOP_SECONDS = 30


@dataclass(frozen=True)
class Scenario:
    """One way of breaking things.

    Attributes:
        name: unique; `family: what is done`.
        act: does it.
        load: fields of the LoadPlan that differ from 20,000 users and no poison.
        rate: records a second, both topics together.
        partitions: of each input topic.
        broker_properties: settings of Kafka; a scenario that has some gets a cluster of its own.
        rules: of the sensor topology, where the scenario's processors have settings of their own.
        catches: the mutants (see `planted`) that this scenario has to catch: by results that are not what the
            input calls for,
        caught_by: or by an error with this text.
        ends_stopped: the processors refused and have ended: only what they had committed is compared.
        slow: takes minutes; the soak draws it once.
    """

    name: str
    act: Callable[[Stage], None]
    load: Mapping[str, Any] = field(default_factory=dict)
    rate: float = 1_000
    partitions: int = 4
    broker_properties: Mapping[str, str] = field(default_factory=dict)
    rules: SensorRules | None = None
    catches: tuple[str, ...] = ()
    caught_by: str = ""
    ends_stopped: bool = False
    slow: bool = False

    @property
    def family(self) -> str:
        """The first word of the name: what is broken."""
        return self.name.partition(":")[0]


@dataclass
class Outcome:
    """What came of one run of a scenario."""

    scenario: str
    seed: int
    seconds: float = 0.0
    records: int = 0
    faults: list[Fault] = field(default_factory=list)
    longest_stall_seconds: float = 0.0
    report: Report | None = None
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether it ran to its end and nothing differs."""
        return not self.error and self.report is not None and self.report.ok

    @property
    def harm(self) -> list[Difference]:
        """Results that are not what the input calls for. Work that was left unfinished is none."""
        differences = self.report.differences if self.report is not None else []
        return [one for one in differences if one.kind not in {"behind", "open"}]

    @property
    def text(self) -> str:
        """What went wrong, for people."""
        differences = "" if self.report is None or self.report.ok else self.report.text
        return "\n".join(filter(None, [f"{self.scenario} (seed {self.seed})", self.error, differences]))


REGISTRY: dict[str, Scenario] = {}


def scenario(name: str, **options: Any) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    """Register a function as a scenario; see `Scenario` for the options."""

    def register(act: Callable[[Stage], None]) -> Callable[[Stage], None]:
        assert name not in REGISTRY, f"two scenarios are named {name}"
        REGISTRY[name] = Scenario(name, act, **options)
        return act

    return register


def all_scenarios() -> dict[str, Scenario]:
    """Return every scenario by name; imports the modules that register them."""
    for module in pkgutil.iter_modules(scenarios.__path__):
        importlib.import_module(f"{scenarios.__name__}.{module.name}")
    return REGISTRY


def run(one: Scenario, cluster: Cluster, *, seed: int, folder: Path, mutant: str = "") -> Outcome:
    """Run a scenario on a whole cluster, judge it, and mend the cluster. Raises nothing of the scenario's.

    `folder` takes the logs and, if something is wrong, a dump of all topics.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outcome = Outcome(one.name, seed)
    prefix = f"f{seed:x}{mutant}."
    began = time.monotonic()
    plan = LoadPlan(**{"seed": seed, "users": USERS, **one.load})
    stage: Stage | None = None
    try:
        cluster.wait_until_whole()
        cluster.create_topics(prefix, one.partitions)
        load = BackgroundLoad(
            cluster.servers, prefix, plan, records_per_second=one.rate, socket_seconds=SOCKET_SECONDS
        )
        with Watch(cluster.servers, prefix) as watch, load:
            stage = Stage(
                cluster, prefix, random.Random(seed), folder, load, watch, mutant, partitions=one.partitions
            )
            one.act(stage)
            outcome.longest_stall_seconds = watch.end_of_load()
            outcome.records = load.stop().records
        assert stage.faults, "no fault landed"
        _judge(one, stage, outcome)
    except Exception:  # noqa: BLE001 - whatever it was is the outcome
        outcome.error = traceback.format_exc()
    finally:
        if stage is not None:
            outcome.faults = stage.faults
            stage.close()
        try:
            cluster.mend()
            if outcome.report is None and stage is not None:
                outcome.report = verify(cluster.servers, prefix, rules=one.rules)
            keep_or_forget(outcome, cluster, prefix, folder)
        except Exception:  # noqa: BLE001 - the same
            outcome.error += traceback.format_exc()
    outcome.seconds = time.monotonic() - began
    return outcome


def _judge(one: Scenario, stage: Stage, outcome: Outcome) -> None:
    cluster = stage.cluster
    if not one.ends_stopped:
        wait_until_caught_up(cluster.servers, stage.prefix, CATCH_UP_SECONDS, topologies=stage.topologies)
    outcome.report = verify(
        cluster.servers, stage.prefix, rules=one.rules, topologies=stage.topologies or TOPOLOGIES
    )
    if one.ends_stopped:
        # Nobody was to go on: that input is left is what was asked for.
        found = outcome.report.differences
        outcome.report.differences = [each for each in found if each.kind != "behind"]
    for started in stage.started:
        if started.lives:
            assert started.service.is_running, f"{started.service.log.name}: ended by itself"
            code = started.service.terminate(STOP_SECONDS)
            assert code == 0, f"{started.service.log.name}: ended with {code} after SIGTERM"


def keep_or_forget(outcome: Outcome, cluster: Cluster, prefix: str, folder: Path) -> None:
    """Dump every topic of an anomaly as JSON lines beside its logs; of a good run keep nothing."""
    topics = [name for name in cluster.admin.list_topics(timeout=10).topics if name.startswith(prefix)]
    if outcome.ok:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        (folder / "outcome.txt").write_text(outcome.text + "\n", encoding="utf-8")
        broker = Broker(cluster.servers)
        for topic in topics:
            with (folder / f"{topic}.jsonl").open("w", encoding="utf-8") as file:
                for record in broker.read_topic(topic, CATCH_UP_SECONDS):
                    file.write(json.dumps(record._asdict(), default=_text) + "\n")
    if topics:
        for deleted in cluster.admin.delete_topics(topics).values():
            deleted.result(30)


def _text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
