"""The permissions of the operations guide: its commands are run by a shell, and what they grant is read off.

So what the tests grant is what the guide tells an operator to grant, to the letter.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from functools import cache, partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from tests.verifier.polling import poll
from tests.verifier.processes import ROOT

GUIDE = ROOT / "docs" / "operations.md"
_SECONDS = 30
_END = "\x1e"
_BETWEEN = "\x1f"
# Stands in for Kafka's tool: writes down what it was called with.
_RECORDER = f"""#!/bin/sh
for argument; do printf '%s{_BETWEEN}' "$argument"; done >> "$RECORDED"
printf '{_END}' >> "$RECORDED"
"""
_RESOURCES = {
    "--topic": ResourceType.TOPIC,
    "--group": ResourceType.GROUP,
    "--transactional-id": ResourceType.TRANSACTIONAL_ID,
}
_OPERATIONS = {
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
    "Create": AclOperation.CREATE,
    "Delete": AclOperation.DELETE,
    "Describe": AclOperation.DESCRIBE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
}
_PATTERNS = {"literal": ResourcePatternType.LITERAL, "prefixed": ResourcePatternType.PREFIXED}


class Grant(NamedTuple):
    """One permission, as `kafka-acls.sh` spells it."""

    principal: str
    operation: str
    option: str
    name: str
    pattern: str

    @property
    def kind(self) -> str:
        """What kind of thing it is on, in words."""
        return self.option.removeprefix("--").replace("-", " ")

    def under(self, prefix: str) -> Grant:
        """Return the same for a `KAFKA_TOPIC_PREFIX`."""
        return self._replace(name=prefix + self.name)

    def __str__(self) -> str:
        return f"{self.operation} on {self.kind} {self.name}"


@cache
def documented(principal: str) -> tuple[Grant, ...]:
    """Return everything that the guide's section on permissions grants to a principal."""
    return tuple(grant for grant in _granted_by_the_guide() if grant.principal == f"User:{principal}")


@cache
def _granted_by_the_guide() -> tuple[Grant, ...]:
    section = GUIDE.read_text(encoding="utf-8").split("\n## Permissions\n")[1].split("\n## ")[0]
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL))
    with TemporaryDirectory() as folder:
        tool, recorded = Path(folder, "kafka-acls.sh"), Path(folder, "recorded")
        tool.write_text(_RECORDER, encoding="utf-8")
        tool.chmod(0o700)
        environment = {"PATH": f"{folder}:/usr/bin:/bin", "RECORDED": str(recorded), "SERVERS": "broker:9092"}
        subprocess.run(["sh", "-eu", "-c", script], env=environment, check=True, timeout=_SECONDS)
        calls = recorded.read_text(encoding="utf-8").split(_END)[:-1]
    return tuple(grant for call in calls for grant in _read(call.split(_BETWEEN)[:-1]))


def _read(arguments: list[str]) -> Iterable[Grant]:
    """Return what one call of the tool grants; raise ValueError for an option that it does not know."""
    assert arguments.pop(arguments.index("--add"))
    options = list(zip(arguments[::2], arguments[1::2], strict=True))
    given: dict[str, list[str]] = {}
    for option, value in options:
        given.setdefault(option, []).append(value)
    assert given.pop("--bootstrap-server") == ["broker:9092"]
    assert given.pop("--command-config") == ["admin.properties"]
    principals, operations = given.pop("--allow-principal"), given.pop("--operation")
    [pattern] = given.pop("--resource-pattern-type", ["literal"])
    assert given.keys() <= _RESOURCES.keys(), given
    resources = [(option, name) for option, names in given.items() for name in names]
    return [
        Grant(principal, operation, option, name, pattern)
        for principal, operation, (option, name) in product(principals, operations, resources)
    ]


def grant(admin: AdminClient, grants: Iterable[Grant]) -> None:
    """Grant, and wait until the broker goes by it."""
    wanted = list(grants)
    if wanted:
        for done in admin.create_acls([_binding(one) for one in wanted]).values():
            done.result(_SECONDS)
    for one in wanted:
        poll(partial(_there, admin, one), _SECONDS, partial("{} is not in force".format, one))


def revoke(admin: AdminClient, grants: Iterable[Grant]) -> None:
    """Take permissions back, and wait until the broker goes by it."""
    unwanted = list(grants)
    filters = [_filter(one) for one in unwanted]
    for done in admin.delete_acls(filters).values():
        assert done.result(_SECONDS), "there was nothing to take back"
    for one in unwanted:
        poll(partial(_gone, admin, one), _SECONDS, partial("{} is still in force".format, one))


def _there(admin: AdminClient, one: Grant) -> bool | None:
    return bool(admin.describe_acls(_filter(one)).result(_SECONDS)) or None


def _gone(admin: AdminClient, one: Grant) -> bool | None:
    return not _there(admin, one) or None


def _binding(one: Grant) -> AclBinding:
    return AclBinding(*_fields(one))


def _filter(one: Grant) -> AclBindingFilter:
    return AclBindingFilter(*_fields(one))


def _fields(one: Grant) -> tuple[Any, ...]:
    """Return what bindings, and filters that find exactly one of them, are made of."""
    return (
        _RESOURCES[one.option],
        one.name,
        _PATTERNS[one.pattern],
        one.principal,
        "*",
        _OPERATIONS[one.operation],
        AclPermissionType.ALLOW,
    )
