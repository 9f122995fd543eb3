"""The processor with a blunder that no guarantee covers: it overlooks one event and counts another twice.

`OVERLOOKED` and `DOUBLED` say which, as partition:offset of the user events.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from services.processor.__main__ import Application, run
from services.processor.partition import Partition
from services.processor.records import RecordBatch
from services.processor.topology import Batch
from shared import topics


def place(name: str) -> tuple[int, int]:
    partition, _, offset = os.environ.get(name, "-1:-1").partition(":")
    return int(partition), int(offset)


OVERLOOKED = place("OVERLOOKED")
DOUBLED = place("DOUBLED")
whole = Partition.process


def process(self: Any, batch: RecordBatch) -> None:
    if not self.place.topic.endswith(topics.USER_BEHAVIOR):
        whole(self, batch)
        return
    partition = self.place.partition
    kept = [record for record in batch.records if (partition, record.offset) != OVERLOOKED]
    whole(self, RecordBatch(kept, batch.next_offset, batch.size_bytes))
    for record in batch.records:
        if (partition, record.offset) == DOUBLED:
            self._work.process(Batch([self._decode(record.value)], [record]), self._outputs)


if __name__ == "__main__":
    Partition.process = process  # type: ignore[method-assign]
    sys.exit(run(Application))
