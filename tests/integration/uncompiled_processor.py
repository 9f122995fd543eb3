"""The processor where set-up found no compiler: there is no compiled part."""

from __future__ import annotations

import sys

from services.processor.__main__ import run
from services.processor.native import library

if __name__ == "__main__":
    library.NAME = "nobody-made-this.so"
    sys.exit(run())
