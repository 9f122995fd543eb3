"""`KAFKA_PRESET`: what a name sets, where nothing else does. Pure.

docs/operations.md says what each gives up and what was measured of it; a test holds these names and values
to the settings, so that none can be set that is not there.
"""

from __future__ import annotations

from typing import Literal

Preset = Literal["balanced", "durable", "throughput"]

PRESETS: dict[Preset, dict[str, str]] = {
    # As every setting is by itself: acks=all, idempotent, exactly once, a commit every tenth of a second.
    "balanced": {},
    # Three copies of everything, every field looked at, and patience. Nothing of it is faster.
    "durable": {
        "KAFKA_TOPIC_REPLICATION": "3",
        "KAFKA_UNAVAILABLE_SECONDS": "3600",
        "GENERATOR_DELIVERY_TIMEOUT_SECONDS": "600",
        "PROCESSOR_VALIDATION": "full",
    },
    # Fewer and larger requests: batches that wait to be full, a transaction a second.
    "throughput": {
        "GENERATOR_LINGER_MILLISECONDS": "50",
        "GENERATOR_BATCH_BYTES": "1048576",
        "GENERATOR_BUFFER_BYTES": "67108864",
        "GENERATOR_COMPRESSION": "snappy",
        "PROCESSOR_COMMIT_EVERY_MILLISECONDS": "1000",
        "PROCESSOR_COMMIT_EVERY_EVENTS": "500000",
        "PROCESSOR_COMMIT_WHEN_CAUGHT_UP": "false",
        "PROCESSOR_FETCH_MIN_BYTES": "262144",
        "PROCESSOR_FETCH_MAX_WAIT_MILLISECONDS": "1000",
    },
}
