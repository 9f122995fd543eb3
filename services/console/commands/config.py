"""`tandem config`: what is in force, and where it came from."""

from __future__ import annotations

import asyncio

import click

from services.console.launching import print_config
from services.console.output import table
from services.console.running import Tools, execute, json_option
from services.console.settings import GROUPS
from shared.errors import BadConfigurationError
from shared.service import STOPPED_AS_ASKED
from shared.settings import Origin, load

_EXAMPLES = """\b
Examples:
  tandem config
  tandem config --set
  tandem config --json | jq 'select(.source != "default")'
"""
_ASKED = ("generator", "processor")


@click.command("config", epilog=_EXAMPLES)
@click.option("--set", "only_set", is_flag=True, help="Only what is set, nothing that is a default.")
@json_option
def config_command(*, only_set: bool, as_json: bool) -> None:
    """Print the settings in force, of the console and both services, secrets masked.

    Each with its source: environment, .env, a file, or default. Settings that are wrong are all named, and
    the exit code is 2.
    """

    async def work(tools: Tools) -> int:
        asked = [_own(), *map(print_config, _ASKED)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        problems: list[str] = []
        by_service: dict[str, list[Origin]] = {}
        for name, answer in zip(("console", *_ASKED), answers, strict=True):
            if isinstance(answer, BadConfigurationError):
                problems += [problem for problem in answer.problems if problem not in problems]
            elif isinstance(answer, BaseException):
                raise answer
            else:
                by_service[name] = answer
        if problems:
            raise BadConfigurationError(problems)
        rows = _merged(by_service)
        if only_set:
            rows = [row for row in rows if row[2] != "default"]
        if as_json:
            for variable, value, source, used_by in rows:
                fields = {
                    "variable": variable,
                    "value": value,
                    "source": source,
                    "used_by": used_by.split(", "),
                }
                tools.out.json(fields)
        else:
            tools.out.show(table("variable", "value", "source", "used by", rows=rows))
        return STOPPED_AS_ASKED

    # No settings have to be right for it: what is wrong is said together with the services' own.
    execute(work, as_json=as_json, groups=())


async def _own() -> list[Origin]:
    return load(*GROUPS).origins


def _merged(by_service: dict[str, list[Origin]]) -> list[tuple[str, str, str, str]]:
    """Return variable, value, source and who uses it, in the order of the groups."""
    users: dict[tuple[str, str, str], list[str]] = {}
    for service, origins in by_service.items():
        for origin in origins:
            users.setdefault((origin.variable, origin.value, origin.source), []).append(service)
    prefixes = [origin.variable.partition("_")[0] for origins in by_service.values() for origin in origins]
    order = {prefix: place for place, prefix in reversed(list(enumerate(prefixes)))}
    rows = [(*setting, ", ".join(services)) for setting, services in users.items()]
    return sorted(rows, key=lambda row: order[row[0].partition("_")[0]])
