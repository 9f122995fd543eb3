"""TLS to Kafka: the context made from the settings, and what a failed handshake means in their words.

A broker that does not accept a client's certificate says so in a TLS alert. With TLS 1.3 it comes after
the client's side of the handshake is done, and the client library shows it as a closed connection; so we
knock once ourselves and listen for it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl

from shared.errors import AccessRefusedError, BadConfigurationError
from shared.settings import KafkaSettings

_SECONDS = 2.0
# https://www.openssl.org/docs/man3.0/man3/X509_STORE_CTX_get_error.html: another host, another address.
_ANOTHER_NAME = (62, 64)


def context(settings: KafkaSettings) -> ssl.SSLContext:
    """Return the context for TLS.

    Raises:
        BadConfigurationError: a file can't be used; which setting names it.
    """
    try:
        made = ssl.create_default_context(cafile=settings.ssl_cafile)
    except (ssl.SSLError, OSError) as error:
        raise BadConfigurationError(
            [f"KAFKA_SSL_CAFILE: no certificates in PEM form in {settings.ssl_cafile}: {error}"]
        ) from error
    made.check_hostname = settings.ssl_check_hostname
    if settings.ssl_certfile is None:
        return made
    password = settings.ssl_key_password
    try:
        # A string, even an empty one: with None OpenSSL would ask on the terminal.
        secret = password.get_secret_value() if password is not None else ""
        made.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, secret)
    except (ssl.SSLError, OSError) as error:
        raise BadConfigurationError([_unusable(settings, error)]) from error
    return made


def _unusable(settings: KafkaSettings, error: Exception) -> str:
    if "KEY_VALUES_MISMATCH" in str(error):
        return (
            f"KAFKA_SSL_KEYFILE: the key in {settings.ssl_keyfile} does not belong to the certificate in "
            f"{settings.ssl_certfile} (KAFKA_SSL_CERTFILE)"
        )
    keyfile = settings.ssl_keyfile or settings.ssl_certfile
    if keyfile is not None and b"ENCRYPTED" in keyfile.read_bytes():
        state = "is not set" if settings.ssl_key_password is None else "is not its password"
        return f"KAFKA_SSL_KEY_PASSWORD: the key in {keyfile} is encrypted, and this {state}"
    return (
        f"KAFKA_SSL_CERTFILE, KAFKA_SSL_KEYFILE: no certificate and key in PEM form in "
        f"{settings.ssl_certfile} and {keyfile}: {error}"
    )


def untrusted(error: ssl.SSLCertVerificationError, *, servers: str) -> AccessRefusedError:
    """Return our error for a broker's certificate that we do not accept."""
    said = error.verify_message.rstrip(".")
    if error.verify_code in _ANOTHER_NAME:
        return AccessRefusedError(
            f"{servers}: the broker's certificate is another host's ({said}): see KAFKA_BOOTSTRAP_SERVERS, "
            "the brokers' advertised listeners, and KAFKA_SSL_CHECK_HOSTNAME"
        )
    return AccessRefusedError(
        f"{servers}: the broker's certificate is not trusted ({said}): see KAFKA_SSL_CAFILE"
    )


def unaccepted(error: ssl.SSLError, settings: KafkaSettings) -> AccessRefusedError:
    """Return our error for a TLS alert: the broker does not accept our certificate, or that there is none."""
    servers = ",".join(settings.bootstrap_servers)
    said = (error.reason or str(error)).lower().replace("_", " ")
    if settings.ssl_certfile is None:
        return AccessRefusedError(
            f"{servers}: the broker wants a certificate of us ({said}): set KAFKA_SSL_CERTFILE and "
            f"KAFKA_SSL_KEYFILE, or is KAFKA_SECURITY_PROTOCOL={settings.security_protocol} wrong?"
        )
    return AccessRefusedError(
        f"{servers}: the broker does not accept the certificate {settings.ssl_certfile} ({said}): see "
        "KAFKA_SSL_CERTFILE; has it expired, and does the broker trust who issued it?"
    )


async def certificate_refusal(settings: KafkaSettings) -> AccessRefusedError | None:
    """Knock at the first server, and return our error if the answer is a TLS alert. Takes 2 s at most."""
    alert = await asyncio.to_thread(_knock, settings)
    return None if alert is None else unaccepted(alert, settings)


def _knock(settings: KafkaSettings) -> ssl.SSLError | None:
    host, _, port = settings.bootstrap_servers[0].rpartition(":")
    host = host.strip("[]")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=_SECONDS) as plain,
            context(settings).wrap_socket(plain, server_hostname=host) as encrypted,
        ):
            # Nothing is sent: the answer to it could push the alert out of the line.
            encrypted.recv(1)
    except ssl.SSLError as error:
        return error if "ALERT" in (error.reason or "") else None
    except OSError:
        return None  # Absent, or quiet: it has nothing against our certificate.
    return None
