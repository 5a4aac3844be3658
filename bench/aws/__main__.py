"""`python -m bench.aws`: counts what single tasks and fan-outs use of AWS, on the emulator, and what that costs.

Everything runs as on AWS, but the functions run in this process, each call of theirs through a meter: table, stream,
queue, state machine, topic and bucket are the emulator's. Units are counted by item size, indexes included; the
emulator's own figures are not used. Nothing here measures time.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.aws.meter import Bill, Meter
from bench.scale import prices
from taskloom import StepFunctionTaskEvent, TaskEntity, TaskKey, TaskModule, TaskQueueEvent, TaskStatus
from taskloom.aws.backend import aws_backend
from taskloom.aws.clients import Clients
from taskloom.aws.sizes import item_bytes
from taskloom.aws.state_machine import input_text
from taskloom.events.registry import Registry, TypePolicy
from taskloom.ids import RandomIds
from taskloom.policy import MAX_CHUNKS, chunk_count, fan_out_plan
from taskloom.ports import ExecutionInput
from tests.aws.emulator import REGION, running
from tests.aws.flow.pump import Pump, pumped_stack, wait_scale
from tests.aws.moving_clock import MovingClock
from tests.aws.stack import Stack

SIZES: Final = (10, 100, 1_000, 10_000)
SINGLES: Final = 20
TENANT: Final = "bench"
VALUE: Final = "x" * 90
"""With its key an input or a result of about 100 bytes."""
LARGEST: Final = 1_000_000

PRICES: Final = {
    "sqs.send_message": prices.SQS_REQUEST,
    "sqs.send_message_batch": prices.SQS_REQUEST,
    "sns.publish_batch": prices.SNS_PUBLISH,
    "s3.put_object": prices.S3_PUT,
    "s3.upload_part": prices.S3_PUT,
    "s3.create_multipart_upload": prices.S3_PUT,
    "s3.complete_multipart_upload": prices.S3_PUT,
    "s3.get_object": prices.S3_GET,
}
"""Of calls that are priced one by one; those of DynamoDB are by their units."""


@dataclass(frozen=True)
class Row:
    """What was used for so many tasks."""

    title: str
    count: int
    bill: Bill
    transitions: int
    invocations: int
    parent_bytes: int | None = None

    @property
    def dollars(self) -> float:
        """At list price, without the time of functions."""
        calls = sum(PRICES.get(name, 0.0) * count for name, count in self.bill.calls.items())
        return (
            calls
            + self.bill.write_units * prices.WRITE_UNIT
            + self.bill.read_units * prices.READ_UNIT
            + self.transitions * prices.TRANSITION
            + self.invocations * prices.LAMBDA_REQUEST
        )


class Bench:
    """One stack, one application."""

    def __init__(self, stack: Stack, clock: MovingClock, clients: Clients) -> None:
        self.meter = Meter(clients)
        calls, events = pumped_stack(stack)
        backend = aws_backend(stack.settings, clock, RandomIds(), self.meter, poll=0)
        self.module = TaskModule(stack.settings, backend, Registry(default_policy=TypePolicy(retry=None)))

        @self.module.task("single")
        async def single(event: TaskQueueEvent) -> dict[str, str]:
            return {"result": event.task.input["input"]}

        @self.module.step_function_task("many")
        async def many(event: StepFunctionTaskEvent) -> dict[str, str]:
            return {"result": event.input.input["input"]}

        self._stack = stack
        self._pump = Pump(stack, self.module, clock, calls, events)

    def singles(self, count: int) -> Row:
        """*count* single tasks, from their creation to the end."""
        service = self.module.sync.task_service
        self._pump.events.clear()
        self.meter.taken()
        keys = [
            service.create_task(tenant_code=TENANT, task_type="single", input={"input": VALUE}).key
            for _ in range(count)
        ]
        self._pump.settle()
        bill = self.meter.taken()
        for key in keys:
            _check(service.get_task(key))
        return Row("single tasks", count, bill, 0, len(self._pump.events))

    def fan_out(self, count: int) -> Row:
        """A fan-out of *count*, from its creation to the end."""
        service = self.module.sync.task_service
        self._pump.events.clear()
        self.meter.taken()
        made = service.create_step_function_task(
            tenant_code=TENANT, task_type="many", input=({"input": VALUE} for _ in range(count))
        )
        self._pump.settle()
        bill = self.meter.taken()
        task = _check(service.get_task(made.key))
        assert task.attributes.sub_task_succeed_count == count, task.attributes
        chunks = chunk_count(count, fan_out_plan(count).chunk_size)
        # Of a child its start and its one state; Map, Collect, the two choices and Finalize of the machine.
        transitions = 2 * chunks + 6
        return Row(f"fan-out of {count:,}", count, bill, transitions, len(self._pump.events), self._bytes(made.key))

    def _bytes(self, key: TaskKey) -> int:
        answer = self._stack.send(
            "dynamodb",
            "get_item",
            TableName=self._stack.settings.table_name,
            Key={"pk": {"S": key.pk}, "sk": {"S": key.sk}},
        )
        return item_bytes(answer["Item"])


def _check(task: TaskEntity[Any]) -> TaskEntity[Any]:
    assert task.status is TaskStatus.COMPLETED, (task.id, task.status, task.error)
    return task


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.aws", description=__doc__)
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="the largest fan-out that is run (10,000)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clock"
        clock = MovingClock(path)
        moving = Path(__file__).parents[2] / "tests" / "aws" / "moving"
        with running(PYTHONPATH=str(moving), MOVED_CLOCK=str(path)) as emulator:
            wait_scale(emulator, 0)
            os.environ.update(
                AWS_ENDPOINT_URL=emulator.endpoint,
                AWS_DEFAULT_REGION=REGION,
                AWS_ACCESS_KEY_ID="test",
                AWS_SECRET_ACCESS_KEY="test",
            )
            clients = Clients(emulator.arguments)
            bench = Bench(Stack(clients), clock, clients)
            rows = [_said(bench.singles(SINGLES))]
            rows += [_said(bench.fan_out(size)) for size in SIZES if size <= chosen.largest]
            bench.module.close()
            clients.close()
    print(_table(rows))
    print(f"\nlist prices of {prices.AS_OF}; the time of the functions is not in them")
    print(f"state input at {LARGEST:,} sub-tasks: {_state_input():,} bytes of 262,144")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps([_figures(row) for row in rows], indent=1) + "\n", "utf-8")
    return 0


def _said(row: Row) -> Row:
    print(f"{row.title}: {row.bill}", file=sys.stderr, flush=True)
    return row


def _state_input() -> int:
    chunks = chunk_count(LARGEST, fan_out_plan(LARGEST).chunk_size)
    assert chunks <= MAX_CHUNKS
    key = TaskKey.step_function("t" * 64, "y" * 128, "01JTZ4G2M6A8T1C5E9HJ3K7NQW")
    return len(input_text(ExecutionInput(key=key, run=1, chunks=chunks, at_once=1000)).encode())


def _figures(row: Row) -> dict[str, Any]:
    count = row.count
    sums: Counter[str] = Counter()
    for name, calls in row.bill.calls.items():
        sums[name.partition(".")[0]] += calls
    return {
        "title": row.title,
        "count": count,
        "table_writes": row.bill.table_writes / count,
        "write_units": row.bill.write_units / count,
        "read_units": row.bill.read_units / count,
        "calls": {name: calls / count for name, calls in sums.items()},
        "sqs_sends": sum(n for name, n in row.bill.calls.items() if name.startswith("sqs.send")) / count,
        "sns_publishes": sum(n for name, n in row.bill.calls.items() if name.startswith("sns.")) / count,
        "invocations": row.invocations / count,
        "parent_bytes": row.parent_bytes,
        "dollars_per_million": row.dollars / count * 1_000_000,
    }


def _table(rows: Sequence[Row]) -> str:
    head = (
        "| what, per task or sub-task | table writes | write units | read units | SQS sends | SNS publishes | "
        "invocations | row of the parent | dollars per million |\n|---|---|---|---|---|---|---|---|---|"
    )
    lines = [head]
    for row in rows:
        figures = _figures(row)
        parent = "" if row.parent_bytes is None else f"{row.parent_bytes:,} B"
        lines.append(
            f"| {row.title} | {figures['table_writes']:.2f} | {figures['write_units']:.2f} | "
            f"{figures['read_units']:.3f} | {figures['sqs_sends']:.3g} | {figures['sns_publishes']:.3g} | "
            f"{figures['invocations']:.3g} | {parent} | {figures['dollars_per_million']:,.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
