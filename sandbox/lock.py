"""`python -m sandbox.lock [SPECIFICATION]`: write jgo.lock.toml anew from jgo.toml (part of `make lock`).

The lock names coordinates and checksums only: no repository, no time of making, so that the same
resolution gives the same file.
"""

import sys
import tempfile
import tomllib
from pathlib import Path

from sandbox.jars import LOCK_PATH

SPEC_PATH = Path(__file__).with_name("jgo.toml")
HEADER = "# Made by `make lock` from jgo.toml; read by sandbox/jars.py.\n"
FIELDS = ("groupId", "artifactId", "version", "classifier", "packaging", "sha256")


def resolve(spec_path: Path) -> str:
    """The text of the lock for this specification; downloads every jar to see its checksum (20 s)."""
    import tomli_w  # noqa: PLC0415 - comes with jgo, and only making the lock needs it
    from jgo.env import EnvironmentBuilder, EnvironmentSpec  # noqa: PLC0415
    from jgo.maven import MavenContext  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="tandem-lock-") as folder:
        made = Path(folder) / LOCK_PATH.name
        # An empty repository: what lies about on this machine must not get into the lock.
        builder = EnvironmentBuilder(context=MavenContext(repo_cache=Path(folder) / "repository"))
        builder.resolve_lockfile(EnvironmentSpec.load(spec_path)).save(made)
        document = tomllib.loads(made.read_text(encoding="utf-8"))
    dependencies = [
        {field: entry[field] for field in FIELDS if field in entry} for entry in document["dependencies"]
    ]
    return HEADER + tomli_w.dumps({"environment": document["environment"], "dependencies": dependencies})


def main() -> int:
    """Write the lock beside the specification that is given, or beside Kafka's."""
    spec_path = Path(sys.argv[1]) if len(sys.argv) > 1 else SPEC_PATH
    spec_path.with_name(LOCK_PATH.name).write_text(resolve(spec_path), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
