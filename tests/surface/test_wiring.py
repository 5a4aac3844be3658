"""Wiring: marks, providers, injection, and what `register` refuses at once."""

import asyncio
import functools
from pathlib import Path
from typing import Any

import pytest

from taskloom import (
    EventFactory,
    EventFactoryAddedTask,
    Settings,
    StepFunctionService,
    StepFunctionTaskEvent,
    TaskModule,
    TaskQueueEvent,
    TaskService,
    event_factory,
    event_handler,
)
from taskloom.errors import InvalidInput, InvalidType, WiringError
from tests.surface.running import MakeModule, drained, single


class Added(TaskQueueEvent): ...


class Factory:
    def transform_task(self, event: TaskQueueEvent) -> list[Added]:
        return [Added.from_sqs_record(event)]


@event_handler(Added)
class Handler:
    def __init__(self, colour: str = "grey") -> None:
        self.colour = colour

    async def execute(self, event: Added) -> str:
        return self.colour


# --- marks -----------------------------------------------------------------------------------------------------------


def test_decorators_only_mark_classes() -> None:
    """They give back the class itself, still an ordinary one, and register it nowhere."""

    class Bare:
        async def execute(self, event: Added) -> str:
            return "done"

    class BareFactory(EventFactoryAddedTask): ...

    assert event_handler(Added)(Bare) is Bare
    assert event_factory(BareFactory) is BareFactory
    assert event_factory()(BareFactory) is BareFactory
    assert asyncio.run(Bare().execute(Added())) == "done"


@pytest.mark.parametrize("event", ["Added", None, Added()])
def test_event_handler_refuses_what_is_no_class_of_events(event: Any) -> None:
    with pytest.raises(WiringError, match="takes the class of an event"):
        event_handler(event)


def test_event_handler_refuses_a_class_without_execute() -> None:
    class Idle: ...

    with pytest.raises(WiringError, match="a class with a method execute"):
        event_handler(Added)(Idle)


def test_event_factory_refuses_what_is_none() -> None:
    class Idle: ...

    with pytest.raises(WiringError, match="a subclass of EventFactory"):
        event_factory(Idle)


def test_many_modules_in_one_process_share_nothing(make_module: MakeModule, tmp_path: Path) -> None:
    """The same handler classes and the same task type in both; each module has its own database, too."""
    one = make_module(task_queue_event_factory=Factory, providers=[Handler("red")])
    other = make_module(
        task_queue_event_factory=Factory,
        providers=[Handler("blue")],
        settings=Settings(database=tmp_path / "other.db"),
    )
    one.task("own")(lambda event: "one's")
    other.task("own")(lambda event: "other's")

    async def scenario() -> None:
        assert (await single(one)).result == "red"
        assert (await single(other)).result == "blue"
        assert (await single(one, task_type="own")).result == "one's"
        assert (await single(other, task_type="own")).result == "other's"
        for module in (one, other):
            assert len((await module.task_service.list_tasks("acme")).items) == 2

    asyncio.run(scenario())


# --- providers -------------------------------------------------------------------------------------------------------


def provided_by_function(module: TaskModule) -> Handler:
    assert isinstance(module, TaskModule)
    return Handler("from a function")


class Kitchen:
    def __call__(self, module: TaskModule) -> Handler:
        return Handler("from a callable object")

    def cook(self, module: TaskModule) -> Handler:
        return Handler("from a method")


@pytest.mark.parametrize(
    ("provider", "result"),
    [
        pytest.param(Handler, "grey", id="class"),
        pytest.param(Handler("red"), "red", id="instance"),
        pytest.param(provided_by_function, "from a function", id="function"),
        pytest.param(lambda module: Handler("from a lambda"), "from a lambda", id="lambda"),
        pytest.param(functools.partial(provided_by_function), "from a function", id="partial"),
        pytest.param(Kitchen(), "from a callable object", id="callable object"),
        pytest.param(Kitchen().cook, "from a method", id="bound method"),
    ],
)
def test_providers_are_classes_instances_or_callables(make_module: MakeModule, provider: Any, result: str) -> None:
    module = make_module(task_queue_event_factory=Factory, providers=[provider])
    assert asyncio.run(single(module)).result == result


