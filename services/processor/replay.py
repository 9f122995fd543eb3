"""What the records of a changelog mean, in their order. Pure.

With exactly_once a changelog holds whole transactions and nothing else. With at_least_once nothing shuts a
writer out and nothing takes a half-written step back, so the records say it themselves:

- A **step** is what one commit writes: changed keys, and an offset record as its last record. Without the
  offset record it is unfinished, and left out: the state is that of the last finished step.
- Each record carries, in a header, its **writer** (the group's generation, the member, and how often this
  member has opened the partition) and the step's offset. A writer claims the changelog before it reads it.
  What an earlier one writes after that claim comes from a process that was frozen, or from a request that
  was late: it is left out.

Keys of what was left out may hide older values of theirs from compaction: `left_out` names them, and the
next step writes them anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.processor.partition import read_offset_record
from services.processor.records import Record
from shared.changelog import OFFSET_KEY, WRITER_KEY, OffsetRecord

WRITER_HEADER = "writer"

_Who = tuple[int, str]


@dataclass(frozen=True)
class Writer:
    """Who writes a changelog under at_least_once.

    Attributes:
        generation: of the consumer group.
        member: what tells members of the group apart; holds no slash.
        build: rises each time this member opens the partition.
    """

    generation: int
    member: str
    build: int

    def header(self, next_offset: int) -> bytes:
        """Return what each record of the step up to `next_offset` carries."""
        return f"{self.generation}/{self.member}/{self.build}/{next_offset}".encode()


def parse_header(value: bytes) -> tuple[Writer, int]:
    """Return the writer and the offset of its step.

    Raises:
        ValueError: it is not what `Writer.header` makes.
    """
    generation, member, build, next_offset = value.decode().split("/")
    return Writer(int(generation), member, int(build)), int(next_offset)


class Replay:
    """Takes the records of one changelog partition in, in their order.

    Args:
        apply: takes key and value (None: a tombstone) of what belongs to the state.
    """

    def __init__(self, apply: Callable[[bytes, bytes | None], None]) -> None:
        self._apply = apply
        self._writers = _Writers()
        self._step: tuple[Writer, int] | None = None
        self._unfinished: list[tuple[bytes, bytes | None]] = []
        self._stale: set[bytes] = set()
        self.offset_record: OffsetRecord | None = None

    @property
    def left_out(self) -> set[bytes]:
        """The keys whose latest record in the log does not belong to the state."""
        return self._stale.union(key for key, _ in self._unfinished)

    def take(self, record: Record) -> None:
        """Take the next record in.

        Raises:
            UnknownFormatError: another version wrote this.
            ValueError, KeyError: no version and topology of ours wrote this.
        """
        key, value = record.key, record.value
        if key is None:
            return
        step = _step_of(record)
        if not self._writers.admit(step[0] if step else None, claims=key == WRITER_KEY):
            if key not in (OFFSET_KEY, WRITER_KEY):
                self._stale.add(key)
        elif key == OFFSET_KEY:
            if value is not None:
                found = read_offset_record(value)
                self._finish()
                self.offset_record = found
        elif key != WRITER_KEY:
            self._change(key, value, step)

    def _change(self, key: bytes, value: bytes | None, step: tuple[Writer, int] | None) -> None:
        if step is None and not self._unfinished:
            # A transaction is there as a whole, or not at all.
            self._put(key, value)
            return
        if step is not None and self._step is not None and self._step[0] == step[0] and self._step != step:
            # A writer begins a step when the last one is finished: its offset record was compacted away.
            self._finish()
        self._step = step
        self._unfinished.append((key, value))

    def _finish(self) -> None:
        for key, value in self._unfinished:
            self._put(key, value)
        self._unfinished.clear()

    def _put(self, key: bytes, value: bytes | None) -> None:
        self._stale.discard(key)
        self._apply(key, value)


class _Writers:
    """Who may still write, as far as the log has been read."""

    def __init__(self) -> None:
        self._generation = 0
        self._claimed_generation = 0
        self._builds: dict[_Who, int] = {}
        self._superseded: set[_Who] = set()

    def admit(self, writer: Writer | None, *, claims: bool) -> bool:
        """Say whether what this writer (None: a transaction) writes here belongs to the state.

        `claims`: it is the record by which it claims the changelog.
        """
        if writer is None:
            if self._builds:
                self._supersede()
            return True
        who = (writer.generation, writer.member)
        if who in self._superseded:
            return False
        build = self._builds.get(who)
        if build is None and not claims and writer.generation < self._claimed_generation:
            # Its own claim was compacted away and the one we have read was not: that is a later one.
            self._superseded.add(who)
            return False
        if build is None and writer.generation >= self._generation:
            # Generations only rise, so whoever is there is of an earlier one. A lower one that claims and
            # was not seen before shuts nobody out: the group may have been deleted and have begun again.
            self._supersede()
            self._generation = writer.generation
        if build is not None and writer.build < build:
            return False
        self._builds[who] = writer.build
        if claims:
            self._claimed_generation = writer.generation
        return True

    def _supersede(self) -> None:
        self._superseded.update(self._builds)
        self._builds.clear()


def _step_of(record: Record) -> tuple[Writer, int] | None:
    for name, value in record.headers:
        if name == WRITER_HEADER and value is not None:
            return parse_header(value)
    return None
