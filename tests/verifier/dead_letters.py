"""Dead letters compared with the refused records themselves: key, bytes, headers, exactly once, in order."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Final

from tests.verifier.contract import ERROR_HEADER_PREFIX, PartitionId, Record
from tests.verifier.findings import Slot, compare_key, is_utf8, once_each, shorten
from tests.verifier.report import Difference

ERROR_HEADERS: Final = ("exception", "message", "stacktrace", "topic", "partition", "offset")
LONGEST_ERROR_TEXT: Final = 4096
TRUNCATED_TO: Final = 65536


def compare_dead_letters(
    slot: Slot, expected: Sequence[Record], published: Sequence[Record]
) -> list[Difference]:
    """Compare dead letters with the refused records themselves, of which there must be one each, in order."""
    due = {record.offset: record for record in expected}
    found = [(dead_letter_offset(record), record) for record in published]
    differences = once_each(slot.topic, list(due), [offset for offset, _ in found])
    known = [offset for offset, _ in found if offset in due]
    if known != sorted(known):
        differences.append(Difference("disordered", slot.topic, f"from partition {slot.input_partition}"))
    for offset, record in found:
        differences += slot.misplaced(record)
        differences += compare_error_headers(slot.topic, record)
        if offset in due:
            differences += compare_original(slot.topic, due[offset], record)
    return differences


def compare_original(topic: str, original: Record, dead_letter: Record) -> list[Difference]:
    """Compare a dead letter's key, value and own headers with the original's."""
    differences = compare_key(topic, original.key, dead_letter)
    if dead_letter.value != original.value and not is_truncated(original, dead_letter):
        differences.append(
            Difference("wrong", topic, f"{dead_letter.where} has not the bytes of {original.where}")
        )
    kept = [header for header in dead_letter.headers if not header[0].startswith(ERROR_HEADER_PREFIX)]
    if kept != list(original.headers) and dead_letter.value == original.value:
        shown = f"{shorten(kept)}, not {shorten(list(original.headers))}"
        differences.append(Difference("wrong", topic, f"{dead_letter.where} original headers {shown}"))
    return differences


def compare_error_headers(topic: str, record: Record) -> list[Difference]:
    """Check that each `__streams.errors.*` header is there once, as UTF-8, and not too long."""
    differences = []
    names = Counter(name for name, _ in record.headers)
    for name in ERROR_HEADERS:
        full_name = ERROR_HEADER_PREFIX + name
        value = dict(record.headers).get(full_name)
        if names[full_name] != 1 or value is None:
            differences.append(
                Difference("wrong", topic, f"{record.where} has {names[full_name]} {full_name}")
            )
        elif not is_utf8(value) or (name in {"message", "stacktrace"} and len(value) > LONGEST_ERROR_TEXT):
            differences.append(Difference("wrong", topic, f"{record.where} {full_name} {shorten(value)}"))
        elif name in {"exception", "message"} and not value:
            differences.append(Difference("wrong", topic, f"{record.where} {full_name} is empty"))
    return differences


def dead_letter_source(record: Record) -> PartitionId | None:
    """Return the input partition that a dead letter says it is from; None where it does not say."""
    headers = dict(record.headers)
    topic = headers.get(ERROR_HEADER_PREFIX + "topic")
    number = headers.get(ERROR_HEADER_PREFIX + "partition")
    if topic is None or number is None or not number.isdigit():
        return None
    return PartitionId(topic.decode("utf-8", "replace"), int(number))


def dead_letter_offset(record: Record) -> int:
    """Return the input offset that a dead letter says it is from; -1 where it does not say."""
    value = dict(record.headers).get(ERROR_HEADER_PREFIX + "offset")
    return int(value) if value is not None and value.isdigit() else -1


def is_truncated(original: Record, dead_letter: Record) -> bool:
    """Say whether this is the first 64 KiB or less, with headers for the full length and the SHA-256."""
    if original.value is None or dead_letter.value is None or len(dead_letter.value) > TRUNCATED_TO:
        return False
    if not original.value.startswith(dead_letter.value):
        return False
    values = {value for _, value in dead_letter.headers}
    digest = hashlib.sha256(original.value)
    has_digest = digest.hexdigest().encode() in values or digest.digest() in values
    return has_digest and str(len(original.value)).encode() in values
