"""The state of one partition: stores in memory, and what of them changed since the last transaction. Pure.

A changelog key is `{store}/{key}`. What a store holds is encoded once per transaction, however often it
changed. Each value carries the number of its format (`formats`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from services.processor.formats import Upgrades, ValueFormat, encode_json
from shared.errors import StateFullError

_PRESENT = 1
_UNBOUNDED = 2**63

KeyT = TypeVar("KeyT", bound=int | str)
StoreT = TypeVar("StoreT", bound="Store")
ValueT = TypeVar("ValueT")


class Store(Protocol):
    """A part of the state."""

    name: str

    def __len__(self) -> int:
        """Return the number of live keys."""

    def take_changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield key and value (None: gone) of what changed since the last call."""

    def restore(self, key: str, value: bytes | None) -> None:
        """Take one changelog record back in; the later one of a key wins.

        Raises:
            UnknownFormatError: another version wrote it.
            ValueError: it is not what this store writes.
        """

    def rewrite(self, key: str) -> None:
        """Let the next `take_changes` yield this key as it is, or as gone."""


class KeyBudget:
    """How many more keys one partition's state may take (`PROCESSOR_STATE_MAX_KEYS`)."""

    def __init__(self, keys: int) -> None:
        self._most = keys
        self.left = keys

    def take(self, count: int) -> None:
        """Reserve `count` keys.

        Raises:
            StateFullError: there are not as many left; nothing is reserved.
        """
        if count > self.left:
            raise StateFullError(f"the state is full: PROCESSOR_STATE_MAX_KEYS={self._most}")
        self.left -= count

    def give_back(self, count: int) -> None:
        """Return `count` keys that are gone."""
        self.left += count


class KeySet(Generic[KeyT]):
    """Keys that were seen. They are only ever added."""

    def __init__(
        self, name: str, parse: Callable[[str], KeyT], budget: KeyBudget, *, format_number: int = 1
    ) -> None:
        self.name = name
        self._format = ValueFormat(name, int, number=format_number)
        self._present = self._format.encode(_PRESENT)
        self._parse = parse
        self._budget = budget
        self._members: set[KeyT] = set()
        self._fresh: set[KeyT] = set()
        self._rewritten: set[KeyT] = set()

    def __len__(self) -> int:
        return len(self._members)

    def add(self, keys: Collection[KeyT]) -> None:
        """Add keys.

        Raises:
            StateFullError: they do not all fit; none is added.
        """
        # Mostly all are known: found out without making a set of them.
        if self._members.issuperset(keys):
            return
        # Not `-=`, which goes through all members.
        new = set(keys) - self._members
        self._budget.take(len(new))
        self._members |= new
        self._fresh |= new

    def take_changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield what was added since the last call."""
        fresh, self._fresh = self._fresh, set()
        prefix, present = self.name, self._present
        rewritten, self._rewritten = self._rewritten - fresh, set()
        for key in fresh:
            yield f"{prefix}/{key}".encode(), present
        for key in rewritten:
            yield f"{prefix}/{key}".encode(), present if key in self._members else None

    def restore(self, key: str, value: bytes | None) -> None:
        """Take one changelog record back in."""
        member = self._parse(key)
        known = member in self._members
        if value is None:
            self._members.discard(member)
            self._budget.left += known
        else:
            if value != self._present:
                self._format.decode(value)
            self._members.add(member)
            self._budget.left -= not known

    def rewrite(self, key: str) -> None:
        """Let the next `take_changes` yield this key, or its tombstone."""
        self._rewritten.add(self._parse(key))


class Table(Generic[ValueT]):
    """A value for each key. Change a value by `put`, also when it is changed in place."""

    def __init__(self, name: str, value_format: ValueFormat[ValueT], budget: KeyBudget) -> None:
        self.name = name
        self._budget = budget
        self._values: dict[str, ValueT] = {}
        self._changed: set[str] = set()
        self._format = value_format

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def get(self, key: str) -> ValueT | None:
        """Return the value of `key`, or None."""
        return self._values.get(key)

    def put(self, key: str, value: ValueT) -> None:
        """Set the value of `key`.

        Raises:
            StateFullError: the key is new and there is no room; nothing is changed.
        """
        if key not in self._values:
            self._budget.take(1)
        self._values[key] = value
        self._changed.add(key)

    def delete(self, key: str) -> None:
        """Remove `key`; its changelog record becomes a tombstone."""
        if self._values.pop(key, None) is not None:
            self._budget.give_back(1)
            self._changed.add(key)

    def values(self) -> Iterable[ValueT]:
        """Return every value."""
        return self._values.values()

    def take_changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield what changed since the last call."""
        changed, self._changed = self._changed, set()
        prefix = self._format.prefix
        for key in changed:
            value = self._values.get(key)
            yield f"{self.name}/{key}".encode(), None if value is None else prefix + encode_json(value)

    def restore(self, key: str, value: bytes | None) -> None:
        """Take one changelog record back in."""
        known = key in self._values
        if value is None:
            self._values.pop(key, None)
            self._budget.left += known
        else:
            self._values[key] = self._format.decode(value)
            self._budget.left -= not known

    def rewrite(self, key: str) -> None:
        """Let the next `take_changes` yield this key, or its tombstone."""
        self._changed.add(key)


