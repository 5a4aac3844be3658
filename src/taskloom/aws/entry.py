"""The Lambda entry: one function for every event that the stack sends.

Stream of the table → dispatch. Task queue → run tasks, start fan-outs. State machine → its steps. EventBridge → finish
fan-outs whose execution broke off, and look after what was lost. Nothing here is imported for a web server.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from taskloom import lifecycle
from taskloom.aws import steps
from taskloom.aws.backend import AwsBackend
from taskloom.aws.dispatching import Dispatching
from taskloom.aws.invocation import Invocation, Pauses
from taskloom.aws.notifier import SnsPublisher
from taskloom.aws.queue import LONGEST_WAIT, PAUSED_FOR, TASK_DISPATCH, SqsSender, delivery_from, serves, wait_for
from taskloom.aws.statuses import alarm_message, status_message
from taskloom.aws.telemetry import Telemetry, facts
from taskloom.errors import InvalidInput, StoreError, WiringError
from taskloom.events import shapes
from taskloom.events.registry import Registry
from taskloom.execution import capture
from taskloom.execution.loop_thread import LoopThread
from taskloom.execution.threads import HandlerThreads
from taskloom.execution.writes import patiently, write
from taskloom.lifecycle import Claimant
from taskloom.model import Failure, Kind, TaskEntity, TaskKey, TaskStatus
from taskloom.ports import Backend, Delivery
from taskloom.settings import Settings
from taskloom.values import Json

DEAD_LETTERS: Final = "dead-letter-queue"
"""How the names of dead-letter queues end."""
NOT_SERVED_FOR: Final = timedelta(minutes=1)
"""How long a message waits for a function with a handler: one that creates tasks may be deployed before it."""
BROKEN_OFF: Final = frozenset({"FAILED", "TIMED_OUT", "ABORTED"})
RECONCILE: Final = "reconcile"

log = logging.getLogger(__name__)


class LambdaContext(Protocol):
    """What is used of the context object that Lambda hands over."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int:
        """Until Lambda ends the invocation."""


