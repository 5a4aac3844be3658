"""Stands for Lambda: hands over what the emulator's services have for a function, and does what they expect then.

The functions run in this process. So a test may break one, deliver things twice or late, and move the clock; the
emulator's own Lambda gets stream failures wrong. The state machine's calls come through a queue with a task token, and
everything else of its definition is the package's.
"""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from taskloom import TaskModule
from taskloom.aws.state_machine import definition
from taskloom.errors import StoreError
from taskloom.record import parse_time
from tests.aws.emulator import Emulator
from tests.aws.moving_clock import MovingClock
from tests.aws.stack import FUNCTION, Stack, TableStream

TIMEOUT: Final = timedelta(seconds=60)
"""How long an invocation may take."""
MAX_ROUNDS: Final = 5000
"""After so many looks something is wrong."""


class Crash(BaseException):
    """Raised in a function: its process dies there and then."""


class Context:
    """Of one invocation."""

    def __init__(self, clock: MovingClock, number: int, timeout: timedelta = TIMEOUT) -> None:
        self._clock = clock
        self._until = clock.now() + timeout
        self.aws_request_id = f"request-{number}"

    def get_remaining_time_in_millis(self) -> int:
        return max(0, (self._until - self._clock.now()) // timedelta(milliseconds=1))


class Pump:
    """Runs the functions of one stack."""

    def __init__(self, stack: Stack, module: TaskModule, clock: MovingClock, calls_url: str, events_url: str) -> None:
        self._stack = stack
        self._clock = clock
        self._stream = TableStream(stack)
        self._urls = {"calls": calls_url, "events": events_url, "dead": stack.dead_queue_url}
        self._pending: list[dict[str, Any]] = []
        self._numbers = 0
        self.module = module
        self.copies = 1
        """How often everything is delivered."""
        self.events: list[tuple[Any, Any]] = []
        """What the functions were called with, and what they answered or raised."""
        self.before: Callable[[Any], None] = lambda event: None
        """Called before each invocation; may raise, and the invocation fails."""
        self.timeout = TIMEOUT
        self.mortal: Callable[[Any], bool] = lambda event: False
        """Which events are handled in a process of their own, which may die."""
        self.waits_pass = True
        """Whether the time of the state machine's waits passes at once."""

    def settle(self) -> None:
        """Until nothing is on its way any more that is due now."""
        for _ in range(MAX_ROUNDS):
            if not self.round() and not self._runs():
                return
        raise AssertionError("the functions are called again and again")

    def round(self) -> bool:
        """One look everywhere; whether there was something."""
        return any([self._records(), self._messages(), self._calls(), self._broken_off(), self._dead()])

    def schedule(self) -> None:
        """What the stack's rule sends once a minute."""
        self.invoke({"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}})

    def invoke(self, event: Any) -> Any:
        """What a function makes of *event*; with `copies`, of the last copy."""
        answer: Any = None
        for _ in range(self.copies):
            self._numbers += 1
            try:
                self.before(event)
                context = Context(self._clock, self._numbers, self.timeout)
                call = self._in_a_process_of_its_own if self.mortal(event) else self._here
                answer = call(json.loads(json.dumps(event)), context)
            except BaseException as error:
                self.events.append((event, error))
                raise
            self.events.append((event, answer))
        return answer

    def _here(self, event: Any, context: Context) -> Any:
        return json.loads(json.dumps(self.module.lambda_handler(event, context)))  # as it goes over the wire

    def _in_a_process_of_its_own(self, event: Any, context: Context) -> Any:
        """The same in a process that may end with `os._exit`."""
        read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads of the parent do not live on in it
            child = os.fork()
        if not child:
            code = 1
            try:
                os.close(read)
                os.write(write, json.dumps(self._here(event, context)).encode())
                code = 0
            finally:
                os._exit(code)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            text = pipe.read()
        _, status = os.waitpid(child, 0)
        if status:
            raise Crash(f"the process ended with {os.waitstatus_to_exitcode(status)}")
        return json.loads(text)

    def _records(self) -> bool:
        """A batch of the stream: what fails is delivered again, and what is behind it."""
        records = self._pending + self._stream.records()
        self._pending = []
        if not records:
            return False
        try:
            answer = self.invoke({"Records": records})
        except (Crash, StoreError):
            self._pending = records
            return True
        failed = {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}
        places = [n for n, record in enumerate(records) if record["dynamodb"]["SequenceNumber"] in failed]
        self._pending = records[min(places) :] if places else []
        return True

    def _messages(self) -> bool:
        url = self._stack.settings.task_queue_url or ""
        message = self._receive(url, int((self.timeout + timedelta(seconds=30)).total_seconds()))
        if message is None:
            return False
        event = {"Records": [self._sqs_record(message, url)]}
        try:
            failed = self.invoke(event)["batchItemFailures"]
        except (Crash, StoreError):
            return True  # the message comes again when its visibility ends
        if not failed:
            self._stack.send("sqs", "delete_message", QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return True

    def _dead(self) -> bool:
        url = self._urls["dead"]
        message = self._receive(url, 90)
        if message is None:
            return False
        if not self.invoke({"Records": [self._sqs_record(message, url)]})["batchItemFailures"]:
            self._stack.send("sqs", "delete_message", QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return True

    def _calls(self) -> bool:
        """A task of the state machine."""
        message = self._receive(self._urls["calls"], 3600)
        if message is None:
            return False
        call = json.loads(message["Body"])
        self._stack.send("sqs", "delete_message", QueueUrl=self._urls["calls"], ReceiptHandle=message["ReceiptHandle"])
        try:
            answer = self.invoke(call["Payload"])
        except (Crash, Exception) as error:  # noqa: BLE001 - Step Functions is told of whatever it was
            name = "Lambda.Unknown" if isinstance(error, Crash) else type(error).__name__
            self._stack.send("stepfunctions", "send_task_failure", taskToken=call["TaskToken"], error=name, cause="")
            return True
        self._wait(answer)
        output = json.dumps({"Payload": answer})
        self._stack.send("stepfunctions", "send_task_success", taskToken=call["TaskToken"], output=output)
        return True

    def _wait(self, answer: Any) -> None:
        """The emulator's waits take no time, so the time of this one passes here."""
        until = answer.get("until") if isinstance(answer, Mapping) else None
        if self.waits_pass and until is not None and parse_time(until) > self._clock.now():
            self._clock.advance((parse_time(until) - self._clock.now()).total_seconds())

    def _broken_off(self) -> bool:
        message = self._receive(self._urls["events"], 90)
        if message is None:
            return False
        try:
            self.invoke(json.loads(message["Body"]))
        except (Crash, StoreError):
            return True
        self._stack.send("sqs", "delete_message", QueueUrl=self._urls["events"], ReceiptHandle=message["ReceiptHandle"])
        return True

    def _runs(self) -> bool:
        arn = self._stack.settings.state_machine_arn
        found = self._stack.send("stepfunctions", "list_executions", stateMachineArn=arn, statusFilter="RUNNING")
        return bool(found["executions"])

    def _receive(self, url: str, visibility: int) -> Mapping[str, Any] | None:
        answer = self._stack.send(
            "sqs",
            "receive_message",
            QueueUrl=url,
            MaxNumberOfMessages=1,
            VisibilityTimeout=visibility,
            WaitTimeSeconds=0,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        found: list[Mapping[str, Any]] = answer.get("Messages", [])
        return found[0] if found else None

    def _sqs_record(self, message: Mapping[str, Any], url: str) -> dict[str, Any]:
        """As Lambda hands it over (source: AWS Lambda developer guide, "Using Lambda with Amazon SQS")."""
        attributes = {
            name: {"stringValue": value["StringValue"], "dataType": value["DataType"]}
            for name, value in message.get("MessageAttributes", {}).items()
        }
        return {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message["Attributes"],
            "messageAttributes": attributes,
            "eventSource": "aws:sqs",
            "eventSourceARN": self._stack.arn_of(url),
            "awsRegion": "eu-central-1",
        }


MakePump = Callable[..., Pump]


def queued(machine: str, queue_url: str) -> str:
    """The definition *machine*, but its function is called through a queue."""

    def replaced(node: Any) -> Any:
        if isinstance(node, list):
            return [replaced(item) for item in node]
        if not isinstance(node, dict):
            return node
        if node.get("Resource") == "arn:aws:states:::lambda:invoke":
            payload = {name: value for name, value in node["Parameters"].items() if name.startswith("Payload")}
            body = {**payload, "TaskToken.$": "$$.Task.Token"}
            kept = {name: value for name, value in node.items() if name not in ("Resource", "Parameters", "Retry")}
            return {
                **kept,
                "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
                "Parameters": {"QueueUrl": queue_url, "MessageBody": body},
                "Retry": node["Retry"],
            }
        return {name: replaced(value) for name, value in node.items()}

    return json.dumps(replaced(json.loads(machine)))


def wait_scale(emulator: Emulator, scale: float) -> None:
    """How long the waits of executions take, as a part of what they should."""
    emulator.post("/_ministack/config", json.dumps({"stepfunctions._SFN_WAIT_SCALE": scale}).encode())


def pumped_stack(stack: Stack) -> tuple[str, str]:
    """The URLs of the queues for calls of functions and for ends of executions; *stack* is changed to use them."""
    calls, events = stack.queue("calls"), stack.queue("events")
    arn = stack.settings.state_machine_arn
    stack.send(
        "stepfunctions", "update_state_machine", stateMachineArn=arn, definition=queued(definition(FUNCTION), calls)
    )
    pattern = {
        "source": ["aws.states"],
        "detail-type": ["Step Functions Execution Status Change"],
        "detail": {"status": ["FAILED", "TIMED_OUT", "ABORTED"], "stateMachineArn": [arn]},
    }
    stack.send("events", "put_rule", Name=stack.name, EventPattern=json.dumps(pattern))
    stack.send("events", "put_targets", Rule=stack.name, Targets=[{"Id": "1", "Arn": stack.arn_of(events)}])
    return calls, events


@contextmanager
def notices(stack: Stack) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Gives what was published to the topics since the last look."""

    def look() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        url = stack.notification_queue_url
        while messages := stack.send("sqs", "receive_message", QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                found.append(json.loads(message["Body"]))
                stack.send("sqs", "delete_message", QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return found

    yield look