@pytest.mark.parametrize("factory", [Factory, Factory(), lambda module: Factory()])
def test_the_factory_is_a_class_an_instance_or_a_callable(make_module: MakeModule, factory: Any) -> None:
    module = make_module(task_queue_event_factory=factory, providers=[Handler])
    assert asyncio.run(single(module)).result == "grey"


@pytest.mark.parametrize(
    "factory", [EventFactoryAddedTask, EventFactoryAddedTask(), lambda module: EventFactoryAddedTask()]
)
def test_the_event_factory_is_a_class_an_instance_or_a_callable(make_module: MakeModule, factory: Any) -> None:
    module = make_module(task_queue_event_factory=Factory, providers=[Handler], event_factory=factory)
    assert asyncio.run(single(module)).result == "grey"


def test_constructor_parameters_are_filled_in_by_type(make_module: MakeModule) -> None:
    made: list[Any] = []

    @event_handler(Added)
    class Wired:
        def __init__(
            self,
            service: TaskService,
            machine: StepFunctionService,
            *,
            settings: Settings,
            module: TaskModule,
            colour: str = "grey",
        ) -> None:
            made.append((service, machine, settings, module, colour))

        async def execute(self, event: Added) -> None: ...

    class WiredFactory(Factory):
        def __init__(self, service: TaskService) -> None:
            made.append(service)

    class WiredEventFactory(EventFactoryAddedTask):
        def __init__(self, settings: Settings) -> None:
            made.append(settings)

    module = make_module(task_queue_event_factory=WiredFactory, providers=[Wired], event_factory=WiredEventFactory)
    service, handler, settings = made
    assert service is module.task_service
    assert handler == (module.task_service, module.step_function_service, module.settings, module, "grey")
    assert settings is module.settings


def test_constructor_parameters_are_filled_in_by_type_written_as_text(make_module: MakeModule) -> None:
    """As `from __future__ import annotations` makes them."""

    @event_handler(Added)
    class Wired:
        def __init__(self, service: "TaskService") -> None:
            self.service = service

        async def execute(self, event: Added) -> bool:
            return isinstance(self.service, TaskService)

    module = make_module(task_queue_event_factory=Factory, providers=[Wired])
    assert asyncio.run(single(module)).result is True


def test_an_injected_service_creates_further_tasks(make_module: MakeModule) -> None:
    @event_handler(Added)
    class Chain:
        def __init__(self, service: TaskService) -> None:
            self.service = service

        async def execute(self, event: Added) -> str:
            follower = await self.service.create_task(tenant_code=event.task.tenant_code, task_type="next")
            return follower.id

    module = make_module(task_queue_event_factory=Factory, providers=[Chain])
    module.task("next")(lambda event: "followed")

    async def scenario() -> Any:
        first = await single(module)
        (follower,) = [task async for task in module.task_service.iter_tasks("acme", task_type="next")]
        return first, follower

    first, follower = asyncio.run(scenario())
    assert first.result == follower.id
    assert follower.result == "followed"


@pytest.mark.parametrize("where", ["providers", "task_queue_event_factory", "event_factory"])
def test_a_constructor_parameter_that_cannot_be_filled_is_named(make_module: MakeModule, where: str) -> None:
    @event_handler(Added)
    class Wired(EventFactoryAddedTask):
        def __init__(self, service: TaskService, colour: str) -> None: ...

        async def execute(self, event: Added) -> None: ...

        async def transform_task(self, event: TaskQueueEvent) -> list[Any]:
            return []

    with pytest.raises(WiringError, match=r"Wired: the constructor parameter 'colour' is annotated str"):
        make_module(**{where: [Wired] if where == "providers" else Wired})


