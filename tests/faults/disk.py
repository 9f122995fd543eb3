"""A disk that fills up: a node's data on a tmpfs of limited size, and a file that takes what room is left."""

from __future__ import annotations

import errno
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sandbox import Broker

COMMAND_SECONDS = 60
PIECE_BYTES = 64 * 1024


class Disk:
    """A small disk with a node's data on it."""

    def __init__(self, place: Path) -> None:
        self._filler = place / "filler"

    def fill(self) -> int:
        """Take all the room there is, and return how many bytes that was."""
        with self._filler.open("ab", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(PIECE_BYTES))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    return file.tell()

    def clear(self) -> None:
        """Give the room back."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(node: Broker, *, room_bytes: int) -> Iterator[Disk]:
    """Restart a node with its data on a disk that has so much room left; at the end it is down, data back.

    Needs the right to mount. If the whole test run dies by SIGKILL within the block, the mount stays.

    Raises PermissionError with what to do where mounting is refused, before the node is touched.
    """
    small = node.data.with_name(f"{node.data.name}.small")
    small.mkdir()
    try:
        _mount(small, _used_bytes(node.data) + room_bytes)
        try:
            with _moved_to(small, node):
                yield Disk(small)
        finally:
            _run("umount", str(small))
    finally:
        small.rmdir()


@contextmanager
def _moved_to(small: Path, node: Broker) -> Iterator[None]:
    node.stop()
    _copy(node.data, small)
    kept = node.data.rename(node.data.with_name(f"{node.data.name}.kept"))
    node.data.symlink_to(small)
    try:
        node.start()
        yield
    finally:
        node.kill()
        (small / "filler").unlink(missing_ok=True)
        node.data.unlink()
        node.data.mkdir()
        _copy(small, node.data)
        shutil.rmtree(kept)


def _mount(place: Path, size_bytes: int) -> None:
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tandem-small-disk", str(place))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
        raise PermissionError(
            f"a disk cannot be filled here, so nothing was tested: mounting a tmpfs is refused ({reason}). "
            "Run as root with CAP_SYS_ADMIN, or leave the scenarios with 'disk' in their name out"
        ) from error


def _copy(source: Path, target: Path) -> None:
    # Kafka's index files are 10 MiB of nothing until they are written to.
    _run("cp", "-a", "--sparse=always", f"{source}/.", str(target))


def _used_bytes(place: Path) -> int:
    return 512 * sum(one.lstat().st_blocks for one in place.rglob("*"))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMMAND_SECONDS)
