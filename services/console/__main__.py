"""`tandem`: the operator's command line."""

from __future__ import annotations

import signal

import click

from services.console.commands.bench import bench_command
from services.console.commands.check import check_command
from services.console.commands.completion import completion_command
from services.console.commands.config import config_command
from services.console.commands.demo import demo_command
from services.console.commands.dlq import dlq_command
from services.console.commands.groups import groups_command, lag_command
from services.console.commands.options import project_version
from services.console.commands.partition import partition_command
from services.console.commands.reset import reset_command
from services.console.commands.sandbox import sandbox_command
from services.console.commands.schema import schema_command
from services.console.commands.send import send_command
from services.console.commands.stats import stats_command
from services.console.commands.tail import tail_command
from services.console.commands.topics import topics_command
from services.console.commands.verify import verify_command

_EXAMPLES = """\b
Examples:
  tandem demo --seconds 20     all of it, on a Kafka of its own
  tandem check                 is Kafka there, and is everything in it as it should be?
  tandem topics create         what the services need
  tandem tail purchases -f     records as they come
  tandem dlq list              what was put aside, and why
  tandem stats --watch         the global view, every second
  tandem verify                recompute everything, and compare
  tandem config                what is set, and where
"""


@click.group(
    epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(project_version(), prog_name="tandem")
def main() -> None:
    """Tandem: a pair of services over Kafka, and the proof that nothing was lost or counted twice.

    Kafka is reached as KAFKA_BOOTSTRAP_SERVERS and its fellows say; `tandem config` shows what is in force.

    Exit codes: 0, all well; 1, something failed, differs or was interrupted; 2, wrong use or wrong settings.
    """


for command in (
    demo_command,
    sandbox_command,
    check_command,
    topics_command,
    send_command,
    tail_command,
    partition_command,
    stats_command,
    lag_command,
    groups_command,
    dlq_command,
    reset_command,
    verify_command,
    config_command,
    schema_command,
    completion_command,
    bench_command,
):
    main.add_command(command)


def run() -> None:
    """Run the command that the arguments name, and end the process."""
    try:
        main(prog_name="tandem")
    finally:
        # Its exit code is what it did. Python gives Ctrl-C back to the system while it ends, which would
        # kill a command that is done.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    run()