def test_a_constructor_parameter_without_annotation_is_named(make_module: MakeModule) -> None:
    class Unannotated(Factory):
        def __init__(self, colour) -> None: ...  # type: ignore[no-untyped-def]

    with pytest.raises(WiringError, match=r"'colour' has no annotation"):
        make_module(task_queue_event_factory=Unannotated)


def test_an_annotation_that_is_not_there_at_run_time_is_named(make_module: MakeModule) -> None:
    class Unknown(Factory):
        def __init__(self, colour: "Colour") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(WiringError, match=r"Unknown.*'Colour'"):
        make_module(task_queue_event_factory=Unknown)


def test_the_step_function_service_is_the_modules_own(make_module: MakeModule) -> None:
    assert isinstance(make_module().step_function_service, StepFunctionService)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_module_keeps_whether_its_controller_is_wanted(make_module: MakeModule, enabled: bool) -> None:
    assert make_module(enable_controller=enabled).enable_controller is enabled


# --- what register refuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("providers", "message"),
    [
        pytest.param([Handler, Handler], "Handler stands twice in the providers", id="the same class twice"),
        pytest.param([Handler, Handler("red")], "Handler stands twice", id="class and instance of it"),
        pytest.param([Factory], "Factory handles nothing: mark the class", id="class without mark"),
        pytest.param([Factory()], "Factory handles nothing: mark the class", id="instance without mark"),
        pytest.param([lambda module: Factory()], "Factory handles nothing", id="callable that returns one"),
        pytest.param([lambda module: None], "returned None; return the handler", id="callable without return"),
        pytest.param(Handler, "is no list", id="a bare class"),
        pytest.param("Handler", "is no list", id="a string"),
        pytest.param(7, "is no list", id="no iterable"),
    ],
)
def test_providers_that_do_not_fit_are_refused(make_module: MakeModule, providers: Any, message: str) -> None:
    with pytest.raises(WiringError, match=message):
        make_module(task_queue_event_factory=Factory, providers=providers)


def test_there_can_be_one_event_factory(make_module: MakeModule) -> None:
    @event_factory
    class One(EventFactoryAddedTask): ...

    @event_factory
    class Other(EventFactoryAddedTask): ...

    for arguments in ({"providers": [One, Other]}, {"providers": [One], "event_factory": Other}):
        with pytest.raises(WiringError, match="one event factory, but 2 are given"):
            make_module(**arguments)


@pytest.mark.parametrize("factory", [Factory, Factory()])
def test_an_event_factory_must_be_one(make_module: MakeModule, factory: Any) -> None:
    with pytest.raises(WiringError, match="Factory is no EventFactory"):
        make_module(event_factory=factory)


@pytest.mark.parametrize("factory", [object, EventFactory, Handler])
def test_a_factory_with_neither_method_is_refused(make_module: MakeModule, factory: Any) -> None:
    with pytest.raises(WiringError, match="has neither transform_task nor transform_step_function_task"):
        make_module(task_queue_event_factory=factory)


def test_settings_must_be_settings(make_module: MakeModule) -> None:
    with pytest.raises(InvalidType, match="settings"):
        make_module(settings={"database": "tasks.db"})


# --- the short form --------------------------------------------------------------------------------------------------


