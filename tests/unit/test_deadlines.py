"""No await on Kafka without a deadline: the sources are read, not run.

What is looked for: calls of the client's methods by name, also where such a method is only handed on, and
awaits of a future by its name in modules that use the client. Each has to stand in `asyncio.timeout`, in
`asyncio.wait_for` or in an argument of the console's `Connection.ask` in its own function, or to be listed
here with the reason why it is bounded all the same.
"""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("shared", "services/processor", "services/generator", "services/console")

# Methods of the client's consumer, producer, administration client and connections that wait for a broker.
WAITING = {
    *("getone", "getmany", "beginning_offsets", "end_offsets", "offsets_for_times"),
    *("seek_to_beginning", "seek_to_end", "seek_to_committed", "partitions_for", "send_and_wait"),
    *("send_batch", "send_offsets_to_transaction", "begin_transaction", "commit_transaction"),
    *("abort_transaction", "fetch_all_metadata", "force_metadata_update", "bootstrap", "coordinator_lookup"),
    *("describe_topics", "create_topics", "delete_topics", "create_partitions", "list_topics"),
    *("describe_configs", "alter_configs", "describe_cluster", "delete_records"),
    *("describe_consumer_groups", "list_consumer_groups", "list_consumer_group_offsets"),
    *("find_coordinator", "_send_request_to_node", "_maybe_wait_metadata", "_wait_on_metadata"),
    *("wait_for_assignment", "wait_for_transaction_end", "ensure_coordinator_known"),
}
# The same, with names that other things have too: looked for where the object has one of the names below.
WAITING_OF_CLIENTS = {
    *("start", "stop", "close", "send", "commit", "committed", "position", "flush", "topics", "unsubscribe"),
}
CLIENTS = {
    "connections",
    "consumer",
    "_consumer",
    "producer",
    "_producer",
    "admin",
    "_admin",
    "client",
    "_client",
}

_STEP = "a step of `commit` or `claim`, which have a deadline around all of theirs"
_ALL_OF_IT = "`_send_or_abort` has a deadline around it"
# Module, function, what is awaited: why it ends all the same.
BOUNDED = {
    ("shared.connecting", "_start", "start"): "asyncio.wait with a timeout, and cancelled after it",
    ("shared.connecting", "stop_client", "close"): "asyncio.wait with a timeout, and cancelled after it",
    ("shared.connecting", "_cut_off", "close"): "its one caller waits with a timeout and cancels it",
    ("services.console.verifier", "Verification._check_all", "asyncio.gather"): "ours, within verify's time",
    ("services.processor.__main__", "_run_all", "asyncio.gather"): "our own tasks; each stops in its time",
    ("services.processor.delivery.part", "Delivery.run", "asyncio.gather"): "our own; each stops in its time",
    ("services.processor.task_clients", "TaskClients.look_at", "force_metadata_update"): "not awaited",
    ("services.processor.at_least_once", "AtLeastOnce._send_in_order", "send_batch"): _STEP,
    ("services.processor.group_commits", "GroupCommits.commit_all", "commit"): _STEP,
    ("services.processor.group_commits", "GroupCommits.commit_all", "await commit"): _STEP,
    ("services.processor.guarantee", "OneProducer._send", "send_batch"): _STEP,
    ("services.processor.exactly_once", "ExactlyOnce.begin", "begin_transaction"): _STEP,
    ("services.processor.exactly_once", "ExactlyOnce.send_offsets", "send_offsets_to_transaction"): _STEP,
    ("services.processor.exactly_once", "ExactlyOnce.end", "commit_transaction"): _STEP,
    (
        "services.processor.transactional_sender",
        "_WatchedClient.send",
        "send",
    ): "the client's own sender; has a timeout",
    ("services.processor.sending", "acknowledged", "asyncio.gather"): _STEP,
    ("services.processor.sending", "placed", "send_batch"): _STEP,
    ("services.processor.group_commits", "committed_offset", "ensure_coordinator_known"): (
        "the guarantee's deadline"
    ),
    ("services.processor.preflight", "_counts", "describe_topics"): "`describe` has a deadline around it",
    ("services.processor.preflight", "_configs", "describe_configs"): "`describe` has a deadline around it",
    ("services.processor.task", "Task._close", "asyncio.gather"): "`stop_client`, twice; bounded",
    ("services.generator.ledger_writer", "LedgerWriter.write", "await acknowledgement"): (
        "DeliveryBounds ends it while the generator lives, the drain's and the last words' deadlines then"
    ),
    ("services.console.running", "_interruptible", "await task"): "the whole command",
    ("services.console.redriving", "Redriver._send", "begin_transaction"): _ALL_OF_IT,
    ("services.console.redriving", "Redriver._send", "send"): _ALL_OF_IT,
    ("services.console.redriving", "Redriver._send", "asyncio.gather"): _ALL_OF_IT,
    ("services.console.redriving", "Redriver._send", "commit_transaction"): _ALL_OF_IT,
    (
        "services.console.resetting",
        "Reset._send_batch",
        "send_batch",
    ): "`_commit` has a deadline",
    ("services.console.checking", "check", "asyncio.gather"): "`_reach` has a deadline around its connection",
}


