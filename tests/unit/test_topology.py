"""What a topology publishes through."""

from __future__ import annotations

import pytest

from services.processor.topology import OutputRecord, Outputs


def test_many_are_published_as_each_would_be() -> None:
    keys, values = [b"a", b"", b"ccc"], [b"1", b"22", b""]
    one_by_one, at_once = Outputs(), Outputs()
    for outputs in (one_by_one, at_once):
        outputs.publish("t", b"before", None)
    for key, value in zip(keys, values, strict=True):
        one_by_one.publish("t", key, value)
    at_once.publish_all("t", keys, values)
    assert at_once == one_by_one
    assert at_once.by_topic["t"][-1] == OutputRecord(b"ccc", b"")


def test_none_at_all_make_no_topic() -> None:
    outputs = Outputs()
    outputs.publish_all("t", [], [])
    assert outputs == Outputs()


def test_keys_and_values_have_to_match() -> None:
    outputs = Outputs()
    with pytest.raises(ValueError, match="t: 2 keys and 1 values"):
        outputs.publish_all("t", [b"1", b"2"], [b"1"])
    assert outputs == Outputs()
