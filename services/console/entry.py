"""Where `tandem` begins. Loading its modules takes half a second; Ctrl-C in it is answered as later."""

from __future__ import annotations

import sys


def main() -> None:
    """Load the command line and run it."""
    try:
        from services.console.__main__ import run  # noqa: PLC0415 — loading is what is interrupted
    except KeyboardInterrupt:
        sys.stderr.write("tandem: interrupted\n")
        sys.exit(1)
    run()
