"""`python -m bench`: generator, drain and latency on a Kafka of its own, each ended by a check of its counts.

A run whose counts are not what was sent has no figure: it ends with 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from bench.running import Bench, BenchError, machine
from sandbox import Sandbox


def main() -> int:
    """Run everything and print one JSON object a line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=1_000, help="events a second of the latency run")
    parser.add_argument("--seconds", type=int, default=30, help="of the latency run")
    options = parser.parse_args()
    print(json.dumps({"machine": machine()}), flush=True)
    with tempfile.TemporaryDirectory() as folder, Sandbox(full_jit=True) as kafka:
        bench = Bench(kafka.bootstrap_servers, Path(folder))
        try:
            for number in range(options.rounds):
                for figure in bench.generate_and_drain(f"drain{number}.", options.events):
                    print(json.dumps(figure), flush=True)
            print(json.dumps(bench.latency("latency.", options.rate, options.seconds)), flush=True)
        except BenchError as error:
            print(f"no figure: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
