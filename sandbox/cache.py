"""Where what was fetched and made once is kept: a folder of the user's own, outside the project."""

import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from sandbox.errors import SandboxError


def cache_folder() -> Path:
    """The sandbox's cache folder, made if need be: under $XDG_CACHE_HOME or the platform's own place.

    Raises SandboxError when it cannot be made.
    """
    root = os.environ.get("XDG_CACHE_HOME", "")
    if not Path(root).is_absolute():  # the specification: a relative path is to be ignored
        root = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    try:
        folder = Path(root).expanduser() / "tandem" / "sandbox"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise SandboxError(
            f"no cache folder for Kafka's jars: {error}; XDG_CACHE_HOME can name another place"
        ) from error
    return folder


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock file `path` for the time of the block; says whether it was got.

    With `wait` it blocks until whoever holds it lets go or dies; without, it returns at once.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Remove the folders that a process which was killed left; only for who holds their lock."""
    for path in folder.glob(pattern):
        shutil.rmtree(path, ignore_errors=True)