@dataclass(frozen=True)
class Wait:
    """An await on Kafka, or what may become one. `what` is the method, or `await NAME`."""

    module: str
    function: str
    what: str
    line: int

    @property
    def key(self) -> tuple[str, str, str]:
        return self.module, self.function, self.what


class Finder(ast.NodeVisitor):
    """Finds what waits for Kafka without a deadline around it in the same function."""

    def __init__(self, module: str, *, uses_the_client: bool) -> None:
        self.found: list[Wait] = []
        self._module = module
        self._uses_the_client = uses_the_client
        self._names: list[str] = []
        self._bounded = [False]

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._names.append(node.name)
        self.generic_visit(node)
        self._names.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._names.append(node.name)
        self._bounded.append(False)  # A deadline around a definition bounds nothing.
        self.generic_visit(node)
        self._bounded.pop()
        self._names.pop()

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        for item in node.items:
            self.visit(item)
        is_deadline = any(_is_call_of(item.context_expr, "asyncio.timeout") for item in node.items)
        self._bounded.append(self._bounded[-1] or is_deadline)
        for statement in node.body:
            self.visit(statement)
        self._bounded.pop()

    def visit_Call(self, node: ast.Call) -> None:
        if _is_bounded_call(node):
            self._bounded.append(True)
            self.generic_visit(node)
            self._bounded.pop()
            return
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name == "getmany" and any(keyword.arg == "timeout_ms" for keyword in node.keywords):
            # The one with a deadline of its own; the rest of the call is looked at all the same.
            for part in ast.iter_child_nodes(node):
                if part is not node.func:
                    self.visit(part)
            return
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
        if node.attr in WAITING or (node.attr in WAITING_OF_CLIENTS and owner in CLIENTS):
            self._find(node.attr, node)
        self.generic_visit(node)

    def visit_Await(self, node: ast.Await) -> None:
        if isinstance(node.value, ast.Name) and self._uses_the_client:
            self._find(f"await {node.value.id}", node)
        if self._uses_the_client and _is_call_of(node.value, "asyncio.gather"):
            self._find("asyncio.gather", node)
        self.generic_visit(node)

    def _find(self, what: str, node: ast.expr) -> None:
        if not self._bounded[-1]:
            self.found.append(Wait(self._module, ".".join(self._names), what, node.lineno))


def _is_call_of(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == name


def _is_bounded_call(node: ast.Call) -> bool:
    name = ast.unparse(node.func)
    if name in (
        "self.ask",
        "self._connection.ask",
        "connection.ask",
    ):  # Connection.ask: one operation's deadline for all of it.
        return any(keyword.arg == "doing" for keyword in node.keywords)
    return name == "asyncio.wait_for" and len(node.args) + len(node.keywords) > 1


def waits_in(source: str, module: str) -> list[Wait]:
    finder = Finder(module, uses_the_client="aiokafka" in source)
    finder.visit(ast.parse(source))
    return finder.found


def all_waits() -> Iterator[Wait]:
    gc.collect()  # Leftovers of other tests that speak while ast.parse works: it fails (CPython gh-106905).
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            module = str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
            yield from waits_in(path.read_text(encoding="utf-8"), module)


def test_every_wait_for_kafka_has_a_deadline() -> None:
    unbounded = [wait for wait in all_waits() if wait.key not in BOUNDED]
    lines = [f"{wait.module}:{wait.line} {wait.function}: {wait.what}" for wait in unbounded]
    assert not lines, "no deadline around:\n" + "\n".join(lines)


def test_every_exception_from_that_is_still_needed() -> None:
    assert BOUNDED.keys() <= {wait.key for wait in all_waits()}


@pytest.mark.parametrize(
    "body",
    [
        "await consumer.committed(place)",
        "await self._consumer.stop()",
        "return await producer.send_batch(batch, topic, partition=0)",
        "await consumer.getmany()",
        "await ask(admin.describe_cluster)",
        "asyncio.ensure_future(client.start())",
        "await acknowledgement",
        "await asyncio.gather(*futures)",
        "await asyncio.wait_for(consumer.committed(place))",
        "async with lock:\n        await consumer.committed(place)",
        "async with asyncio.timeout(1):\n        async def f():\n            await consumer.committed(place)",
        "async with asyncio.timeout(1):\n        pass\n    await consumer.committed(place)",
    ],
)
def test_a_wait_without_a_deadline_is_found(body: str) -> None:
    assert len(waits_in(f"import aiokafka\nasync def function():\n    {body}\n", "module")) == 1


@pytest.mark.parametrize(
    "body",
    [
        "async with asyncio.timeout(1):\n        await consumer.committed(place)",
        "async with asyncio.timeout(1), lock:\n        if True:\n            await acknowledgement",
        "await asyncio.wait_for(client.start(), 1)",
        "await consumer.getmany(timeout_ms=200)",
        "await self._guarantee.commit(transaction)",
        "await self.ask(lambda: consumer.end_offsets(places), doing='look')",
        "return settings.topics",
    ],
)
def test_a_wait_with_a_deadline_is_not_found(body: str) -> None:
    assert waits_in(f"import aiokafka\nasync def function():\n    {body}\n", "module") == []
