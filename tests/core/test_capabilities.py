"""The table of rule 8: whole, and enforced before anything runs."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from taskloom import NewTask
from taskloom import capabilities as table
from taskloom.capabilities import CAPABILITIES, Capability, Feature, Level, is_exact, refusal, require
from taskloom.errors import InvalidInput, WiringError
from taskloom.model import DEFAULT_PRIORITY
from taskloom.ports import Backend
from tests.support.clock import FakeClock
from tests.support.scenarios import TENANT, all_tasks, module_over, open_backend


@pytest.fixture
def on_aws(tmp_path: Path, clock: FakeClock) -> Iterator[Backend]:
    """A backend that refuses what AWS refuses: the name alone decides."""
    backend = open_backend(tmp_path / "tasks.db", clock)
    yield replace(backend, name="aws")
    backend.close()


@pytest.mark.parametrize("backend", CAPABILITIES)
def test_every_feature_has_a_line_for_every_backend(backend: str) -> None:
    assert set(CAPABILITIES[backend]) == set(Feature)
    for feature, capability in CAPABILITIES[backend].items():
        assert capability.why, feature
        assert "\n" not in capability.why


def test_the_embedded_backend_does_everything_exactly() -> None:
    """It is what the others are measured by."""
    assert all(is_exact("embedded", feature) for feature in Feature)


def test_what_is_refused_is_refused_with_the_remedy() -> None:
    with pytest.raises(WiringError, match=r"^module\.subscribe: the backend 'aws' refuses .*SNS topic"):
        require("aws", Feature.SUBSCRIBE, "module.subscribe")
    assert refusal("aws", Feature.SUBSCRIBE) is not None


@pytest.mark.parametrize("feature", [Feature.FAIRNESS, Feature.LOGS])
def test_what_is_done_well_or_as_well_as_can_be_is_not_refused(feature: Feature) -> None:
    require("aws", feature, "somebody")
    assert refusal("aws", feature) is None


@pytest.mark.parametrize("option", ["max_concurrency", "max_concurrency_per_tenant"])
def test_a_limit_that_the_backend_refuses_stops_the_wiring(
    option: str, on_aws: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the type is defined, not when the first task runs; other types, and types without it, are not affected."""
    refused = Capability(level=Level.REFUSED, why="leave it out")
    lines = {feature: refused if feature.name == option.upper() else line for feature, line in table._AWS.items()}
    monkeypatch.setattr(table, "CAPABILITIES", {"aws": lines})
    module, options = module_over(on_aws), cast("Any", {option: 3})
    with pytest.raises(WiringError, match=f"task type 'job', {option}: the backend 'aws' refuses .*leave it out"):
        module.task("job", **options)
    module.task("job")(lambda event: None)


def test_a_limit_that_the_backend_takes_is_taken(on_aws: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "CAPABILITIES", {"aws": table._EMBEDDED})
    module_over(on_aws).task("job", max_concurrency=3, max_concurrency_per_tenant=1)(lambda event: None)


@pytest.mark.parametrize("priority", [0, DEFAULT_PRIORITY - 1, DEFAULT_PRIORITY + 1, 9])
def test_a_priority_that_the_backend_refuses_creates_nothing(priority: int, on_aws: Backend) -> None:
    """A number that nobody looks at would be a promise that is not kept."""
    service = module_over(on_aws).task_service

    async def main() -> None:
        with pytest.raises(InvalidInput, match=r"^priority: the backend 'aws' refuses priorities; SQS"):
            await service.create_task(tenant_code=TENANT, task_type="job", priority=priority)
        with pytest.raises(InvalidInput, match=r"^priority: "):
            await service.create_step_function_task(tenant_code=TENANT, task_type="job", input=[1], priority=priority)
        new = [NewTask(tenant_code=TENANT, task_type="job", priority=own) for own in (DEFAULT_PRIORITY, priority)]
        with pytest.raises(InvalidInput, match=r"^tasks\[1\]\.priority: "):
            await service.create_tasks(new)
        assert await all_tasks(on_aws) == []
        await service.create_task(tenant_code=TENANT, task_type="job", priority=DEFAULT_PRIORITY)
        assert len(await all_tasks(on_aws)) == 1

    asyncio.run(main())
