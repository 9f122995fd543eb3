"""User behaviour: totals, per action, per device, exact unique users, and every purchase. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import compress
from operator import attrgetter
from typing import Any, ClassVar

import msgspec

from services.processor.settings import ProcessorSettings
from services.processor.state import State
from services.processor.topology import Batch, Outputs, Place
from shared import topics
from shared.errors import RejectedError
from shared.events import UNDECODABLE, Page, UserEvent, UserEventCounted, decoder, is_iso_8601
from shared.results import BehaviorStats, Purchase, encode

_user_id = attrgetter("user_id")
_action = attrgetter("action")
_device = attrgetter("device")


class _PurchaseDetails(msgspec.Struct, gc=False):
    """What a purchase publishes beyond what is counted; decoded for purchases alone."""

    page: Page
    timestamp: str


_decode_details = decoder(_PurchaseDetails)


class Totals(msgspec.Struct):
    """What is counted of one partition."""

    total_events: int = 0
    actions: dict[str, int] = {}
    devices: dict[str, int] = {}


class BehaviorPartition:
    """The behaviour statistics of one partition."""

    def __init__(self, place: Place, state: State, *, check_all: bool) -> None:
        self._place = place
        self._check_all = check_all
        self._users = state.key_set("users", int)
        self._totals = state.table("totals", Totals, bounded=False)

    def examine(self, batch: Batch[UserEventCounted]) -> None:
        """Check what a purchase publishes, and with full validation every timestamp."""
        if self._check_all:
            for index, event in enumerate(batch.events):
                if not is_iso_8601(event.timestamp):  # type: ignore[attr-defined]  # it is a UserEvent here
                    raise RejectedError("timestamp is not ISO 8601", index)
        for index in _purchases(batch.events):
            value = batch.records[index].value
            assert value is not None, "it was decoded"
            try:
                details = _decode_details(value)
            except UNDECODABLE as error:
                raise RejectedError(f"{type(error).__name__}: {error}", index) from error
            if not is_iso_8601(details.timestamp):
                raise RejectedError("the timestamp of a purchase is not ISO 8601", index)

    def process(self, batch: Batch[UserEventCounted], outputs: Outputs) -> None:
        """Count a batch and publish its purchases."""
        events = batch.events
        totals = self._totals.get("all") or Totals()
        # First of all: this raises where there is no room for new users.
        self._users.add(map(_user_id, events))
        self._totals.put("all", totals)
        totals.total_events += len(events)
        _add_up(totals.actions, Counter(map(_action, events)))
        _add_up(totals.devices, Counter(map(_device, events)))
        for index in _purchases(events):
            self._publish_purchase(batch, index, outputs)

    def seal(self, next_offset: int, updated_at: str, outputs: Outputs) -> None:
        """Publish the partition's statistics as they are now."""
        totals = self._totals.get("all") or Totals()
        stats = BehaviorStats(
            partition=self._place.partition,
            offset=next_offset,
            total_events=totals.total_events,
            actions=totals.actions,
            devices=totals.devices,
            unique_users=len(self._users),
            updated_at=updated_at,
        )
        outputs.publish(topics.BEHAVIOR_STATS, str(self._place.partition).encode(), encode(stats))

    def figures(self) -> dict[str, Any]:
        """Return the partition's statistics."""
        totals = self._totals.get("all") or Totals()
        return {
            "total_events": totals.total_events,
            "unique_users": len(self._users),
            "actions": dict(totals.actions),
            "devices": dict(totals.devices),
        }

    def _publish_purchase(self, batch: Batch[UserEventCounted], index: int, outputs: Outputs) -> None:
        event, record = batch.events[index], batch.records[index]
        assert record.value is not None, "it was decoded"
        details = _decode_details(record.value)
        purchase = Purchase(
            user_id=event.user_id,
            page=details.page,
            timestamp=details.timestamp,
            device=event.device,
            topic=self._place.topic,
            partition=self._place.partition,
            offset=record.offset,
        )
        outputs.publish(topics.PURCHASES, str(event.user_id).encode(), encode(purchase))


class BehaviorTopology:
    """See the module's docstring and `services.processor.topology.Topology`."""

    name: ClassVar[str] = "behavior"
    input: ClassVar[str] = topics.USER_BEHAVIOR
    group: ClassVar[str] = topics.BEHAVIOR_GROUP
    results: ClassVar[tuple[str, ...]] = (topics.BEHAVIOR_STATS, topics.PURCHASES)
    notices: ClassVar[tuple[str, ...]] = (topics.PURCHASES,)
    event: ClassVar[type[Any]] = UserEventCounted
    full_event: ClassVar[type[Any]] = UserEvent

    def __init__(self, settings: ProcessorSettings) -> None:
        self._settings = settings

    def result_settings(self) -> dict[str, Any]:
        """Return the settings that the results depend on."""
        return {
            "validation": self._settings.validation,
            "state_max_keys": self._settings.state_max_keys,
        }

    def open(self, place: Place, state: State) -> BehaviorPartition:
        """Return the work on one partition."""
        return BehaviorPartition(place, state, check_all=self._settings.validation == "full")

    def summarize(self, figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Add the partitions up. The users are exact while each keeps to one partition."""
        actions: dict[str, int] = {}
        devices: dict[str, int] = {}
        for one in figures:
            _add_up(actions, one["actions"])
            _add_up(devices, one["devices"])
        return {
            "total_events": sum(one["total_events"] for one in figures),
            "unique_users": sum(one["unique_users"] for one in figures),
            "actions": actions,
            "devices": devices,
        }


def _purchases(events: Sequence[UserEventCounted]) -> list[int]:
    return list(compress(range(len(events)), map("purchase".__eq__, map(_action, events))))


def _add_up(totals: dict[str, int], more: dict[str, int]) -> None:
    for name, count in more.items():
        totals[name] = totals.get(name, 0) + count
