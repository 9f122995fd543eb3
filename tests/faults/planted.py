"""The processor with a fault, or a weakness, planted where production code has no hook.

`FAULT` names a cut: the process kills itself there with SIGKILL, after it has passed it `FAULT_AFTER` times
unharmed. `MUTANT` names a weakening of the guarantee that the suite has to catch.
"""

from __future__ import annotations

import sys

from services.processor.__main__ import run
from tests.integration.faulty_processor import application

if __name__ == "__main__":
    sys.exit(run(application))
