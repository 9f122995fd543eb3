"""`tandem demo`: all of it at once."""

from __future__ import annotations

import asyncio
import secrets
import signal
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import click
import msgspec
from rich.live import Live

from services.console.demonstration import Audience, DemoFailedError, Demonstration, Moment, Plan, Summary
from services.console.launching import Sandbox, print_config, require_sandbox
from services.console.live_view import closing, command, line, picture
from services.console.output import Output
from services.console.running import Tools, execute, json_option
from shared.service import FAILED, STOPPED_AS_ASKED
from shared.settings import KafkaSettings, Origin

_EXAMPLES = """\b
Examples:
  tandem demo
  tandem demo --seconds 20
  tandem demo --rate 20000 --partitions 4
  KAFKA_BOOTSTRAP_SERVERS=kafka:9092 tandem demo
"""
# Lively, and easy for any machine.
_USER_EVENTS_PER_SECOND = "1000"
_READINGS_PER_SECOND = "100"


@dataclass(frozen=True)
class Wanted:
    """The options."""

    seconds: float | None
    rate: str | None
    partitions: int | None


@click.command("demo", epilog=_EXAMPLES)
@click.option("--seconds", type=click.FloatRange(min=1), help="End by itself after so long; else at Ctrl-C.")
@click.option("--rate", help="User events a second, or max, or reference; 1000 unless GENERATOR_RATE says.")
@click.option("--partitions", type=click.IntRange(1, 1_000), help="Of the input topics.")
@json_option
def demo_command(seconds: float | None, rate: str | None, partitions: int | None, *, as_json: bool) -> None:
    """Run everything on a Kafka of its own, and watch it.

    Kafka, the topics, the processor and the generator, without Docker. Where KAFKA_BOOTSTRAP_SERVERS is set,
    that Kafka is used, with topics of the demo's own (unless KAFKA_TOPIC_PREFIX is set) that go with it.
    Ends with a summary; exit code 1 where anything was lost or counted twice, or a service ended.
    """
    wanted = Wanted(seconds, rate, partitions)

    async def work(tools: Tools) -> int:
        is_given = _is_set(tools.settings.origins, "KAFKA_BOOTSTRAP_SERVERS")
        if not is_given:
            require_sandbox()
        variables = await _variables(tools, wanted)
        if is_given:
            kafka = tools.kafka
            own_prefix = not kafka.topic_prefix
            if own_prefix:
                prefix = f"demo-{secrets.token_hex(3)}-"
                kafka = kafka.model_copy(update={"topic_prefix": prefix})
                variables["KAFKA_TOPIC_PREFIX"] = prefix
            return await _show(tools, wanted, kafka, variables, deletes_topics=own_prefix)
        tools.out.say("starting Kafka on this machine")
        sandbox = Sandbox(say=tools.out.say)
        try:
            await sandbox.start()
            tools.out.say(f"Kafka listens on {sandbox.bootstrap_servers}")
            on_it = {"bootstrap_servers": (sandbox.bootstrap_servers,), "security_protocol": "PLAINTEXT"}
            variables["KAFKA_BOOTSTRAP_SERVERS"] = sandbox.bootstrap_servers
            variables["KAFKA_SECURITY_PROTOCOL"] = "PLAINTEXT"
            kafka = tools.kafka.model_copy(update=on_it)
            return await _show(tools, wanted, kafka, variables, deletes_topics=False)
        finally:
            await sandbox.stop()

    execute(work, as_json=as_json, until_interrupted=True)


async def _variables(tools: Tools, wanted: Wanted) -> dict[str, str]:
    """Return what the services are told; asking them first finds wrong settings before anything starts."""
    generator, _ = await asyncio.gather(print_config("generator"), print_config("processor"))
    variables = {"LOG_FORMAT": "json", "HTTP_HOST": "127.0.0.1", "HTTP_PORT": "0"}
    if wanted.rate is not None:
        variables["GENERATOR_RATE"] = wanted.rate
    elif not _is_set(generator, "GENERATOR_RATE"):
        variables["GENERATOR_RATE"] = _USER_EVENTS_PER_SECOND
    if not _is_set(generator, "GENERATOR_SENSOR_RATE"):
        variables["GENERATOR_SENSOR_RATE"] = _READINGS_PER_SECOND
    if wanted.rate is not None:
        await print_config("generator", variables)
    tools.log.debug("demo_variables", **variables)
    return variables


async def _show(
    tools: Tools, wanted: Wanted, kafka: KafkaSettings, variables: dict[str, str], *, deletes_topics: bool
) -> int:
    stopping = asyncio.Event()
    _stop_gently(stopping)
    out = tools.out
    plan = Plan(wanted.seconds, wanted.partitions, variables, deletes_topics)
    demonstration = Demonstration(plan, kafka, tools.console, stopping=stopping, say=out.say, log=tools.log)
    servers = ",".join(kafka.bootstrap_servers)
    if not out.is_live:
        out.say(f"in another shell: {command(servers, kafka.topic_prefix)}")
    audience, stage = _audience(out, servers, kafka.topic_prefix)
    try:
        with stage:
            summary = await demonstration.run(audience)
    except DemoFailedError as error:
        for one in error.lines:
            out.say(one)
        raise
    _close(out, summary)
    return STOPPED_AS_ASKED if summary.is_flawless else FAILED


def _stop_gently(stopping: asyncio.Event) -> None:
    """The first signal ends the demo with its summary, the second one at once."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None, "commands are tasks"

    def on_signal() -> None:
        if stopping.is_set():
            task.cancel()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)


def _audience(out: Output, servers: str, prefix: str) -> tuple[Audience, AbstractContextManager[Any]]:
    """Return who watches, and the stage that has to be open meanwhile."""
    if out.as_json:
        return lambda moment: out.json({"type": "moment", **msgspec.to_builtins(moment)}), nullcontext()
    if not out.is_live:
        return lambda moment: out.text(line(moment)), nullcontext()
    live = Live(console=out.console, auto_refresh=False, vertical_overflow="crop")

    def draw(moment: Moment) -> None:
        live.update(picture(moment, bootstrap_servers=servers, prefix=prefix), refresh=True)

    return draw, live


def _close(out: Output, summary: Summary) -> None:
    if out.as_json:
        out.json({"type": "summary", "flawless": summary.is_flawless, **msgspec.to_builtins(summary)})
    else:
        out.text(closing(summary))


def _is_set(origins: list[Origin], variable: str) -> bool:
    return any(origin.variable == variable and origin.source != "default" for origin in origins)
