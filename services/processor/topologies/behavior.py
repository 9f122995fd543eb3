"""User behaviour: totals, per action, per device, exact unique users, and every purchase. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, NamedTuple

import msgspec

from services.processor.columns import TIME, Columns, TextOf, plain_text
from services.processor.records import indexes_of
from services.processor.settings import ProcessorSettings
from services.processor.state import State
from services.processor.topology import Batch, Outputs, Place
from shared import topics
from shared.errors import RejectedError
from shared.events import (
    MAX_PAGE_CHARACTERS,
    UNDECODABLE,
    Device,
    Page,
    UserEvent,
    UserEventCounted,
    UserId,
    are_iso_8601,
    decoder,
    is_iso_8601,
)
from shared.results import BehaviorStats, Purchase, encode

_PURCHASE = "purchase"


class _Bought(msgspec.Struct, gc=False):
    """What a `Purchase` has of its event, in the order in which it is published; for purchases alone."""

    user_id: UserId
    page: Page
    timestamp: str
    device: Device


_decode_bought = decoder(_Bought)


class _Examined(NamedTuple):
    """What was read of `events`: the action of each, the offsets of the purchases and what was bought."""

    events: Sequence[UserEventCounted]
    actions: Sequence[str]
    offsets: Sequence[int]
    bought: Sequence[_Bought]


_NOTHING = _Examined((), (), (), ())


class Totals(msgspec.Struct):
    """What is counted of one partition."""

    total_events: int = 0
    actions: dict[str, int] = {}
    devices: dict[str, int] = {}


class BehaviorPartition:
    """The behaviour statistics of one partition."""

    # Of purchases alone; what else a record holds is nobody's business.
    tokens = ("page", "timestamp")

    def __init__(self, place: Place, state: State, *, check_all: bool) -> None:
        self._place = place
        self._purchase_text = TextOf(
            Purchase,
            constants={"topic": place.topic, "partition": place.partition},
            offset="offset",
            # A page that has no more bytes has no more characters either.
            demands={"page": plain_text(MAX_PAGE_CHARACTERS), "timestamp": TIME},
        )
        self._purchases: tuple[Sequence[bytes], Sequence[bytes]] = ((), ())
        self._ending = _ending_of(place)
        self._check_all = check_all
        self._users = state.key_set("users", int)
        self._totals = state.table("totals", Totals, bounded=False)
        self._examined = _NOTHING

    def examine(self, batch: Batch[UserEventCounted]) -> None:
        """Check what a purchase publishes, and with full validation every timestamp."""
        if self._check_all:
            for index, event in enumerate(batch.events):
                if not is_iso_8601(event.timestamp):  # type: ignore[attr-defined]  # it is a UserEvent here
                    raise RejectedError("timestamp is not ISO 8601", index)
        self._read(batch)

    def process(self, batch: Batch[UserEventCounted], outputs: Outputs) -> None:
        """Count a batch and publish its purchases."""
        events = batch.events
        examined = self._read(batch)
        self._examined = _NOTHING
        self._count(
            [event.user_id for event in events],
            Counter(examined.actions),
            Counter([event.device for event in events]),
        )
        self._publish(examined, outputs)

    def examine_columns(self, columns: Columns) -> bool:
        """Check what a purchase publishes."""
        self._purchases = (), ()
        indexes = columns.indexes("action", _PURCHASE)
        values = columns.write(self._purchase_text, indexes)
        if values is None:
            return False
        self._purchases = columns.tokens("user_id", indexes), values
        return True

    def process_columns(self, columns: Columns, outputs: Outputs) -> None:
        """Count them, and publish the purchases."""
        self._count(columns.whole("user_id"), columns.tally("action"), columns.tally("device"))
        keys, values = self._purchases
        outputs.publish_all(topics.PURCHASES, keys, values)
        self._purchases = (), ()

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

    def _count(self, users: Collection[int], actions: dict[str, int], devices: dict[str, int]) -> None:
        """Count events: the user of each, and how many there are of each action and device."""
        totals = self._totals.get("all") or Totals()
        # First of all: this raises where there is no room for new users.
        self._users.add(users)
        self._totals.put("all", totals)
        totals.total_events += len(users)
        _add_up(totals.actions, actions)
        _add_up(totals.devices, devices)

    def _read(self, batch: Batch[UserEventCounted]) -> _Examined:
        """Return what is done where and the purchases among it.

        What was examined is mostly processed next: it is not read twice.

        Raises:
            RejectedError: one has a timestamp or a page that it should not have.
        """
        if self._examined.events is not batch.events:
            actions = [event.action for event in batch.events]
            indexes = indexes_of(_PURCHASE, actions)
            all_values, all_offsets = batch.values, batch.offsets
            bought = _all_bought([all_values[index] for index in indexes], indexes)
            offsets = [all_offsets[index] for index in indexes]
            self._examined = _Examined(batch.events, actions, offsets, bought)
        return self._examined

    def _publish(self, examined: _Examined, outputs: Outputs) -> None:
        bought, ending = examined.bought, self._ending
        keys = [encode(one.user_id) for one in bought]
        # The text of a `Purchase`, the closing brace of the first part given way to the second.
        values = [
            encode(one)[:-1] + ending % offset for one, offset in zip(bought, examined.offsets, strict=True)
        ]
        outputs.publish_all(topics.PURCHASES, keys, values)


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


def _ending_of(place: Place) -> bytes:
    """Return how the text of every `Purchase` of a partition ends, `%d` in the place of the offset."""
    purchase = Purchase(
        user_id=0, page="", timestamp="", device="", topic=place.topic, partition=place.partition, offset=0
    )
    text = encode(purchase)
    beginning = encode(_Bought(0, "", "", ""))[:-1]  # type: ignore[arg-type]  # nothing is bought here
    assert text.startswith(beginning), "a purchase begins with what was bought"
    ending = text[len(beginning) :].replace(b"%", b"%%")
    assert ending.endswith(b":0}"), "and ends with the offset"
    return ending[: -len(b"0}")] + b"%d}"


def _all_bought(values: Sequence[Any], indexes: Sequence[int]) -> list[_Bought]:
    """Return what was bought in purchases.

    Raises:
        RejectedError: with the index of the first that has a timestamp or a page that it should not have.
    """
    try:
        bought = list(map(_decode_bought, values))
    except UNDECODABLE:
        bought = []
    if len(bought) == len(values) and are_iso_8601([one.timestamp for one in bought]):
        return bought
    # One by one, to find which it is, and why.
    return list(map(_bought_in, values, indexes))


def _bought_in(value: bytes | None, index: int) -> _Bought:
    assert value is not None, "it was decoded"
    try:
        bought: _Bought = _decode_bought(value)
    except UNDECODABLE as error:
        raise RejectedError(f"{type(error).__name__}: {error}", index) from error
    if not is_iso_8601(bought.timestamp):
        raise RejectedError("the timestamp of a purchase is not ISO 8601", index)
    return bought


def _add_up(totals: dict[str, int], more: dict[str, int]) -> None:
    for name, count in more.items():
        totals[name] = totals.get(name, 0) + count
