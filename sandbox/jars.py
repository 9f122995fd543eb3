"""Kafka's jars, exactly those of the lock file: fetched once, checked by sha256, kept in the cache."""

import contextlib
import hashlib
import shutil
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.cache import cache_folder, locked, remove_leftovers
from sandbox.errors import SandboxError

LOCK_PATH = Path(__file__).with_name("jgo.lock.toml")
FETCH_THREADS = 8
FETCH_TRIES = 3
FETCH_SECONDS = 900.0  # all jars together
SILENCE_SECONDS = 20  # one connection


@dataclass(frozen=True)
class Jar:
    """One line of the lock."""

    group: str
    artifact: str
    version: str
    classifier: str
    packaging: str
    sha256: str

    @property
    def file_name(self) -> str:
        """Its name in the installed folder; the group is in it, since artifact names repeat."""
        suffix = f"-{self.classifier}" if self.classifier else ""
        return f"{self.group}.{self.artifact}-{self.version}{suffix}.{self.packaging}"


@dataclass(frozen=True)
class Bundle:
    """Jars that belong together.

    Attributes:
        name: what people call it; the folder's name begins with it.
        lock_path: names the jars, in class path order.
        artifact: group and artifact whose version is the bundle's.
        megabytes: how much is fetched, for people who wait.
    """

    name: str
    lock_path: Path
    artifact: tuple[str, str]
    megabytes: int

    def version(self, jars: list[Jar]) -> str:
        """Its version among the locked jars."""
        return next(jar.version for jar in jars if (jar.group, jar.artifact) == self.artifact)


KAFKA = Bundle("Kafka", LOCK_PATH, ("org.apache.kafka", "kafka_2.13"), 46)


def read_lock(path: Path = LOCK_PATH) -> list[Jar]:
    """The locked jars in class path order. Raises SandboxError when one has no checksum."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    jars = [
        Jar(
            group=entry["groupId"],
            artifact=entry["artifactId"],
            version=entry["version"],
            classifier=entry.get("classifier", ""),
            packaging=entry.get("packaging", "jar"),
            sha256=entry.get("sha256", ""),
        )
        for entry in document["dependencies"]
    ]
    for jar in jars:
        if not jar.sha256:
            raise SandboxError(f"{path.name} has no sha256 for {jar.group}:{jar.artifact}; run `make lock`")
    return jars


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def class_path(say: Callable[[str], None], bundle: Bundle = KAFKA) -> list[Path]:
    """The installed jars in class path order; fetches them when the cache has no sound copy.

    Every call checks every jar against the lock (some 50 ms). A concurrent call waits for the one
    that is fetching. Uses the network only when something is missing.

    Raises SandboxError when a jar cannot be fetched, or is not the one that the lock names.
    """
    jars = read_lock(bundle.lock_path)
    digest = hashlib.sha256("".join(jar.sha256 for jar in jars).encode()).hexdigest()[:12]
    root = cache_folder()
    folder = root / f"{bundle.name.lower().replace(' ', '-')}-{bundle.version(jars)}-{digest}"
    paths = [folder / jar.file_name for jar in jars]
    if not wrong_jars(jars, folder):
        return paths
    try:
        with fetching_alone(root / "fetch.lock", say):
            if wrong_jars(jars, folder):
                install(jars, folder, bundle, say)
    except OSError as error:
        raise SandboxError(
            f"cannot keep {bundle.name}'s jars in {root}: {error.strerror or error}"
        ) from error
    return paths


@contextlib.contextmanager
def fetching_alone(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock; says so when another process has it, and waits for that one."""
    with locked(path, wait=False) as got:
        if got:
            yield
            return
    say("another sandbox is fetching Kafka; waiting for it")
    with locked(path, wait=True):
        yield


def wrong_jars(jars: list[Jar], folder: Path) -> list[str]:
    """The names of the jars that are missing from the folder or differ from the lock."""

    def is_wrong(jar: Jar) -> bool:
        path = folder / jar.file_name
        return not path.is_file() or sha256_of(path) != jar.sha256

    with ThreadPoolExecutor(FETCH_THREADS) as pool:  # hashing runs outside the interpreter's lock
        return [jar.file_name for jar, wrong in zip(jars, pool.map(is_wrong, jars), strict=True) if wrong]


def install(jars: list[Jar], folder: Path, bundle: Bundle, say: Callable[[str], None]) -> None:
    """Fetch the jars into a folder aside, check them, and put it in place in one step.

    The caller holds the lock, so that what an earlier, killed one left there can go.
    """
    say(f"fetching {bundle.name} {bundle.version(jars)} ({bundle.megabytes} MB), first time only")
    remove_leftovers(folder.parent, "fetch-*")
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder.parent) as aside:
        staged = Path(aside) / "jars"
        staged.mkdir()
        fetch(jars, Path(aside) / "repository", staged)
        wrong = wrong_jars(jars, staged)
        if wrong:
            raise SandboxError(f"fetched jars differ from {bundle.lock_path}: {', '.join(wrong)}")
        if folder.exists():  # an unsound one; who runs from it keeps its open files
            shutil.rmtree(folder)
        staged.rename(folder)


def fetch(jars: list[Jar], repository: Path, staged: Path) -> None:
    """Download every jar through jgo into `repository` and move it to `staged`, a few at a time.

    Raises SandboxError when one cannot be had after FETCH_TRIES, or FETCH_SECONDS are over.
    """
    # Imported here: a start from the cache needs none of it, and it costs 200 ms.
    from jgo.config import GlobalSettings  # noqa: PLC0415
    from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415

    stop = threading.Event()
    deadline = time.monotonic() + FETCH_SECONDS

    def check() -> None:
        if stop.is_set() or time.monotonic() > deadline:
            raise SandboxError(f"fetching Kafka took longer than {FETCH_SECONDS:.0f} s")

    @contextlib.contextmanager
    def progress(_name: str, _total_bytes: int) -> Iterator[Callable[[int], None]]:
        yield lambda _count_bytes: check()

    # A mirror named in the user's own jgo settings is used; without one it is Maven Central.
    context = MavenContext(
        repo_cache=repository,
        remote_repos=GlobalSettings.load().repositories or None,
        timeout=SILENCE_SECONDS,
        resolver=PythonResolver(progress_callback=progress),
    )
    with ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="fetch") as pool:
        futures = [pool.submit(fetch_one, jar, context, staged, check) for jar in jars]
        try:
            for future in futures:
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def fetch_one(jar: Jar, context: Any, staged: Path, check: Callable[[], None]) -> None:
    """Download one jar, in FETCH_TRIES; `check` raises when there is no more time for it."""
    from requests import RequestException  # noqa: PLC0415 - as above

    component = context.project(jar.group, jar.artifact).at_version(jar.version)
    artifact = component.artifact(classifier=jar.classifier, packaging=jar.packaging)
    for left in reversed(range(FETCH_TRIES)):
        check()
        try:
            Path(artifact.resolve()).rename(staged / jar.file_name)
        except RequestException as error:
            Path(artifact.cached_path).unlink(missing_ok=True)  # half a file counts as fetched
            if not left:
                why = f"{reason(error)} (the network is needed this first time)"
                raise SandboxError(f"cannot fetch {jar.file_name}: {why}") from error
            time.sleep(1.0)
        except RuntimeError as error:  # jgo's word for an answer other than 200
            raise SandboxError(f"cannot fetch {jar.file_name}: {error}") from error
        else:
            return


def reason(error: BaseException) -> str:
    """The innermost cause of a failed request, in one line."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
