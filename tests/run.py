"""`make test`: lint, types, import rules and every tier of tests, with a table at the end.

    python tests/run.py [lint] [rules] [unit] [contract] [integration] [faults] [containers]

Without arguments: all but `faults`. Ends with 0 only if all that ran passed. Two steps may be left out:
`containers`, where no Docker engine answers, and `rules`, where there is no promtool. The last lines say so.
With CI=true a missing promtool is a failure.
"""

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
DEFAULT = ("lint", "rules", "unit", "contract", "integration", "containers")

LINT = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("lint-imports",),
)
LINT_SECONDS = 600.0

# Prometheus' own tool: the rules and the example are well-formed, and the rules do what their tests say.
RULES = (("check", "config", "prometheus.yml"), ("test", "rules", "alerts.test.yml"))
RULES_FOLDER = ROOT / "deploy" / "prometheus"
RULES_SECONDS = 300.0
TIER_SECONDS = {
    "unit": 600.0,
    "contract": 900.0,
    "integration": 2400.0,
    "faults": 7200.0,
    "containers": 2400.0,
}
# These tests mostly wait: for sessions to expire, for brokers to return. Each worker has a broker of its own.
PARALLEL = {"integration": ("-n", "3", "--dist", "worksteal"), "unit": ("-n", "2")}
# What a tier's time goes into stands in its log.
SLOWEST = ("--durations", "10")
INTERRUPT_SECONDS = 60.0
DOCKER_SECONDS = 30.0
POLL_SECONDS = 0.2
TAIL_BYTES = 256 * 1024
# What pytest says of each failure in a line of its own, and of an end before the last test.
REASON = re.compile(r"FAILED |ERROR |INTERNALERROR> |!{3,}")
REASONS_SHOWN = 20

NO_ENGINE = "no Docker engine answers `docker info`"
NO_PROMTOOL = "no promtool on PATH; scripts/promtool gets one"


@dataclass(frozen=True)
class Result:
    """How one step ended: `passed` is None when it could not run here."""

    name: str
    passed: bool | None
    seconds: float
    detail: str
    reasons: Sequence[str] = ()

    @property
    def word(self) -> str:
        """The outcome in the table."""
        return {True: "passed", False: "FAILED", None: "not run"}[self.passed]


def run(command: Sequence[str], limit_seconds: float, folder: Path = ROOT) -> tuple[int, list[str]]:
    """Run a command with its output shown; SIGINT, then SIGKILL, when the time is over.

    Returns its exit code, 1 when it was stopped, and the last lines it wrote.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment.get('PATH', '')}"
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        tail, in_time = show(process, limit_seconds)
    except KeyboardInterrupt:  # the terminal sent it to the command as well, which cleans up now
        end(process)
        raise
    lines = [line for line in plain(tail).splitlines() if line.strip(" .=")] or [""]
    code = end(process)
    return (code, lines) if in_time else (1, [*lines, f"stopped after {limit_seconds:.0f} s: {lines[-1]}"])


def show(process: "subprocess.Popen[bytes]", limit_seconds: float) -> tuple[bytes, bool]:
    """Copy the command's output to ours until it ends.

    Returns the last bytes of it, and whether it ended in time; if not, it has been stopped. That
    something the command left behind still holds the pipe does not keep us here.
    """
    assert process.stdout is not None
    deadline = time.monotonic() + limit_seconds
    interrupted = False
    tail = b""
    while True:
        ended = process.poll() is not None
        readable, _, _ = select.select([process.stdout], [], [], 0.0 if ended else POLL_SECONDS)
        data = os.read(process.stdout.fileno(), 65536) if readable else b""
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        tail = (tail + data)[-TAIL_BYTES:]
        if not data and (readable or ended):
            return tail, not interrupted
        if time.monotonic() > deadline:
            if interrupted:
                return tail, False
            # What it says now tells which test failed or hung: it is read on.
            process.send_signal(signal.SIGINT)
            interrupted, deadline = True, time.monotonic() + INTERRUPT_SECONDS


def end(process: "subprocess.Popen[bytes]") -> int:
    """Wait for a command that is about to end, and kill it if it does not. Returns its exit code."""
    try:
        code = process.wait(INTERRUPT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait(INTERRUPT_SECONDS)
    if process.stdout is not None:
        process.stdout.close()
    return code


def plain(output: bytes) -> str:
    """The text without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", output.decode(errors="replace"))


