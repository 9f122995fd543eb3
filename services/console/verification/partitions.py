"""All checks of one input partition. Pure.

The reader hands over portions of the input with `take`, after it has filled the queues far enough; `finish`
looks at what has to hold at the committed offset.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from services.console.verification import dead_letters
from services.console.verification.admission import Admission, InputRecord, as_fields
from services.console.verification.findings import Findings, Numbers, Span
from services.console.verification.matching import Expected, Matcher, shown, unequal_fields, unequal_key
from services.console.verification.queues import Place, Published, PublishedQueue, PublishedRecord
from services.console.verification.recompute import BehaviorRecomputation, Origin, SensorRecomputation
from services.console.verification.rules import RulesHistory
from shared import topics
from shared.changelog import SourceState
from shared.results import Alert, BehaviorStats, LedgerEntry, Progress, Purchase, SensorStats

# Windows of one transaction stand in any order: how many input offsets apart that is looked for.
INTERLEAVED_WITHIN = 200_000

_decode_stats = msgspec.json.Decoder(BehaviorStats).decode
_decode_purchase = msgspec.json.Decoder(Purchase).decode
_decode_alert = msgspec.json.Decoder(Alert).decode
_decode_window = msgspec.json.Decoder(SensorStats).decode


@dataclass(frozen=True)
class Task:
    """What is to be checked.

    Attributes:
        origin: the input partition.
        progress: its latest accounts; recomputing goes up to their offset.
        history: the settings.
        names: full names of the result topics by name.
        partitions: how many partitions each of them has, by name.
        ledger: what was acknowledged in the input partition.
    """

    origin: Origin
    progress: Progress
    history: RulesHistory
    names: Mapping[str, str]
    partitions: Mapping[str, int]
    ledger: Sequence[LedgerEntry] = ()

    @property
    def span(self) -> range:
        """The input offsets that are recomputed."""
        return range(self.origin.start, self.progress.offset)


class PartitionCheck(ABC):
    """What the checks of both inputs have in common: dead letters and accounts.

    Attributes:
        queues: to be filled by the reader, by topic name without prefix.
        accounts_differ: whether the processor's accounts are not ours, which only `finish` finds.
        lost: how many events were found lost one by one. They are differences already.
    """

    admission: Admission

    def __init__(self, task: Task, findings: Findings) -> None:
        self.task = task
        self.findings = findings
        self._position = task.origin.start
        self.accounts_differ = False
        self.lost = 0
        self._duplicates_listed = 0
        self.queues: dict[str, PublishedQueue[Any]] = {}
        self._letters = self._queue(
            topics.DEAD_LETTERS, decode=lambda record: record, place_of=dead_letters.origin
        )
        self._letter_matcher: Matcher[InputRecord, PublishedRecord] = self._matcher(
            topics.DEAD_LETTERS, dead_letters.unequal, describe=dead_letters.describe
        )

    def name(self, topic: str) -> str:
        """Return the full name of a result topic."""
        return self.task.names[topic]

    def take(self, records: Sequence[InputRecord], below: int) -> None:
        """Recompute the next records and compare what was published of them.

        Args:
            records: in order, none at or beyond `below`.
            below: where reading goes on; the queues hold everything below it.
        """
        letters = self._letters.take(below)
        if self.task.origin.is_partial:
            self.admission.full_at = frozenset(
                letter.offset for letter in letters if dead_letters.says_full(letter.record)
            )
        self._take_results(records, below)
        expected = [Expected((record.offset, None), record) for record in self.admission.dead_letters]
        self.admission.dead_letters.clear()
        self._letter_matcher.match(expected, letters, start=self._position)
        self._list_duplicates()
        self._position = below

    @abstractmethod
    def _take_results(self, records: Sequence[InputRecord], below: int) -> None:
        """Recompute the next records and compare all that is not a dead letter."""

    def finish(self) -> None:
        """Compare what has to hold at the committed offset. Everything has been taken."""
        self.take([], self.task.progress.offset)
        self._compare_accounts()
        self._look_for_missing()
        self._finish_results()

    def compare_sources(self, sources: Mapping[str, SourceState]) -> None:
        """Name the numbers that the processor's state holds for missing, and that are in the log.

        Args:
            sources: its state, by source. It may be of a later offset than ours.
        """
        topic, partition = self.task.origin.topic, self.task.origin.partition
        continuity = self.admission.continuity
        for source in continuity.nexts.keys() & sources.keys():
            open_there = [(one.first, one.last) for one in sources[source].open if not one.dead]
            for first, last in continuity.heard_of(source, open_there):
                self._lose(Numbers(topic, partition, source, first, last), "in the log, and not counted")

    @abstractmethod
    def _finish_results(self) -> None:
        """Compare the latest of what is published again and again."""

    def _lose(self, numbers: Numbers, how: str) -> None:
        self.lost += numbers.last - numbers.first + 1
        where = f"{numbers.topic}:{numbers.partition}"
        self.findings.differ("lost", numbers.topic, f"{where}: {how}", numbers=[numbers])

    def _list_duplicates(self) -> None:
        """Say of the first few events that are in the log twice which they are."""
        topic, partition = self.task.origin.topic, self.task.origin.partition
        duplicates = self.admission.duplicates
        for record, source, seq in duplicates[: self.findings.listed - self._duplicates_listed]:
            self._duplicates_listed += 1
            self.findings.note(
                f"{topic}:{partition}@{record.offset}: in the log once more, and counted once",
                [Numbers(topic, partition, source, seq, seq)],
            )
        duplicates.clear()

    def _look_for_missing(self) -> None:
        """Name the numbers that are not in the log: a loss where they were acknowledged."""
        origin, offset = self.task.origin, self.task.progress.offset
        if origin.is_partial or origin.first_offset:
            return
        place = f"{origin.topic}:{origin.partition}"
        continuity = self.admission.continuity
        # What lies beyond is in flight. With an entry, what is missing above it was not acknowledged yet.
        written = {one.source: one.acknowledged for one in self.task.ledger if offset > one.last_offset}
        for source, acknowledged in written.items():
            for first, last in continuity.missing(source, acknowledged):
                numbers = Numbers(origin.topic, origin.partition, source, first, last)
                self._lose(numbers, "acknowledged, and not in the log, or not readable there")
        in_ledger = {one.source for one in self.task.ledger}
        noted = 0
        for source, upto in continuity.nexts.items():
            if source in in_ledger:
                continue
            for first, last in continuity.missing(source, upto):
                if noted < self.findings.listed:
                    numbers = Numbers(origin.topic, origin.partition, source, first, last)
                    self.findings.note(
                        f"{place}: not in the log; no ledger says it was acknowledged", [numbers]
                    )
                noted += 1

    def _compare_accounts(self) -> None:
        if self.task.origin.is_partial:
            return
        progress = self.task.progress
        published = {name: getattr(progress, name) for name in as_fields(self.admission.tally)}
        problem = unequal_fields(as_fields(self.admission.tally), published)
        self.findings.compared[self.name(topics.PROGRESS)] += 1
        if problem is not None:
            self.accounts_differ = True
            where = f"{progress.topic}:{progress.partition} at offset {progress.offset}"
            self.findings.differ("wrong", self.name(topics.PROGRESS), f"{where}: {problem}")

    def _queue(self, topic: str, **options: Any) -> PublishedQueue[Any]:
        queue: PublishedQueue[Any] = PublishedQueue(
            self.task.origin.topic,
            self.task.origin.partition,
            span=options.pop("span", self.task.span),
            partitions=self.task.partitions[topic],
            findings=self.findings,
            **options,
        )
        self.queues[topic] = queue
        return queue

    def _matcher(
        self,
        topic: str,
        unequal: Any,
        *,
        identity: Any = lambda one: (one.offset, None),
        describe: Any = None,
    ) -> Matcher[Any, Any]:
        name = self.name(topic)
        source = self.task.origin.topic, self.task.origin.partition
        return Matcher(name, source, self.findings, identity=identity, unequal=unequal, describe=describe)


class BehaviorCheck(PartitionCheck):
    """Statistics, purchases, dead letters and accounts of one partition of user events."""

    def __init__(self, task: Task, findings: Findings) -> None:
        super().__init__(task, findings)
        self._recomputed = BehaviorRecomputation(task.origin, task.history)
        self.admission = self._recomputed.admission
        self._latest = -1
        # The offset of the latest statistics that are right, and whether a wrong one has come since.
        self._right_at = task.origin.start
        self._is_wrong = False
        self._stats = self._queue(
            topics.BEHAVIOR_STATS,
            decode=lambda record: _decode_stats(record.value),
            place_of=lambda stats: Place(None, stats.partition, stats.offset),
            # Their offset is the next to read: one at the end of the span belongs to it.
            span=range(task.span.start, task.span.stop + 1),
            on_arrival=self._rises,
        )
        self._purchases = self._queue(
            topics.PURCHASES,
            decode=lambda record: _decode_purchase(record.value),
            place_of=lambda purchase: Place(purchase.topic, purchase.partition, purchase.offset),
        )
        self._purchase_matcher: Matcher[Purchase, Purchase] = self._matcher(
            topics.PURCHASES, _unequal_purchase
        )

    def _take_results(self, records: Sequence[InputRecord], below: int) -> None:
        taken = 0
        for stats in self._stats.take(below + 1):
            upto = taken
            while upto < len(records) and records[upto].offset < stats.offset:
                upto += 1
            self._recomputed.take(records[taken:upto])
            taken = upto
            self._compare_stats(stats)
        self._recomputed.take(records[taken:])
        expected = [Expected((one.offset, None), one) for one in self._recomputed.purchases]
        self._recomputed.purchases.clear()
        unsure = {(offset, None) for offset in self._recomputed.unsure}
        self._recomputed.unsure.clear()
        published = self._purchases.take(below)
        self._purchase_matcher.match(expected, published, start=self._position, unsure=unsure)

    def _finish_results(self) -> None:
        if self._latest < self.task.progress.offset:
            where = f"of partition {self.task.origin.partition} at offset {self.task.progress.offset}"
            self.findings.differ(
                "missing", self.name(topics.BEHAVIOR_STATS), f"{where}: the latest is of {self._latest}"
            )

    def _rises(self, one: Published[BehaviorStats]) -> bool:
        """Note how far the statistics go; each is of a later offset (or, taken up again, of the same)."""
        if one.offset < self._latest:
            text = f"{one.where}: of offset {one.offset}, after that of {self._latest}"
            self.findings.differ("disordered", self.name(topics.BEHAVIOR_STATS), text)
            return False
        self._latest = one.offset
        return True

    def _compare_stats(self, one: Published[BehaviorStats]) -> None:
        origin = self.task.origin
        if origin.is_partial:
            return
        now = self._recomputed
        recomputed = {
            "total_events": now.total_events,
            "actions": dict(now.actions),
            "devices": dict(now.devices),
            "unique_users": len(now.users),
        }
        self.findings.compared[self.name(topics.BEHAVIOR_STATS)] += 1
        problem = unequal_key(str(origin.partition).encode(), one.record.key) or unequal_fields(
            recomputed, msgspec.structs.asdict(one.result)
        )
        if problem is None:
            self._right_at, self._is_wrong = one.offset, False
            return
        # What is wrong once stays so: only of the first one is it known where it comes from.
        first_of_them, self._is_wrong = not self._is_wrong, True
        is_found = first_of_them and self._right_at < one.offset
        self.findings.differ(
            "wrong",
            self.name(topics.BEHAVIOR_STATS),
            f"{one.where}: at offset {one.offset} {problem}",
            span=Span(origin.topic, origin.partition, self._right_at, one.offset - 1) if is_found else None,
        )


class SensorCheck(PartitionCheck):
    """Windows, alerts, dead letters and accounts of one partition of sensor readings."""

    def __init__(self, task: Task, findings: Findings) -> None:
        super().__init__(task, findings)
        self._recomputed = SensorRecomputation(task.origin, task.history)
        self.admission = self._recomputed.admission
        self._latest: dict[str, int] = {}
        self._windows = self._queue(
            topics.SENSOR_STATS,
            decode=lambda record: _decode_window(record.value),
            place_of=lambda window: Place(None, window.partition, window.offset),
            interleaved_within=INTERLEAVED_WITHIN,
            on_arrival=self._rises,
        )
        self._alerts = self._queue(
            topics.ALERTS,
            decode=lambda record: _decode_alert(record.value),
            place_of=lambda alert: Place(None, alert.partition, alert.offset),
        )
        self._alert_matcher: Matcher[Alert, Alert] = self._matcher(
            topics.ALERTS, _unequal_alert, identity=lambda one: (one.offset, one.result.bound)
        )

    def _take_results(self, records: Sequence[InputRecord], below: int) -> None:
        taken = 0
        for window in self._windows.take(below):
            upto = taken
            while upto < len(records) and records[upto].offset <= window.offset:
                upto += 1
            self._recomputed.take(records[taken:upto])
            taken = upto
            self._compare_window(window)
        self._recomputed.take(records[taken:])
        expected = [Expected((one.offset, one.bound), one) for one in self._recomputed.alerts]
        self._recomputed.alerts.clear()
        published = self._alerts.take(below)
        self._alert_matcher.match(
            expected, published, start=self._position, unsure=frozenset(self._recomputed.unsure)
        )
        self._recomputed.unsure.clear()

    def _finish_results(self) -> None:
        for sensor_id, sensor in sorted(self._recomputed.sensors.items()):
            latest = self._latest.get(sensor_id, -1)
            if sensor.is_full and latest < sensor.offset:
                where = f"of {shown(sensor_id)} at input offset {self.task.origin.partition}:{sensor.offset}"
                self._differ("missing", sensor.offset, f"{where}: the latest is of {latest}")

    def _rises(self, one: Published[SensorStats]) -> bool:
        """Note how far a sensor's windows go; each is of a later reading."""
        sensor_id = one.result.sensor_id
        latest = self._latest.get(sensor_id, -1)
        if one.offset <= latest:
            kind = "doubled" if one.offset == latest else "disordered"
            text = f"{one.where}: of {shown(sensor_id)} at input offset {one.offset}, after that of {latest}"
            self._differ(kind, one.offset, text)
            return False
        self._latest[sensor_id] = one.offset
        return True

    def _compare_window(self, one: Published[SensorStats]) -> None:
        published = one.result
        sensor = self._recomputed.sensors.get(published.sensor_id)
        is_partial = self.task.origin.is_partial
        if one.offset < self._position:
            self.findings.note(
                f"{self.name(topics.SENSOR_STATS)}: transactions of more than {INTERLEAVED_WITHIN} readings; "
                "some of their windows were not compared"
            )
            return
        if sensor is None or sensor.offset != one.offset or not sensor.is_full:
            if not is_partial or (sensor is not None and sensor.is_full):
                window = f"no full window of {shown(published.sensor_id)} at input offset {one.offset}"
                text = f"{one.where}: {window}"
                self._differ("unexpected", one.offset, text)
            return
        recomputed = msgspec.structs.asdict(self._recomputed.window(published.sensor_id) or published)
        if is_partial:
            del recomputed["breaches"]  # Counted from the beginning, which is gone.
        self.findings.compared[self.name(topics.SENSOR_STATS)] += 1
        problem = unequal_key(published.sensor_id.encode(), one.record.key) or unequal_fields(
            recomputed, msgspec.structs.asdict(published)
        )
        if problem is not None:
            self._differ("wrong", one.offset, f"{one.where}: {problem}")

    def _differ(self, kind: str, offset: int, text: str) -> None:
        span = Span(self.task.origin.topic, self.task.origin.partition, offset, offset)
        self.findings.differ(kind, self.name(topics.SENSOR_STATS), text, span=span)


def _unequal_purchase(expected: Purchase, one: Published[Purchase]) -> str | None:
    return unequal_key(str(expected.user_id).encode(), one.record.key) or unequal_fields(
        msgspec.structs.asdict(expected), msgspec.structs.asdict(one.result)
    )


def _unequal_alert(expected: Alert, one: Published[Alert]) -> str | None:
    return unequal_key(expected.sensor_id.encode(), one.record.key) or unequal_fields(
        msgspec.structs.asdict(expected), msgspec.structs.asdict(one.result)
    )
