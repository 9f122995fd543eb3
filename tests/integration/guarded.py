"""A broker that asks who one is, by SCRAM over TLS or by certificate, and allows only what was granted."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from sandbox import Sandbox
from tests.conftest import create_topics
from tests.integration import grants
from tests.integration.certificates import Authority
from tests.integration.grants import Grant
from tests.verifier import Service, environment

Protocol = Literal["SASL_SSL", "SSL"]
PRINCIPALS = ("generator", "processor", "delivery", "operator", "auditor", "mender", "resetter", "stranger")
PASSWORD = "correct horse battery"
# A refusal is borne not at all; this is what a busy machine takes to start a process and to be refused.
AT_ONCE_SECONDS = 30
_ITERATIONS = 4096


@dataclass
class Guarded:
    """The broker, its users, and the authority that everybody trusts."""

    sandbox: Sandbox
    authority: Authority
    folder: Path
    _started: list[Service] = field(default_factory=list)

    @cached_property
    def admin(self) -> AdminClient:
        """Come in by the side door, where nobody asks."""
        return AdminClient({"bootstrap.servers": self.inside})

    @property
    def inside(self) -> str:
        """The addresses of the side door, for the verifier."""
        return self.sandbox.internal_servers

    def servers(self, protocol: Protocol) -> str:
        """Return the addresses of a listener."""
        return self.sandbox.bootstrap_servers if protocol == "SASL_SSL" else self.sandbox.servers_of("MTLS")

    @cached_property
    def identities(self) -> dict[str, dict[str, object]]:
        """The settings that name each principal's certificate."""
        made = {name: self.authority.client(name) for name in PRINCIPALS}
        return {
            name: {"KAFKA_SSL_CERTFILE": one.certfile, "KAFKA_SSL_KEYFILE": one.keyfile}
            for name, one in made.items()
        }

    def settings(self, protocol: Protocol, principal: str, prefix: str) -> dict[str, object]:
        """Return what a service needs to come in, as the operations guide has it."""
        common: dict[str, object] = {
            "KAFKA_BOOTSTRAP_SERVERS": self.servers(protocol),
            "KAFKA_SECURITY_PROTOCOL": protocol,
            "KAFKA_SSL_CAFILE": self.authority.cafile,
            "KAFKA_TOPIC_PREFIX": prefix,
        }
        if protocol == "SSL":
            return common | self.identities[principal]
        return common | {
            "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "KAFKA_SASL_USERNAME": principal,
            "KAFKA_SASL_PASSWORD": PASSWORD,
        }

    def service(
        self,
        what: str | list[str],
        prefix: str,
        *,
        protocol: Protocol = "SASL_SSL",
        principal: str = "",
        **more: object,
    ) -> Service:
        """Start a service; more settings win, and None takes one away. `end` ends it."""
        name = what.removeprefix("services.") if isinstance(what, str) else "tandem"
        wanted = self.settings(protocol, principal or name, prefix)
        wanted |= {"HTTP_PORT": 0, "LOG_FORMAT": "json", **more}
        variables = environment(**{key: value for key, value in wanted.items() if value is not None})
        service = Service(what, variables, self.folder / f"{name}-{secrets.token_hex(4)}.log")
        self._started.append(service)
        service.start()
        return service

    def tandem(self, prefix: str, principal: str, *arguments: str) -> tuple[int, list[str]]:
        """Run a command to its end as a principal; return its exit code and what it said."""
        run = self.service(
            self.command("tandem", *arguments),
            prefix,
            principal=principal,
            HTTP_PORT=None,
            LOG_FORMAT=None,
            KAFKA_OPERATION_DEADLINE_SECONDS=5,
        )
        return run.wait(60), run.lines()

    @staticmethod
    def command(what: str, *arguments: str) -> list[str]:
        """Return the command line of a module, or of `tandem`."""
        module = "services.console" if what == "tandem" else what
        return [sys.executable, "-m", module, *arguments]

    def make_topics(self, prefix: str, partitions: int = 2) -> None:
        """Create every topic of the pair under a prefix."""
        create_topics(self.admin, prefix, partitions)

    def grant(self, prefix: str, wanted: Iterable[Grant]) -> None:
        """Grant under a prefix."""
        grants.grant(self.admin, [one.under(prefix) for one in wanted])

    def revoke(self, prefix: str, unwanted: Iterable[Grant]) -> None:
        """Take back under a prefix."""
        grants.revoke(self.admin, [one.under(prefix) for one in unwanted])

    def end_services(self) -> None:
        """Kill what still runs."""
        while self._started:
            self._started.pop().end()


@contextmanager
def guarded_broker(folder: Path) -> Iterator[Guarded]:
    """Run such a broker, with a user and a certificate for each of `PRINCIPALS`."""
    authority = Authority(folder / "certificates")
    # The name in it is the address alone: `localhost` is somebody else.
    chain, key = authority.server("127.0.0.1")
    tls = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.certificate.chain": chain,
        "ssl.keystore.key": key,
    }
    mutual = {
        "ssl.client.auth": "required",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.certificates": authority.certificate,
        "ssl.principal.mapping.rules": "RULE:^CN=([^,]+),.*$/$1/,DEFAULT",
    }
    login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "allow.everyone.if.no.acl.found": "false",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.client.scram-sha-512.sasl.jaas.config": login,
        **{f"listener.name.client.{name}": value for name, value in tls.items()},
        **{f"listener.name.mtls.{name}": value for name, value in (tls | mutual).items()},
    }
    with Sandbox(
        security_protocol="SASL_SSL", more_listeners={"MTLS": "SSL"}, properties=properties
    ) as sandbox:
        guarded = Guarded(sandbox, authority, folder)
        _make_users(guarded.admin)
        try:
            yield guarded
        finally:
            guarded.end_services()


def _make_users(admin: AdminClient) -> None:
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, _ITERATIONS)
    users = [UserScramCredentialUpsertion(name, info, PASSWORD.encode()) for name in PRINCIPALS]
    for done in admin.alter_user_scram_credentials(users).values():
        done.result(30)


def last_words(service: Service, *, code: int, seconds: float = AT_ONCE_SECONDS) -> dict[str, Any]:
    """Return the last line of a service that is to end with `code`: its only error, without a secret."""
    assert service.wait(seconds) == code, service.lines()[-1]
    text = service.lines()
    assert PASSWORD not in "\n".join(text)
    lines: list[dict[str, Any]] = [json.loads(line) for line in text]
    errors = [line for line in lines if line["level"] in ("error", "critical")]
    assert errors == [lines[-1]], errors
    assert (lines[-1]["event"], lines[-1]["exit_code"]) == ("stopped", code)
    return lines[-1]