class State:
    """All stores of one partition."""

    def __init__(self, *, max_keys: int) -> None:
        self.budget = KeyBudget(max_keys)
        self._stores: dict[str, Store] = {}

    def key_set(self, name: str, parse: Callable[[str], KeyT], *, format_number: int = 1) -> KeySet[KeyT]:
        """Return a new store of seen keys.

        Args:
            name: of the store.
            parse: makes a key of its text (`int`, `str`).
            format_number: another one refuses what was written before; keys are not upgraded.
        """
        return self.attach(KeySet(name, parse, self.budget, format_number=format_number))

    def table(
        self,
        name: str,
        value_type: type[ValueT],
        *,
        bounded: bool = True,
        format_number: int = 1,
        upgrades: Upgrades | None = None,
    ) -> Table[ValueT]:
        """Return a new store of values.

        Args:
            name: of the store.
            value_type: what msgspec encodes and decodes.
            bounded: its keys count towards `PROCESSOR_STATE_MAX_KEYS`; not where they are few by nature.
            format_number: of the values as they are written now. Raise it whenever an older version
                would read them wrongly.
            upgrades: by older format number, what makes the JSON types of the next format of its own.

        Raises:
            ValueError: the name is taken or holds a slash, or the upgrades leave a gap.
        """
        budget = self.budget if bounded else KeyBudget(_UNBOUNDED)
        value_format = ValueFormat(name, value_type, number=format_number, upgrades=upgrades)
        return self.attach(Table(name, value_format, budget))

    def attach(self, store: StoreT) -> StoreT:
        """Add a store of another make.

        Raises:
            ValueError: the name is taken, or holds a slash.
        """
        if "/" in store.name or store.name in self._stores:
            raise ValueError(f"a store needs a name of its own, without a slash: {store.name!r}")
        self._stores[store.name] = store
        return store

    @property
    def live_keys(self) -> int:
        """The number of keys of all stores."""
        return sum(len(store) for store in self._stores.values())

    def take_changes(self) -> list[tuple[bytes, bytes | None]]:
        """Return the changelog records of everything that changed since the last call."""
        return [change for store in self._stores.values() for change in store.take_changes()]

    def restore(self, key: bytes, value: bytes | None) -> None:
        """Take one changelog record back in.

        Raises:
            KeyError: no store has that name: another topology wrote this.
            UnknownFormatError: another version wrote this.
            ValueError: it is not what the store writes.
        """
        store, _, rest = key.decode().partition("/")
        self._stores[store].restore(rest, value)

    def rewrite(self, keys: Iterable[bytes]) -> None:
        """Have these keys in the next changes, with their value as it is, or as tombstones.

        Raises:
            KeyError: no store has that name: another topology wrote this.
        """
        for key in keys:
            store, _, rest = key.decode().partition("/")
            self._stores[store].rewrite(rest)
