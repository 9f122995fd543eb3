"""The users' behaviour: `UserEvent`, keyed by the user. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import get_args

from services.generator.draws import Draws
from services.generator.workloads.pieces import MadeAhead, Texts, as_json
from shared.events import Action, Device

_STREAM = 1
_LAST_OCTETS = 255


class BehaviorWorkload:
    """Every field drawn evenly and apart from the others: user, page, action and device, address.

    Args:
        seed: 0 or more.
        source: this incarnation of the generator, 1 to 64 characters.
        user_id_min: the lowest user id.
        user_id_max: the highest, itself included.
        pages: pages are "/page/1" up to this one.
        ip_prefix: the first three octets; the last one is 1 to 255.
    """

    def __init__(
        self, *, seed: int, source: str, user_id_min: int, user_id_max: int, pages: int, ip_prefix: str
    ) -> None:
        kinds = [(action, device) for action in get_args(Action) for device in get_args(Device)]
        users = user_id_max - user_id_min + 1
        self._draws = Draws(seed, _STREAM, (users, pages, len(kinds), _LAST_OCTETS))
        self._keys = Texts(users, lambda i: b"%d" % (user_id_min + i))
        self._users = Texts(users, lambda i: b'{"user_id":%d,' % (user_id_min + i))
        self._pages = Texts(pages, lambda i: b'"page":"/page/%d",' % (i + 1))
        self._kinds = Texts(
            len(kinds), lambda i: b'"action":%b,"device":%b,' % (as_json(kinds[i][0]), as_json(kinds[i][1]))
        )
        self._addresses = Texts(_LAST_OCTETS, lambda i: b'"ip":"%b.%d",' % (ip_prefix.encode(), i + 1))
        self._source = as_json(source)
        self._ahead = MadeAhead(self._make)

    def take(self, count: int) -> tuple[list[bytes], list[bytes]]:
        """Return the next `count` events as their keys and their bodies."""
        return self._ahead.take(count)

    def stamp(self, now: float) -> bytes:
        """Return the piece that says when and by whom, for events made at `now` (epoch seconds)."""
        when = datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds")
        return b'"timestamp":"%b","source":%b,"seq":' % (when.encode(), self._source)

    def _make(self, count: int) -> tuple[list[bytes], list[bytes]]:
        users, pages, kinds, addresses = self._draws.columns(count)
        pieces = zip(
            self._users.of(users),
            self._kinds.of(kinds),
            self._pages.of(pages),
            self._addresses.of(addresses),
            strict=True,
        )
        return list(self._keys.of(users)), list(map(b"".join, pieces))
