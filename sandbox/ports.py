"""Free TCP ports on the loopback interface."""

import secrets
import socket

HOST = "127.0.0.1"

# Below where Linux (32768) and macOS (49152) take the ports of outgoing connections from: a client
# that knocks at a stopped broker's port could otherwise be given that very port, and hold it.
FIRST_PORT = 20_000
LAST_PORT = 32_000


def is_free(port: int) -> bool:
    """Whether the port can be bound on 127.0.0.1 at this moment, by the rules that Java binds by."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what a dead broker left is no owner
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def accepts(port: int) -> bool:
    """Whether something on 127.0.0.1 accepts connections at this port."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0):
            return True
    except OSError:
        return False


def free_ports(count: int, taken: frozenset[int] = frozenset()) -> list[int]:
    """So many different ports that are free now. Another process may be faster: be ready to retry."""
    found: list[int] = []
    while len(found) < count:
        port = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT)
        if port not in taken and port not in found and is_free(port):
            found.append(port)
    return found
