"""The generator with a weakness that the suite has to catch: its ledger claims what was only handed over."""

from __future__ import annotations

import sys

from services.generator.__main__ import main
from services.generator.ledger import Account

if __name__ == "__main__":
    number = Account.number

    def claim(self: Account, count: int) -> int:
        first = number(self, count)
        self.acknowledged, self.last_offset = self.sent, self.last_offset + count
        return first

    Account.number = claim  # type: ignore[method-assign]
    Account.acknowledge = lambda *_: None  # type: ignore[method-assign]
    sys.exit(main())
