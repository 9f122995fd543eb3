"""`tandem bench`: our processor and its peers, measured side by side."""

from __future__ import annotations

import os
import sys

import click

from services.console.launching import environment_of, require_part
from services.console.output import Output
from shared.errors import BadConfigurationError
from shared.service import BAD_CONFIGURATION


# Everything behind its name goes to the benchmark, which has a --help of its own.
@click.command("bench", context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench_command(arguments: tuple[str, ...]) -> None:
    """Measure the processor and its peers on a Kafka of its own; --quick is a first look.

    Only in a checkout. `tandem bench --help` shows what can be chosen.
    """
    try:
        require_part("bench", "clone the project and run this there")
    except BadConfigurationError as error:
        Output(as_json=False).error(str(error))
        sys.exit(BAD_CONFIGURATION)
    command = [sys.executable, "-m", "bench.compare", *arguments]
    # In our place: what stops us stops it, and its exit code is ours.
    os.execve(sys.executable, command, environment_of({}))  # noqa: S606 — our own program, no shell wanted
