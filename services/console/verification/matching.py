"""What had to be published exactly once and in order, against what was. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from services.console.verification.findings import Findings, Span
from services.console.verification.queues import Published

ExpectedT = TypeVar("ExpectedT")
ResultT = TypeVar("ResultT")

_MISSING_REMEMBERED = 10_000
_SHOWN_CHARACTERS = 200


class Expected(NamedTuple, Generic[ExpectedT]):
    """Something that has to be there. `identity` begins with the input offset."""

    identity: tuple[int, Hashable]
    result: ExpectedT


class Matcher(Generic[ExpectedT, ResultT]):
    """Matches one topic's results of one input partition, portion by portion.

    Args:
        topic: the result topic, for the findings.
        source: full name of the input topic and the partition.
        identity: what tells a published result from others.
        unequal: what is wrong with a published result against the expected one; None where nothing is.
        describe: makes a short piece of text of an expected or published result.
    """

    def __init__(
        self,
        topic: str,
        source: tuple[str, int],
        findings: Findings,
        *,
        identity: Callable[[Published[ResultT]], tuple[int, Hashable]],
        unequal: Callable[[ExpectedT, Published[ResultT]], str | None],
        describe: Callable[[Any], str] | None = None,
    ) -> None:
        self._topic = topic
        self._source = source
        self._findings = findings
        self._identity = identity
        self._unequal = unequal
        self._describe = describe or shown
        self._missing: set[tuple[int, Hashable]] = set()
        self._latest_offset = -1

    def match(
        self,
        expected: Iterable[Expected[ExpectedT]],
        published: Iterable[Published[ResultT]],
        *,
        start: int,
        unsure: Collection[tuple[int, Hashable]] = frozenset(),
    ) -> None:
        """Compare the results of a portion of the input.

        Args:
            expected: in order.
            published: in the order of the log.
            start: the input offset at which the portion begins.
            unsure: identities of results that may be there or not.
        """
        due = {one.identity: one.result for one in expected}
        matched: set[tuple[int, Hashable]] = set()
        for one in published:
            identity = self._identity(one)
            if identity in unsure:
                continue
            if identity in due:
                matched.add(identity)
                self._compare(due.pop(identity), one)
            else:
                self._place_wrongly(one, identity, was_there=identity in matched or one.offset < start)
        for identity, result in due.items():
            self._differ("missing", identity[0], f"of input offset {identity[0]}: {self._describe(result)}")
            if len(self._missing) < _MISSING_REMEMBERED:
                self._missing.add(identity)

    def _compare(self, expected: ExpectedT, one: Published[ResultT]) -> None:
        self._findings.compared[self._topic] += 1
        if one.offset < self._latest_offset:
            text = f"{one.where}: of input offset {one.offset}, after that of {self._latest_offset}"
            self._differ("disordered", one.offset, text)
        self._latest_offset = max(self._latest_offset, one.offset)
        problem = self._unequal(expected, one)
        if problem is not None:
            self._differ("wrong", one.offset, f"{one.where}: {problem}")

    def _place_wrongly(
        self, one: Published[ResultT], identity: tuple[int, Hashable], *, was_there: bool
    ) -> None:
        text = f"{one.where}: of input offset {one.offset}"
        if identity in self._missing:
            self._differ("disordered", one.offset, f"{text}, after that of {self._latest_offset}")
        elif was_there:
            self._differ("doubled", one.offset, f"{text}, once more")
        else:
            self._differ("unexpected", one.offset, f"{text}: {self._describe(one.result)}")

    def _differ(self, kind: str, offset: int, text: str) -> None:
        self._findings.differ(kind, self._topic, text, span=Span(*self._source, offset, offset))


def unequal_fields(expected: dict[str, Any], published: dict[str, Any]) -> str | None:
    """Name the fields that differ, with both values; None where none does."""
    names = [name for name in expected if published.get(name) != expected[name]]
    if not names:
        return None
    return "; ".join(
        f"{name} is {shown(published.get(name))}, recomputed {shown(expected[name])}" for name in names
    )


def unequal_key(expected: bytes, published: bytes | None) -> str | None:
    """Say what is wrong with a key; None where nothing is."""
    return None if published == expected else f"the key is {shown(published)}, not {shown(expected)}"


def shown(value: Any) -> str:
    """Return a value as one short piece of text."""
    plain = value if isinstance(value, bytes | None) else msgspec.to_builtins(value, enc_hook=repr)
    text = repr(plain)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
