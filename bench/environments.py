"""Where a peer runs: a virtual environment of its own from its lock, made once and kept in the cache."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

from sandbox.cache import cache_folder, locked, remove_leftovers
from sandbox.jars import Bundle, class_path
from sandbox.java import java_executable

ROOT = Path(__file__).resolve().parent.parent
STREAMS = ROOT / "bench" / "peers" / "streams"
KAFKA_STREAMS = Bundle("Kafka Streams", STREAMS / "jgo.lock.toml", ("org.apache.kafka", "kafka-streams"), 92)
INSTALL_SECONDS = 600.0
COMPILE_SECONDS = 120.0


class NotInstalledError(Exception):
    """A peer can't be installed here."""


def say(line: str) -> None:
    """Tell who waits."""
    print(f"bench: {line}", file=sys.stderr, flush=True)


def python_of(peer: str) -> Path:
    """Return the Python that has a peer's packages, exactly those of `requirements/peers/`.

    Raises:
        NotInstalledError: they can't be installed.
    """
    lock = ROOT / "requirements" / "peers" / f"{peer}.txt"
    about = lock.read_bytes() + sys.version.encode()
    root = cache_folder().parent / "bench"
    root.mkdir(exist_ok=True)
    folder = root / f"{peer}-{hashlib.sha256(about).hexdigest()[:12]}"
    python = folder / "bin" / "python"
    done = folder / "complete"
    with locked(root / f"{peer}.lock", wait=True):
        if done.exists():
            return python
        say(f"installing {peer}, first time only")
        remove_leftovers(root, f"{peer}-*/")
        venv.create(folder, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", str(lock)]
        try:
            subprocess.run(command, check=True, timeout=INSTALL_SECONDS, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            raise NotInstalledError(f"{peer}: {error.stderr.strip()[-500:]}") from error
        except subprocess.TimeoutExpired as error:
            raise NotInstalledError(f"{peer}: pip took longer than {INSTALL_SECONDS:g} s") from error
        done.touch()
    return python


def kafka_streams(heap_mebibytes: int) -> list[str]:
    """Return the command that runs the Kafka Streams job, compiled now if need be.

    The Java runtime has no compiler, so Eclipse's comes with the jars.

    Raises:
        SandboxError: the jars can't be fetched.
        NotInstalledError: the job does not compile.
    """
    source = STREAMS / "Job.java"
    jars = class_path(say, KAFKA_STREAMS)
    path = ":".join(map(str, jars))
    classes = jars[0].parent / f"job-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    java = str(java_executable())
    if not (classes / "Job.class").exists():
        compiler = [java, "-cp", path, "org.eclipse.jdt.internal.compiler.batch.Main", "-21", "-nowarn"]
        command = [*compiler, "-cp", path, "-d", str(classes), str(source)]
        done = subprocess.run(command, check=False, timeout=COMPILE_SECONDS, capture_output=True, text=True)
        if done.returncode:
            raise NotInstalledError(f"Kafka Streams: {done.stderr.strip()[-2000:]}")
    logs = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
    return [java, f"-Xmx{heap_mebibytes}m", "-XX:+UseG1GC", logs, "-cp", f"{classes}:{path}", "Job"]
