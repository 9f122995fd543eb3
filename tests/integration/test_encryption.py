"""Whatever is wrong with the login or the certificates is said in one line that names the setting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.certificates import Authority, Identity
from tests.integration.guarded import PASSWORD, Guarded, Protocol, last_words
from tests.verifier import Service

pytestmark = pytest.mark.timeout(300)

KEY_PASSWORD = "staple"
WRONG_PASSWORD = "wrong-one"
AT_ONCE = 4


class Files:
    """Certificates of every kind, and files with secrets in them."""

    def __init__(self, guarded: Guarded, folder: Path) -> None:
        self.stranger = Authority(folder / "stranger")
        self.expired = guarded.authority.client("processor", expired=True)
        self.unknown = self.stranger.client("processor")
        self.encrypted = guarded.authority.client("processor", password=KEY_PASSWORD)
        self.other = guarded.authority.client("processor")
        self.key_password = folder / "key-password"
        self.key_password.write_text(f"{KEY_PASSWORD}\n", encoding="ascii")
        self.password = folder / "password"
        self.password.write_text(f"{PASSWORD}\n", encoding="ascii")
        self.garbage = folder / "garbage.pem"
        self.garbage.write_text("nothing of use\n", encoding="ascii")


@pytest.fixture
def files(guarded: Guarded, tmp_path: Path) -> Files:
    return Files(guarded, tmp_path)


Changes = dict[str, Any]
Change = Callable[[Guarded, Files], Changes]


def certificate(one: Identity, **more: object) -> Changes:
    return {"KAFKA_SSL_CERTFILE": one.certfile, "KAFKA_SSL_KEYFILE": one.keyfile, **more}


def none(*names: str) -> Changes:
    return dict.fromkeys(names)


def localhost(guarded: Guarded) -> str:
    """The broker under a name that is not in its certificate."""
    return guarded.servers("SASL_SSL").replace("127.0.0.1", "localhost")


NO_CERTIFICATE = none("KAFKA_SSL_CERTFILE", "KAFKA_SSL_KEYFILE")
# How it is reached, what is wrong, the exit code, and what the last line has to say.
REFUSED: dict[str, tuple[Protocol, Change, int, tuple[str, ...]]] = {
    "a wrong authority": (
        "SASL_SSL",
        lambda _, files: {"KAFKA_SSL_CAFILE": files.stranger.cafile},
        1,
        ("certificate is not trusted", "KAFKA_SSL_CAFILE"),
    ),
    "no authority but the system's": (
        "SSL",
        lambda *_: {"KAFKA_SSL_CAFILE": None},
        1,
        ("certificate is not trusted", "KAFKA_SSL_CAFILE"),
    ),
    "another host's certificate": (
        "SASL_SSL",
        lambda guarded, _: {"KAFKA_BOOTSTRAP_SERVERS": localhost(guarded)},
        1,
        ("another host's", "'localhost'", "KAFKA_SSL_CHECK_HOSTNAME"),
    ),
    "an expired certificate": (
        "SSL",
        lambda _, files: certificate(files.expired),
        1,
        ("does not accept the certificate", "KAFKA_SSL_CERTFILE", "expired"),
    ),
    "a certificate of an unknown authority": (
        "SSL",
        lambda _, files: certificate(files.unknown),
        1,
        ("does not accept the certificate", "KAFKA_SSL_CERTFILE"),
    ),
    "no certificate where one is wanted": (
        "SSL",
        lambda *_: NO_CERTIFICATE,
        1,
        ("wants a certificate", "KAFKA_SSL_CERTFILE"),
    ),
    "a login where a certificate is wanted": (
        "SASL_SSL",
        lambda guarded, _: {"KAFKA_BOOTSTRAP_SERVERS": guarded.servers("SSL")},
        1,
        ("wants a certificate", "KAFKA_SECURITY_PROTOCOL"),
    ),
    "no login where one is wanted": (
        "SSL",
        lambda guarded, _: {"KAFKA_BOOTSTRAP_SERVERS": guarded.servers("SASL_SSL")},
        1,
        ("is it a SASL listener?", "KAFKA_SECURITY_PROTOCOL"),
    ),
    "plain text where TLS is spoken": (
        "SSL",
        lambda *_: {"KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"},
        1,
        ("speaks TLS", "KAFKA_SECURITY_PROTOCOL is PLAINTEXT"),
    ),
    "TLS where plain text is spoken": (
        "SSL",
        lambda guarded, _: {"KAFKA_BOOTSTRAP_SERVERS": guarded.inside},
        1,
        ("speaks plain text", "KAFKA_SECURITY_PROTOCOL is SSL"),
    ),
    "a wrong password": (
        "SASL_SSL",
        lambda *_: {"KAFKA_SASL_PASSWORD": WRONG_PASSWORD},
        1,
        ("refuses our login", "KAFKA_SASL_PASSWORD"),
    ),
    "a wrong mechanism": (
        "SASL_SSL",
        lambda *_: {"KAFKA_SASL_MECHANISM": "PLAIN"},
        1,
        ("refuses our login", "KAFKA_SASL_MECHANISM"),
    ),
    "an encrypted key without its password": (
        "SSL",
        lambda _, files: certificate(files.encrypted),
        2,
        ("KAFKA_SSL_KEY_PASSWORD", "is not set"),
    ),
    "an encrypted key with another password": (
        "SSL",
        lambda _, files: certificate(files.encrypted, KAFKA_SSL_KEY_PASSWORD=WRONG_PASSWORD),
        2,
        ("KAFKA_SSL_KEY_PASSWORD", "is not its password"),
    ),
    "another certificate's key": (
        "SSL",
        lambda _, files: {
            "KAFKA_SSL_CERTFILE": files.unknown.certfile,
            "KAFKA_SSL_KEYFILE": files.other.keyfile,
        },
        2,
        ("KAFKA_SSL_KEYFILE", "does not belong to the certificate"),
    ),
    "a file without certificates": (
        "SSL",
        lambda _, files: {"KAFKA_SSL_CAFILE": files.garbage},
        2,
        ("KAFKA_SSL_CAFILE", "no certificates"),
    ),
    "a file with no certificate of ours": (
        "SSL",
        lambda _, files: {"KAFKA_SSL_CERTFILE": files.garbage},
        2,
        ("KAFKA_SSL_CERTFILE", "no certificate"),
    ),
    "a file that is not there": (
        "SSL",
        lambda _, files: {"KAFKA_SSL_CERTFILE": files.garbage.with_suffix(".gone")},
        2,
        ("KAFKA_SSL_CERTFILE", "no readable file"),
    ),
    "a password file that is not there": (
        "SASL_SSL",
        lambda _, files: {
            "KAFKA_SASL_PASSWORD": None,
            "KAFKA_SASL_PASSWORD_FILE": files.garbage.with_suffix(".gone"),
        },
        2,
        ("KAFKA_SASL_PASSWORD_FILE", "can't be read"),
    ),
}


def test_what_is_wrong_with_a_login_or_a_certificate_is_named_with_its_setting(
    guarded: Guarded, files: Files, prefix: str
) -> None:
    """A few at once: each is a process that mostly starts."""
    cases = list(REFUSED.items())
    for first in range(0, len(cases), AT_ONCE):
        started: list[Service] = []
        for number, (_, (protocol, change, _, _)) in enumerate(cases[first : first + AT_ONCE]):
            # In turns: what is said here is said by what the services share.
            what = "services.generator" if number % 2 else "services.processor"
            started.append(guarded.service(what, prefix, protocol=protocol, **change(guarded, files)))
        for service, (what, (_, _, code, says)) in zip(started, cases[first:], strict=False):
            reason = last_words(service, code=code)["reason"]
            assert all(part in reason for part in says), f"{what}: {reason}"
            text = "\n".join(service.lines())
            assert WRONG_PASSWORD not in text, what
            assert KEY_PASSWORD not in text, what


def test_names_are_not_checked_where_that_is_switched_off_and_secrets_may_come_from_files(
    guarded: Guarded, files: Files
) -> None:
    """Each of these settings has an effect: without it, the case above that it belongs to is refused."""
    unchecked: Changes = {
        "KAFKA_BOOTSTRAP_SERVERS": localhost(guarded),
        "KAFKA_SSL_CHECK_HOSTNAME": "false",
        "KAFKA_SASL_PASSWORD": None,
        "KAFKA_SASL_PASSWORD_FILE": files.password,
    }
    encrypted = certificate(files.encrypted, KAFKA_SSL_KEY_PASSWORD_FILE=files.key_password)
    quiet: Changes = {"HTTP_PORT": None, "LOG_FORMAT": None}
    listing = guarded.command("tandem", "topics", "list", "--json")
    logins = guarded.service(listing, "", principal="operator", **unchecked, **quiet)
    certificates = guarded.service(listing, "", protocol="SSL", principal="operator", **encrypted, **quiet)
    assert logins.wait(60) == 0, logins.lines()
    assert certificates.wait(60) == 0, certificates.lines()


@pytest.mark.parametrize("arguments", [["services.processor", "--print-config"], ["tandem", "config"]])
def test_the_configuration_is_shown_without_its_secrets(
    guarded: Guarded, files: Files, arguments: list[str]
) -> None:
    module, *rest = arguments
    command = guarded.command(module, *rest)
    settings: Changes = {"KAFKA_SSL_KEY_PASSWORD_FILE": files.key_password, "HTTP_PORT": None}
    shown = guarded.service(command, "", principal="processor", LOG_FORMAT=None, **settings)
    assert shown.wait(60) == 0
    text = "\n".join(shown.lines())
    assert "KAFKA_SASL_PASSWORD" in text
    assert "KAFKA_SSL_KEY_PASSWORD" in text
    assert str(files.key_password) in text
    assert PASSWORD not in text
    assert KEY_PASSWORD not in text


def test_a_console_that_is_refused_says_why_and_who_it_is(guarded: Guarded, prefix: str) -> None:
    guarded.make_topics(prefix)
    quiet: Changes = {"HTTP_PORT": None, "LOG_FORMAT": None}
    command = guarded.command("tandem", "topics", "create", "--partitions", "2")
    run = guarded.service(command, f"{prefix}new.", principal="stranger", **quiet)
    assert run.wait(60) == 1
    [line] = run.lines()
    assert f"Create on topic {prefix}new." in line
    assert "User:stranger" in line
