"""`tandem sandbox`: a real Kafka on this machine."""

from __future__ import annotations

import click

from services.console.launching import Sandbox
from services.console.running import Tools, execute, json_option
from shared.errors import TandemError

_EXAMPLES = """\b
Examples:
  tandem sandbox
  tandem sandbox --nodes 3 --port 19092
"""


@click.command("sandbox", epilog=_EXAMPLES)
@click.option(
    "--nodes", type=click.Choice(["1", "3"]), default="1", show_default=True, help="How many brokers."
)
@click.option(
    "--port", type=click.IntRange(1024, 65_000), help="Where clients connect; a free port if not given."
)
@json_option
def sandbox_command(nodes: str, port: int | None, *, as_json: bool) -> None:
    """Run Apache Kafka on this machine, without Docker, until Ctrl-C.

    The first run fetches Kafka and says so. Its data goes with it.
    """

    async def work(tools: Tools) -> int:
        sandbox = Sandbox(nodes=int(nodes), port=port, say=tools.out.say)
        try:
            await sandbox.start()
            if as_json:
                tools.out.json({"bootstrap_servers": sandbox.bootstrap_servers})
            else:
                tools.out.text(
                    f"Kafka listens on {sandbox.bootstrap_servers}; Ctrl-C ends it. To try, in another shell:"
                )
                tools.out.text(
                    f"  export KAFKA_BOOTSTRAP_SERVERS={sandbox.bootstrap_servers}; tandem topics create"
                )
            code = await sandbox.wait()
            raise TandemError(f"Kafka ended by itself with {code}: {sandbox.last_said}")
        finally:
            await sandbox.stop()

    execute(work, as_json=as_json, until_interrupted=True)