class LambdaEntry:
    """Called by Lambda with an event and a context; keeps clients, threads and the event loop for the next one."""

    def __init__(self, backend: AwsBackend, registry: Registry, settings: Settings, *, log_level: int) -> None:
        if not registry.serves_anything:
            raise WiringError(
                "this module runs no task: give it a task_queue_event_factory, or functions decorated with "
                "module.task or module.step_function_task"
            )
        self._backend = backend
        self._registry = registry
        self._settings = settings
        self._log_level = log_level
        self._clients = clients = backend.clients
        self._queue_url = settings.task_queue_url or ""
        worker_queue = settings.worker_queue_url
        self._dispatching = Dispatching(
            registry,
            SqsSender(clients, self._queue_url),
            None if worker_queue is None else SqsSender(clients, worker_queue),
            backend.bury,
        )
        self._topic = None if settings.topic_arn is None else SnsPublisher(clients, settings.topic_arn)
        alarms = settings.alarm_topic_arn
        self._alarms = None if alarms is None else SnsPublisher(clients, alarms)
        self._pauses = Pauses(backend)
        self._threads = HandlerThreads("taskloom-handler")
        self._loop = LoopThread("taskloom-lambda")
        self._telemetry: Telemetry | None = None

    def __call__(self, event: Mapping[str, Any], context: LambdaContext) -> Any:
        """What the event source expects: failed items of a batch, or the answer of a step.

        Raises: InvalidInput for an event that is none of the stack's; StoreError where the source repeats the whole.
        """
        if self._telemetry is None:  # the first invocation of this process
            self._telemetry = Telemetry()
            capture.begin()
        return self._loop.submit(self._handle(event, context, self._telemetry)).result()

    def close(self) -> None:
        """End the event loop; nothing is called after that."""
        if self._telemetry is not None:
            self._telemetry = None
            capture.end()
        self._loop.close()

    async def _handle(self, event: Mapping[str, Any], context: LambdaContext, telemetry: Telemetry) -> Any:
        clock = self._backend.clock
        invocation = Invocation(
            self._backend,
            self._registry,
            until=clock.now() + timedelta(milliseconds=context.get_remaining_time_in_millis()),
            request=context.aws_request_id,
            log_level=self._log_level,
            threads=self._threads,
        )
        async with invocation:
            match source_of(event):
                case "aws:dynamodb":
                    with telemetry.span("dispatch"):
                        failed = await self._dispatching.dispatch(event["Records"], invocation)
                    telemetry.count("RecordsFailed", len(failed))
                    return _failures(failed)
                case "aws:sqs":
                    return await self._messages(event["Records"], invocation, telemetry)
                case "step":
                    with telemetry.span(str(event["step"])):
                        return await self._step(event, invocation, telemetry)
                case "execution":
                    return await self._broken_off(event["detail"], invocation)
                case "schedule":
                    return await _look_after(invocation)
                case _:
                    raise InvalidInput(
                        "event",
                        f"has the keys {sorted(map(str, event))}, which no event of the stack has"
                        if isinstance(event, Mapping)
                        else f"{event!r:.200} is no object",
                        "let only the sources of the stack call this function",
                    )

    # --- the task queue ------------------------------------------------------------------------------------------

    async def _messages(
        self, records: Sequence[Mapping[str, Any]], invocation: Invocation, telemetry: Telemetry
    ) -> dict[str, Json]:
        """One after the other; those that are to come again are named."""
        again: list[str] = []
        for record in records:
            try:
                done = await self._message(record, invocation, telemetry)
            except InvalidInput:
                log.exception("a message is no task message; it goes to the dead letters", extra=facts(record))
                done = False
            except StoreError as error:
                received = int(record.get("attributes", {}).get("ApproximateReceiveCount", 1))
                log.warning("the storage fails; the message comes again", extra=facts(record) | {"error": str(error)})
                done = await self._later(record, invocation, invocation.postponed(received))
            if not done:
                again.append(shapes.member(record, "messageId"))
        return _failures(again)

    async def _message(self, record: Mapping[str, Any], invocation: Invocation, telemetry: Telemetry) -> bool:
        """Whether the message of *record* is done with. Raises: InvalidInput, StoreError."""
        received = int(record.get("attributes", {}).get("ApproximateReceiveCount", 1))
        body = shapes.body_of(record, shapes.TASK_EXECUTE, TASK_DISPATCH)
        handle = shapes.member(record, "receiptHandle")
        delivery = delivery_from(body, message_id=record["messageId"], handle=handle, received=received)
        if _is_dead(record):
            return await self._bury(record, delivery, invocation)
        if not serves(self._registry.served(None), delivery):
            log.warning("no handler here takes the task; its message waits for one", extra={"task": delivery.key.id})
            return await self._later(record, invocation, self._backend.clock.now() + NOT_SERVED_FOR)
        if await self._pauses.hold(delivery):
            return await self._later(record, invocation, self._backend.clock.now() + PAUSED_FOR)
        if body["action"] == TASK_DISPATCH:
            try:
                if not await self._dispatching.is_wanted(body, invocation):
                    return True
            except StoreError:
                raise
            except Exception as error:  # noqa: BLE001 - the application's factory may raise anything
                if await self._dispatching.fails(body, received + 1, error, invocation):
                    return True
                return await self._later(record, invocation, invocation.postponed(received + 3))
        with telemetry.span(delivery.task_type):
            if delivery.task_kind is Kind.SFN_TASK:
                again_at, ended = await invocation.fan_outs.start(delivery), True
            else:
                again_at, change = await invocation.run(delivery)
                ended = change is not None
                if change is not None:
                    status = str(change.patch["status"])
                    telemetry.count("AttemptsEnded", type=delivery.task_type, status=status)
        if again_at is not None:
            return await self._later(record, invocation, again_at)
        if ended:
            await self._tell(delivery.key)  # before the message is gone: at least once
        return True

    async def _later(self, record: Mapping[str, Any], invocation: Invocation, at: datetime) -> bool:
        """Have the message come again at *at*; True when the wait is too long for it, and the table knows of it."""
        wait = at - invocation.backend.clock.now()
        if wait > LONGEST_WAIT:
            return True
        seconds = -(-wait // timedelta(seconds=1))  # not before it
        try:
            await wait_for(self._clients, self._queue_url, record["receiptHandle"], seconds)
        except StoreError as error:  # then it comes when its visibility ends
            log.warning("a message could not be put off", extra=facts(record) | {"error": str(error)})
        return False

    async def _bury(self, record: Mapping[str, Any], delivery: Delivery, invocation: Invocation) -> bool:
        """The message was delivered too often: nobody will ever run its task."""
        why = "its message was delivered too often without being done with"
        if not serves(self._registry.served(None), delivery):
            why = f"for too long no function has had a handler for the task type {delivery.task_type!r}"
        task = await self._backend.store.get(delivery.key)
        if task is None or task.is_terminal:
            return True
        log.error("a task ends because of its message", extra={"task": task.id} | facts(record))
        failure = Failure(type="DeadLetter", message=why, attempt=task.attempt)
        now, claim_id = self._backend.clock.now(), self._backend.ids.token()
        if task.status is TaskStatus.PENDING:
            change = lifecycle.rejected(task, failure, now=now, by=invocation.by, claim_id=claim_id)
        else:
            who = Claimant(by=invocation.by, claim_id=claim_id, now=now, lease=timedelta(), max_lost=0)
            decision = lifecycle.claim(task.key, task, task.kind, who)
            if isinstance(decision, lifecycle.Come):
                return False  # somebody runs it; the message comes again
            if not isinstance(decision, lifecycle.Change):
                return True  # a fan-out that its execution owns (rule 3)
            change = decision
        await write(self._backend, change)
        await self._tell(delivery.key)
        return True

    # --- the state machine ---------------------------------------------------------------------------------------

    async def _step(self, event: Mapping[str, Any], invocation: Invocation, telemetry: Telemetry) -> Any:
        match event["step"]:
            case steps.CHUNK:
                return await steps.chunk(event, invocation)
            case steps.COLLECT:
                return await steps.collect(event["state"], invocation)
            case steps.FINALIZE:
                state = await steps.finalize(event["state"], invocation)
                if not state:
                    key = steps.key_of(event)
                    telemetry.count("FanOutsEnded", type=key.parts.task_type)
                    await self._tell(key)
                return state
            case other if other == RECONCILE:
                return await _look_after(invocation)
            case other:
                raise InvalidInput("event.step", f"{other!r} is not known", "use the definition of the package")

    async def _broken_off(self, detail: Mapping[str, Any], invocation: Invocation) -> None:
        """An execution ended without having ended its fan-out."""
        arn, status = str(detail.get("executionArn", "")), detail.get("status")
        if detail.get("stateMachineArn") != self._settings.state_machine_arn or status not in BROKEN_OFF:
            log.debug("an execution of somebody else ended", extra={"execution": arn})
            return
        execution = await self._backend.machine.describe(arn)
        if execution is None or execution.input is None:
            log.warning("an execution ended that is not known", extra={"execution": arn})
            return
        key = execution.input.key
        parent = await self._backend.store.get(key)
        if parent is None or parent.is_terminal or parent.run != execution.input.run:
            return
        await invocation.fan_outs.ended(parent, execution)
        await self._tell(key)

    # --- what everybody is told ----------------------------------------------------------------------------------

    async def _tell(self, key: TaskKey) -> None:
        """Publish how the task ended, if it has. Raises: StoreError."""
        if self._topic is None and self._alarms is None:
            return
        task: TaskEntity[Any] | None = await self._backend.store.get(key)
        if task is None or not task.is_terminal:
            return
        topic, alarms = self._topic, self._alarms
        if topic is not None:
            message = status_message(task)
            await patiently(self._backend.clock, lambda: topic.publish([message]))
        alarm = alarm_message(task)
        if alarms is not None and alarm is not None:
            await patiently(self._backend.clock, lambda: alarms.publish([alarm]))


def entry(backend: Backend, registry: Registry, settings: Settings, *, log_level: int) -> LambdaEntry:
    """The entry of a module whose tasks live on AWS. Raises: WiringError."""
    if not isinstance(backend, AwsBackend):
        raise WiringError(f"{type(backend).__qualname__} is no backend over AWS")
    return LambdaEntry(backend, registry, settings, log_level=log_level)


def source_of(event: object) -> str | None:
    """Which source of the stack sent *event*; None when it was none of them."""
    if not isinstance(event, Mapping):
        return None
    records = event.get("Records")
    if isinstance(records, list) and records and isinstance(records[0], Mapping):
        source = records[0].get("eventSource")
        return source if source in ("aws:dynamodb", "aws:sqs") else None
    if "step" in event:
        return "step"
    match event.get("detail-type"):
        case "Step Functions Execution Status Change" if isinstance(event.get("detail"), Mapping):
            return "execution"
        case "Scheduled Event":
            return "schedule"
    return None


def _failures(ids: Sequence[str]) -> dict[str, Json]:
    """Source: AWS Lambda developer guide, "Reporting batch item failures", for streams and for queues."""
    return {"batchItemFailures": [{"itemIdentifier": id_} for id_ in ids]}


def _is_dead(record: Mapping[str, Any]) -> bool:
    arn = str(record.get("eventSourceARN", ""))
    return arn.endswith(DEAD_LETTERS) or "DeadLetterQueueSourceArn" in record.get("attributes", {})


async def _look_after(invocation: Invocation) -> None:
    while await invocation.deadlines.end_overdue():
        pass
    await invocation.reconciler.look()
