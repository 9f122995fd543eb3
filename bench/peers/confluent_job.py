"""confluent-kafka with msgspec: at least once, offsets committed every tenth of a second."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from bench.peers.confluent import consumer, values
from bench.peers.job import TOPIC, Job


def main() -> None:
    """Read the topic to its end."""
    job = Job()
    source = consumer()
    source.subscribe([TOPIC])
    while not job.is_done:
        found = values(source)
        if found:
            job.count(found)
            if job.commit_is_due():
                source.commit(asynchronous=True)
    try:
        source.commit(asynchronous=False)
    except KafkaException as error:
        if error.args[0].code() != KafkaError._NO_OFFSET:  # noqa: SLF001 — its public name
            raise  # Else the last asynchronous commit had everything.
    source.close()
    job.report()


if __name__ == "__main__":
    main()
