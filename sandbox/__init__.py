"""A real Apache Kafka on this machine from packages alone: no Docker, no Java of the system's own.

    with Sandbox() as kafka:
        client = make_client(kafka.bootstrap_servers)

For the demo, the tests and the benchmarks; nothing that runs in production imports it.
"""

from sandbox.broker import Broker
from sandbox.cluster import Sandbox
from sandbox.errors import SandboxError

__all__ = ["Broker", "Sandbox", "SandboxError"]
