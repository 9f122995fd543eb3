"""`tandem` as its users start it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.verifier import environment

COMMAND_SECONDS = 60


@dataclass
class Ran:
    """What a command said and did."""

    exit_code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Tandem = Callable[..., Ran]
StartTandem = Callable[..., "subprocess.Popen[str]"]


def start_tandem(
    *arguments: str, folder: Path, variables: Mapping[str, object], **streams: Any
) -> subprocess.Popen[str]:
    """Start a command that a test ends itself, with these variables and nothing of the caller's."""
    command = [sys.executable, "-m", "services.console", *arguments]
    return subprocess.Popen(command, env=environment(**variables), cwd=folder, text=True, **streams)


def run_tandem(*arguments: str, folder: Path, variables: dict[str, object]) -> Ran:
    """Run a command to its end, with these variables and nothing of the caller's."""
    done = subprocess.run(
        [sys.executable, "-m", "services.console", *arguments],
        env=environment(**variables),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)