def test_two_functions_for_one_task_type_are_refused(make_module: MakeModule) -> None:
    module = make_module()
    module.task("job")(lambda event: None)
    module.step_function_task("job")(lambda event: None)  # another kind of task: no clash
    with pytest.raises(WiringError, match=r"task type 'job' \(TASK\) has the handler"):
        module.task("job")(lambda event: None)
    with pytest.raises(WiringError, match=r"task type 'job' \(SFN_TASK\) has the handler"):
        module.step_function_task("job")(lambda event: None)


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda: None, id="no argument"),
        pytest.param(lambda event, other: None, id="two arguments"),
        pytest.param(Handler, id="a class"),
        pytest.param("job", id="no function"),
    ],
)
def test_a_function_that_cannot_take_an_event_is_refused(make_module: MakeModule, function: Any) -> None:
    module = make_module()
    with pytest.raises(WiringError, match="task type 'job'"):
        module.task("job")(function)
    with pytest.raises(WiringError, match="task type 'job'"):
        module.step_function_task("job")(function)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("retry", 5),
        ("timeout", 0),
        ("timeout", "soon"),
        ("max_concurrency", 0),
        ("max_concurrency", 2.5),
        ("chunk_size", 0),
        ("chunk_size", True),
        ("chunk_concurrency", 0),
        ("tolerated_failure_percentage", 101),
        ("tolerated_failure_percentage", -1),
        ("tolerated_failure_percentage", "some"),
    ],
)
def test_an_option_that_no_fan_out_can_have_is_named(make_module: MakeModule, field: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=field):
        make_module().step_function_task("job", **{field: value})


@pytest.mark.parametrize(("field", "value"), [("retry", "often"), ("timeout", -1), ("timeout", True)])
def test_an_option_that_no_task_can_have_is_named(make_module: MakeModule, field: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=field):
        make_module().task("job", **{field: value})


@pytest.mark.parametrize("task_type", ["", "a b", "a#b", "ä", "x" * 129, 7])
def test_a_task_type_that_is_none_is_refused(make_module: MakeModule, task_type: Any) -> None:
    with pytest.raises(InvalidInput, match="task_type"):
        make_module().task(task_type)


def test_a_decorated_function_is_still_the_function(make_module: MakeModule) -> None:
    module = make_module()

    @module.task("job")
    async def job(event: TaskQueueEvent) -> str:
        """Says that it is done."""
        return "done"

    @module.step_function_task("job")
    def part(event: StepFunctionTaskEvent) -> str:
        return "part done"

    assert asyncio.run(job(TaskQueueEvent())) == "done"
    assert part(StepFunctionTaskEvent()) == "part done"
    assert (vars(job)["__name__"], job.__doc__) == ("job", "Says that it is done.")
    assert job.task_type == part.task_type == "job"


def test_a_decorated_function_creates_its_own_tasks(make_module: MakeModule) -> None:
    module = make_module()

    @module.task("job")
    async def job(event: TaskQueueEvent[int]) -> int:
        return event.task.input + 1

    @module.step_function_task("parts")
    def part(event: StepFunctionTaskEvent[int]) -> int:
        return event.task.input * 2

    async def scenario() -> Any:
        task = await job.create(tenant_code="acme", input=1, name="one job")
        parent = await part.create(tenant_code="acme", input=[1, 2], name="two parts")
        assert (task.task_type, task.name, parent.task_type, parent.name) == ("job", "one job", "parts", "two parts")
        await drained(module)
        service = module.task_service
        return (await service.get_task(task.key)).result, [s.result async for s in service.iter_sub_tasks(parent.key)]

    assert asyncio.run(scenario()) == (2, [2, 4])


# --- workers ---------------------------------------------------------------------------------------------------------


def test_a_worker_of_a_module_that_handles_nothing_is_refused(make_module: MakeModule) -> None:
    """Handlers alone do not help: without a factory nothing makes events for them."""
    with pytest.raises(WiringError, match="this module runs no task"):
        make_module().worker()
    with pytest.raises(WiringError, match="this module runs no task"):
        make_module(providers=[Handler]).worker()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 2.0}, "concurrency"),
        ({"grace": -1}, "grace"),
        ({"task_types": "job"}, "task_types"),
        ({"task_types": ["a b"]}, "task_type"),
    ],
)
def test_an_option_that_no_worker_can_have_is_named(make_module: MakeModule, arguments: Any, field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        make_module(task_queue_event_factory=Factory).worker(**arguments)
