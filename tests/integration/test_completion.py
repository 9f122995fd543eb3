"""The shells complete `tandem`, as far as they are on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.commands import Tandem
from tests.verifier import environment

# Where the environment has `tandem` beside its Python.
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_a_script(tandem: Tandem, shell: str) -> None:
    ran = tandem("completion", shell)
    assert ran.exit_code == 0, ran.err
    assert "_TANDEM_COMPLETE" in ran.out


def test_bash_completes_commands_and_choices(tandem: Tandem, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(tandem("completion", "bash").out)
    asked = f"""
    source {script}
    COMP_WORDS=(tandem res); COMP_CWORD=1; _tandem_completion tandem; echo "${{COMPREPLY[@]}}"
    COMPREPLY=()
    COMP_WORDS=(tandem completion f); COMP_CWORD=2; _tandem_completion tandem; echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", asked],
        env=environment(PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["reset-offsets", "fish"], done.stderr


def test_another_shell_is_refused_with_those_there_are(tandem: Tandem) -> None:
    ran = tandem("completion", "csh")
    assert (ran.exit_code, "'bash', 'zsh', 'fish'" in ran.err) == (2, True)
