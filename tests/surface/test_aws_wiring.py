"""What a module says before AWS is ever called."""

import asyncio
from typing import Any

import pytest

from taskloom import Settings, TaskModule, TaskQueueEvent, Webhook
from taskloom.errors import InvalidInput, WiringError
from tests.surface.running import MakeModule

NAMES: dict[str, Any] = {
    "table_name": "tasks",
    "task_queue_url": "https://sqs.eu-central-1.amazonaws.com/123456789012/task-action-queue",
    "state_machine_arn": "arn:aws:states:eu-central-1:123456789012:stateMachine:sfn-task",
    "payload_bucket": "payloads",
}


async def nothing(event: TaskQueueEvent) -> None: ...


@pytest.mark.parametrize("missing", NAMES)
def test_a_missing_name_is_said_at_once(missing: str) -> None:
    with pytest.raises(InvalidInput, match=f"TASKLOOM_{missing.upper()}") as refused:
        TaskModule.register(settings=Settings(backend="aws", **{**NAMES, missing: None}))
    assert refused.value.field == missing


def test_what_is_no_state_machine_is_refused() -> None:
    with pytest.raises(InvalidInput, match="state_machine_arn"):
        TaskModule.register(settings=Settings(backend="aws", **{**NAMES, "state_machine_arn": "sfn-task"}))


def test_the_handler_is_one_object() -> None:
    """Lambda finds it once, and keeps it; decorators may follow."""
    module = TaskModule.register(settings=Settings(backend="aws", **NAMES))
    with pytest.raises(WiringError, match="runs no task"):
        _ = module.lambda_handler
    module.task("cat")(nothing)
    assert module.lambda_handler is module.lambda_handler
    module.close()


def test_embedded_tasks_have_no_lambda_handler(make_module: MakeModule) -> None:
    module = make_module()
    module.task("cat")(nothing)
    with pytest.raises(WiringError, match="backend='aws'"):
        _ = module.lambda_handler


def test_webhooks_are_refused_with_what_to_do_instead() -> None:
    """Nothing would ever post to them."""
    hook = Webhook("https://example.com/hook", secret="0123456789abcdef")
    with pytest.raises(WiringError, match="topic_arn"):
        TaskModule.register(settings=Settings(backend="aws", **NAMES), webhooks=[hook])
    module = TaskModule.register(settings=Settings(backend="aws", **NAMES))
    create = module.sync.task_service.create_task
    with pytest.raises(InvalidInput, match="topic_arn") as refused:
        create(tenant_code="mbc", task_type="cat", notify_url="https://example.com/hook")
    assert refused.value.field == "notify_url"
    module.close()


def test_an_execution_of_a_step_function_task_has_the_arn_of_its_machine() -> None:
    module = TaskModule.register(settings=Settings(backend="aws", **NAMES))
    arn = module._backend.machine.arn("code")
    assert arn == "arn:aws:states:eu-central-1:123456789012:execution:sfn-task:code"
    module.close()


@pytest.mark.parametrize("place", ["ecs", "", None])
def test_a_place_that_is_not_known_is_refused(make_module: MakeModule, place: Any) -> None:
    with pytest.raises(InvalidInput, match="runs_on"):
        make_module().task("cat", runs_on=place)


def test_embedded_a_worker_runs_everything(make_module: MakeModule) -> None:
    """Wherever it is to run on AWS."""
    module = make_module()
    module.task("cat", runs_on="worker")(nothing)

    async def run() -> None:
        task = await module.task_service.create_task(tenant_code="mbc", task_type="cat")
        async with module.worker() as worker:
            await worker.drain()
        assert (await module.task_service.get_task(task.key)).is_terminal

    asyncio.run(run())
