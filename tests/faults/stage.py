"""One scenario's world: topics of its own, load running, processes that are broken, and the judgement."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.cluster import Cluster
from tests.faults.watch import Watch
from tests.verifier import BackgroundLoad, Service, environment
from tests.verifier.contract import TOPOLOGIES, Names, PartitionId, Topology
from tests.verifier.polling import poll

PROCESSOR = "services.processor"
PLANTED = "tests.faults.planted"
GENERATOR = "services.generator"
PLANTED_GENERATOR = "tests.faults.planted_generator"
STOP_SECONDS = 30


@dataclass
class Fault:
    """One fault that landed.

    Attributes:
        name: what was done.
        began_at: when, by `time.monotonic()`.
        recovery_seconds: the longest that any input partition stood still from then until all of them had
            moved again, as a reader of committed results sees it; None where the scenario did not ask.
    """

    name: str
    began_at: float
    recovery_seconds: float | None = None


@dataclass
class Started:
    """A process of this scenario, and whether it has to be running at the end."""

    service: Service
    lives: bool = True


@dataclass
class Stage:
    """What a scenario acts with.

    Attributes:
        cluster: three brokers; whole when the scenario begins, mended when it has ended.
        prefix: of all topics and groups.
        chance: everything random comes from here.
        folder: takes the logs.
        load: runs from before the scenario until after it.
        watch: sees what is committed.
        mutant: a weakened processor in place of every one that is started; "" for the real one.
        partitions: of each input topic.
        topologies: which of them run.
    """

    cluster: Cluster
    prefix: str
    chance: random.Random
    folder: Path
    load: BackgroundLoad
    watch: Watch
    mutant: str = ""
    partitions: int = 4
    topologies: Sequence[Topology] = TOPOLOGIES
    faults: list[Fault] = field(default_factory=list)
    started: list[Started] = field(default_factory=list)

    @property
    def names(self) -> Names:
        return Names(self.prefix)

    @property
    def inputs(self) -> list[PartitionId]:
        """Every input partition."""
        return [
            PartitionId(self.names.inputs[one], number)
            for one in self.topologies
            for number in range(self.partitions)
        ]

    def transactional_id(self, partition: PartitionId) -> str:
        """Return the id of the producer that serves an input partition."""
        group = next(self.names.groups[x] for x in TOPOLOGIES if self.names.inputs[x] == partition.topic)
        return f"{group}-{partition.topic.removeprefix(self.prefix)}-{partition.number}"

    def processor(self, *, cut: str = "", after: int = 0, **settings: object) -> Service:
        """Start a processor.

        Args:
            cut: where it kills itself (see `planted`); the process is then expected to end.
            after: how many times the cut is passed unharmed.
            settings: environment variables; they win over those made here.
        """
        planted = bool(cut or self.mutant or "JUMPY_CLOCK" in settings)
        made: dict[str, object] = {"FAULT": cut, "FAULT_AFTER": after, "MUTANT": self.mutant}
        variables = environment(
            KAFKA_BOOTSTRAP_SERVERS=settings.pop("KAFKA_BOOTSTRAP_SERVERS", self.cluster.servers),
            KAFKA_TOPIC_PREFIX=self.prefix,
            HTTP_PORT=0,
            LOG_FORMAT="json",
            **(made if planted else {}),
            **settings,
        )
        return self._start(PLANTED if planted else PROCESSOR, "processor", variables, lives=not cut)

    def generator(self, **settings: object) -> Service:
        """Start a generator (`GENERATOR_…` in settings). Its ledger is compared at the end."""
        variables = environment(
            KAFKA_BOOTSTRAP_SERVERS=settings.pop("KAFKA_BOOTSTRAP_SERVERS", self.cluster.servers),
            KAFKA_TOPIC_PREFIX=self.prefix,
            HTTP_PORT=0,
            LOG_FORMAT="json",
            **settings,
        )
        weakened = self.mutant == "claims_unacknowledged"
        return self._start(PLANTED_GENERATOR if weakened else GENERATOR, "generator", variables, lives=True)

    def ready(self, *services: Service, timeout_seconds: float = 60) -> None:
        """Wait until processes are assigned and restored."""
        for service in services:
            service.wait_until_ready(timeout_seconds)

    def gone(self, service: Service) -> None:
        """Say that a process was made to end: it need not be running when the scenario is over."""
        for one in self.started:
            if one.service is service:
                one.lives = False

    def kill(self, service: Service) -> None:
        """SIGKILL to a process that has to be alive until then. One fault."""
        with self.fault("kill -9"):
            service.kill()
            self.gone(service)

    def stop(self, service: Service) -> None:
        """SIGTERM in the middle of work; the process has to end with 0. One fault."""
        service.wait_for_line(
            "http_listening", 60
        )  # Before it, SIGTERM meets an interpreter that is starting.
        with self.fault("SIGTERM"):
            code = service.terminate(STOP_SECONDS)
            assert code == 0, f"ended with {code} after SIGTERM"
            self.gone(service)

    def dies(self, service: Service, timeout_seconds: float = 60) -> None:
        """Wait for a processor with a cut to kill itself there. One fault."""
        with self.fault("kill -9 at a cut"):
            code = service.wait(timeout_seconds)
            assert code == -9, f"was to kill itself, and ended with {code}"

    @contextmanager
    def fault(self, name: str) -> Iterator[Fault]:
        """Do harm within the block, and count it: it has landed only if work was going on before it.

        Raises AssertionError where the load had stopped: nothing would be tested.
        """
        self.load.wait_for(1, 120)
        landed = Fault(name, time.monotonic())
        yield landed
        self.faults.append(landed)

    def goes_on(self, timeout_seconds: float = 60) -> None:
        """Wait until every input partition has a result that was committed after this call; notes how long.

        The load has to be running, on all of them. The time goes to the latest fault.
        """
        began = time.monotonic()
        behind: list[PartitionId] = []

        def look() -> bool | None:
            moved = self.watch.moved_at()
            behind[:] = [one for one in self.inputs if moved.get(one, 0.0) <= began]
            return None if behind else True

        poll(look, timeout_seconds, lambda: f"no new result of {', '.join(map(str, behind))}")
        if self.faults and self.faults[-1].recovery_seconds is None:
            self.faults[-1].recovery_seconds = self.watch.longest_stall(self.faults[-1].began_at)

    def pause(self, low_seconds: float, high_seconds: float) -> None:
        """Let a random time pass: the moment of a fault is what is tested, so nothing is waited for."""
        time.sleep(self.chance.uniform(low_seconds, high_seconds))

    def close(self) -> None:
        """End every process that still runs."""
        for one in self.started:
            one.service.end()

    def _start(self, module: str, name: str, variables: dict[str, str], *, lives: bool) -> Service:
        log = self.folder / f"{name}-{len(self.started)}.log"
        service = Service(module, variables, log)
        service.start()
        self.started.append(Started(service, lives))
        return service
