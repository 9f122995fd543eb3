"""Certificates for the tests of encryption, made as they run: no key is in the tree."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


@dataclass(frozen=True)
class Identity:
    """A certificate and its key as PEM files, as `KAFKA_SSL_CERTFILE` and `_KEYFILE` name them."""

    certfile: Path
    keyfile: Path


class Authority:
    """A certificate authority of the tests' own.

    Args:
        folder: where its files go.
    """

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self._issued = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.cafile = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.cafile)

    @property
    def certificate(self) -> str:
        """Its own certificate, PEM."""
        return self._ca.cert_pem.bytes().decode()

    def server(self, *names: str) -> tuple[str, str]:
        """Return a server's certificate for these names and addresses, and its key, both PEM."""
        issued = self._ca.issue_cert(*names)
        chain = "".join(blob.bytes().decode() for blob in issued.cert_chain_pems)
        return chain, _pkcs8(issued.private_key_pem.bytes(), None).decode()

    def client(self, name: str, *, password: str | None = None, expired: bool = False) -> Identity:
        """Return a client's certificate with this common name; its key encrypted with the password."""
        now = datetime.now(UTC)
        issued = self._ca.issue_cert(
            f"{name}@clients.test",
            common_name=name,
            not_before=now - timedelta(days=2),
            not_after=now - timedelta(days=1) if expired else now + timedelta(days=1),
        )
        self._issued += 1
        identity = Identity(
            self._folder / f"{name}-{self._issued}.pem", self._folder / f"{name}-{self._issued}.key"
        )
        for blob in issued.cert_chain_pems:
            blob.write_to_path(identity.certfile, append=True)
        identity.keyfile.write_bytes(_pkcs8(issued.private_key_pem.bytes(), password))
        return identity


def _pkcs8(pem: bytes, password: str | None) -> bytes:
    encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    key = load_pem_private_key(pem, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