def lint() -> Result:
    """Style, types and import rules; all of them run, also after one has failed."""
    started = time.monotonic()
    failed = []
    for name, *arguments in LINT:
        say(" ".join([name, *arguments]))
        code, _ = run([str(BIN / name), *arguments], LINT_SECONDS)
        if code:
            failed.append(" ".join([name, *arguments]))
    detail = f"failed: {', '.join(failed)}" if failed else "ruff, mypy, lint-imports"
    return Result("lint", not failed, time.monotonic() - started, detail)


def rules() -> Result:
    """The alert rules, by promtool: the one that $PROMTOOL names, or the one on the PATH."""
    started = time.monotonic()
    say("deploy/prometheus")
    promtool = os.environ.get("PROMTOOL") or shutil.which(
        "promtool", path=f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    if promtool is None:
        missing = False if os.environ.get("CI") == "true" else None
        return Result("rules", missing, time.monotonic() - started, NO_PROMTOOL)
    failed = []
    for arguments in RULES:
        say(" ".join(["promtool", *arguments]))
        code, _ = run([promtool, *arguments], RULES_SECONDS, RULES_FOLDER)
        if code:
            failed.append(" ".join(["promtool", *arguments]))
    detail = f"failed: {', '.join(failed)}" if failed else "promtool: check config, test rules"
    return Result("rules", not failed, time.monotonic() - started, detail)


def tier(name: str) -> Result:
    """One folder of tests."""
    started = time.monotonic()
    say(f"tests/{name}")
    if name == "containers" and not docker_answers():
        return Result(name, None, time.monotonic() - started, NO_ENGINE)
    options = [f"--color={'yes' if sys.stdout.isatty() else 'no'}", *SLOWEST, *PARALLEL.get(name, ())]
    command = [sys.executable, "-m", "pytest", f"tests/{name}", *options]
    code, lines = run(command, TIER_SECONDS[name])
    seconds = time.monotonic() - started
    last = lines[-1].strip("= ")
    if code == 0:
        return Result(name, True, seconds, last)
    reasons = [line for line in lines if REASON.match(line)]
    return Result(name, False, seconds, f"{last} (exit code {code})", reasons[-REASONS_SHOWN:])


def docker_answers() -> bool:
    """Whether a Docker engine can be reached."""
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=DOCKER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def say(line: str) -> None:
    """A heading in the output."""
    sys.stdout.write(f"\n--- {line}\n")
    sys.stdout.flush()


def table(results: Sequence[Result], seconds: float) -> str:
    """The closing lines; the last one sums them up."""
    lines = [f"  {x.name:<12} {x.word:<8} {x.seconds:>6.1f} s  {x.detail}" for x in results]
    lines += [f"  {x.name}: {reason}" for x in results for reason in x.reasons]
    failed = [x.name for x in results if x.passed is False]
    passed = [x.name for x in results if x.passed]
    parts = [f"FAILED: {', '.join(failed)}"] if failed else []
    parts += [f"passed: {', '.join(passed)}"] if passed else []
    parts += [f"not run: {x.name} ({x.detail})" for x in results if x.passed is None]
    return "\n".join(["", *lines, f"make test: {'; '.join(parts)}; {seconds:.0f} s"])


def main(names: Sequence[str]) -> int:
    """Run the named steps, in order.

    Returns the exit code: 0 when nothing failed, 1, 2 for a name that is none, 130 after Ctrl-C.
    """
    steps = {"lint": lint, "rules": rules}
    unknown = [name for name in names if name not in steps and name not in TIER_SECONDS]
    if unknown:
        sys.stderr.write(
            f"no such step: {', '.join(unknown)}; there are {', '.join([*steps, *TIER_SECONDS])}\n"
        )
        return 2
    started = time.monotonic()
    results: list[Result] = []
    interrupted = False
    for name in names or DEFAULT:
        try:
            results.append(steps[name]() if name in steps else tier(name))
        except KeyboardInterrupt:
            results.append(Result(name, False, 0.0, "interrupted"))
            interrupted = True
            break
    sys.stdout.write(table(results, time.monotonic() - started) + "\n")
    if interrupted:
        return 130
    return 0 if all(result.passed is not False for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
