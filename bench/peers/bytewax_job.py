"""Bytewax, one worker, batches of 10,000. It commits nothing: recovery is a store of its own."""

from __future__ import annotations

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSourceMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main

from bench.peers.job import SERVERS, TOPIC, Job

MOST_RECORDS = 10_000
job = Job()


def count(messages: list[KafkaSourceMessage[bytes, bytes]]) -> list[str]:
    """Count a batch; nothing goes on to the sink."""
    job.count([message.value for message in messages])
    return []


def main() -> None:
    """Read the topic to its end."""
    flow = Dataflow("job")
    found = kop.input(
        "in",
        flow,
        brokers=[SERVERS],
        topics=[TOPIC],
        tail=False,
        batch_size=MOST_RECORDS,
        add_config={"queued.min.messages": "1000000", "fetch.queue.backoff.ms": "5"},
    )
    op.output("out", op.flat_map_batch("count", found.oks, count), StdOutSink())
    run_main(flow)
    job.report()


if __name__ == "__main__":
    main()
