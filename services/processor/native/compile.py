"""`python -m services.processor.native.compile`: make the compiled part for this interpreter.

Set-up and the image's build run it. Any C compiler of the GCC or Clang family will do, of this machine or
from the package index (`requirements/compiler.txt`).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.processor.native.library import SOURCE, UnusableError, load, location, source_hash

# Nothing of this machine's processor: an image is run on another one than it was built on.
FLAGS = ("-std=c11", "-O2", "-fPIC", "-shared")
# Zig alone takes what this machine's processor can do unless it is told not to.
ZIG = "-m ziglang cc -mcpu=baseline"
# A second, or five with ziglang; an image for another kind of processor is built by an emulated compiler.
DEADLINE_SECONDS = 300.0


class CompileError(Exception):
    """It was not made; the message says by what, and what that said."""


def compilers() -> list[str]:
    """Return the commands to try, in order: `CC`, or cc where that is not set; ziglang's if it is here."""
    found = [os.environ.get("CC") or "cc"]
    if importlib.util.find_spec("ziglang") is not None:
        found.append(f"{shlex.quote(sys.executable)} {ZIG}")
    return found


def run(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a compiler; return its exit code and what it printed.

    Raises:
        OSError: it can't be run.
        subprocess.TimeoutExpired: it was not done in time, and killed with all that it had started.
    """
    with subprocess.Popen(  # noqa: S603 — the compiler that was asked for
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=DEADLINE_SECONDS)
        except BaseException:  # Ctrl-C does not reach another session
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, printed.strip()


def build(compiler: str, target: Path) -> None:
    """Compile columns.c to `target`, in one step: who loads it meanwhile has the old one or the new one.

    Args:
        compiler: a command, with arguments if need be, quoted as for a shell.
        target: the file to make; what is there stays where this fails.

    Raises:
        CompileError: it did not work.
    """
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tandem") as folder:
            made = Path(folder, target.name)
            command = [*shlex.split(compiler), *FLAGS, f"-DSOURCE_HASH={source_hash():#x}"]
            # Zig keeps what it made of the C library: not in the home directory of whoever sets up.
            caches = {"ZIG_GLOBAL_CACHE_DIR": folder, "ZIG_LOCAL_CACHE_DIR": folder}
            code, printed = run([*command, str(SOURCE), "-o", str(made)], os.environ | caches)
            if code:
                raise CompileError(f"{compiler}: {printed or 'not a word'} (exit code {code})")
            if not made.exists():
                raise CompileError(f"{compiler}: it ended well and made nothing")
            load(made)
            made.replace(target)
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"{compiler}: not done in {DEADLINE_SECONDS:g} s") from error
    except (OSError, ValueError, UnusableError) as error:  # ValueError: the command's quotes
        raise CompileError(f"{compiler}: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, trying one compiler after the other. Returns 0, or 1 where none did it, and shows why."""
    parser = argparse.ArgumentParser(prog="python -m services.processor.native.compile", description=__doc__)
    parser.add_argument(
        "--compiler", help="a command, with arguments if need be; else CC or cc, then ziglang's"
    )
    parser.add_argument("--into", type=Path, default=location(), help="the file to make")
    options = parser.parse_args(arguments)
    failures = []
    for compiler in [options.compiler] if options.compiler else compilers():
        try:
            build(compiler, options.into)
        except CompileError as error:
            failures.append(str(error))
        else:
            print(f"{options.into}: made by {compiler}")  # noqa: T201 — a command's result
            return 0
    print("\n".join(failures), file=sys.stderr)  # noqa: T201 — a command's result
    return 1


if __name__ == "__main__":
    sys.exit(main())
