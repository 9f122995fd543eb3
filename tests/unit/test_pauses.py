"""How long the transactional sender waits before it asks Kafka again."""

from __future__ import annotations

from itertools import pairwise

from services.processor.transactional_sender import Pauses


def test_pauses_begin_short_grow_and_are_bounded() -> None:
    pauses = Pauses()
    found = [pauses.longer() for _ in range(40)]
    assert found[0] == 0.002
    assert all(sooner < later for sooner, later in pairwise(found[:12]))
    assert found[-1] == max(found) == 0.25


def test_what_is_done_begins_anew() -> None:
    pauses = Pauses()
    first = [pauses.longer() for _ in range(5)]
    pauses.done()
    assert [pauses.longer() for _ in range(5)] == first
