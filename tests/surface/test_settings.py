"""Settings: one object, each field also from the environment, explicit values win."""

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from taskloom import Retry, Settings, TaskModule, TaskQueueEvent
from taskloom.errors import InvalidInput, InvalidType
from tests.support.clock import FakeClock
from tests.surface.running import MakeModule, single, within_patience


def test_the_defaults_are_those_of_the_documentation() -> None:
    assert dataclasses.asdict(Settings()) == {
        "backend": "embedded",
        "database": "taskloom.db",
        "synchronous": "FULL",
        "lease_seconds": 60.0,
        "grace_seconds": 30.0,
        "idempotency_ttl": 86400.0,
        "retry": None,
        "ttl": None,
        "log_level": "INFO",
        "webhook_secret": None,
        "webhook_private_addresses": False,
    }


ENVIRONMENT = [
    ("backend", "embedded", "embedded"),
    ("database", "other.db", "other.db"),
    ("synchronous", "NORMAL", "NORMAL"),
    ("lease_seconds", "12.5", 12.5),
    ("grace_seconds", "0", 0.0),
    ("idempotency_ttl", "60", 60.0),
    ("log_level", "WARNING", "WARNING"),
    ("ttl", "86400", 86400.0),
    ("webhook_secret", "0123456789abcdef", "0123456789abcdef"),
    ("webhook_private_addresses", "true", True),
    ("webhook_private_addresses", "0", False),
    ("retry", "5", Retry(max_attempts=5)),
    ("retry", '{"max_attempts": 4, "initial": 2, "jitter": false}', Retry(max_attempts=4, initial=2, jitter=False)),
]


@pytest.mark.parametrize(("field", "text", "value"), ENVIRONMENT)
def test_each_field_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, field: str, text: str, value: Any
) -> None:
    """Read when a `Settings` is made, not when the package is imported."""
    monkeypatch.setenv(f"TASKLOOM_{field.upper()}", text)
    settings = Settings()
    assert getattr(settings, field) == value
    others = {name: item for name, item in vars_of(settings).items() if name != field}
    monkeypatch.delenv(f"TASKLOOM_{field.upper()}")
    assert others.items() <= vars_of(Settings()).items()


def test_the_secret_is_not_shown() -> None:
    """Settings stand in logs and error reports."""
    assert "0123456789abcdef" not in repr(Settings(webhook_secret="0123456789abcdef"))


def test_every_field_was_tried() -> None:
    assert {field for field, _, _ in ENVIRONMENT} == {field.name for field in dataclasses.fields(Settings)}


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("database", "from-environment.db", "explicit.db"),
        ("synchronous", "NORMAL", "FULL"),
        ("lease_seconds", "12.5", 7.0),
        ("retry", "5", None),
        ("lease_seconds", "nonsense", 7.0),  # not even looked at
    ],
)
def test_explicit_values_win(monkeypatch: pytest.MonkeyPatch, field: str, text: str, value: Any) -> None:
    monkeypatch.setenv(f"TASKLOOM_{field.upper()}", text)
    settings = Settings(**{field: value})
    assert getattr(settings, field) == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backend", "redis"),
        ("database", ""),
        ("database", 7),
        ("synchronous", "OFF"),
        ("synchronous", "full"),
        ("lease_seconds", 0),
        ("lease_seconds", "60"),
        ("lease_seconds", True),
        ("lease_seconds", float("nan")),
        ("lease_seconds", 86401),
        ("grace_seconds", -1),
        ("retry", 5),
        ("log_level", "LOUD"),
        ("log_level", "info"),
        ("log_level", 20),
        ("webhook_secret", "short"),
        ("webhook_secret", 7),
        ("webhook_private_addresses", 1),
    ],
)
def test_a_bad_value_names_its_field(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        Settings(**{field: value})
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("TASKLOOM_LEASE_SECONDS", "a minute"),
        ("TASKLOOM_LEASE_SECONDS", ""),
        ("TASKLOOM_GRACE_SECONDS", "1,5"),
        ("TASKLOOM_RETRY", "often"),
        ("TASKLOOM_WEBHOOK_PRIVATE_ADDRESSES", "perhaps"),
        ("TASKLOOM_RETRY", "[5]"),
        ("TASKLOOM_RETRY", '{"attempts": 5}'),
        ("TASKLOOM_RETRY", '{"max_attempts": 0}'),
    ],
)
def test_a_variable_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(InvalidInput) as refused:
        Settings()
    assert refused.value.field == variable
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("TASKLOOM_BACKEND", "redis"),
        ("TASKLOOM_DATABASE", ""),
        ("TASKLOOM_SYNCHRONOUS", "OFF"),
        ("TASKLOOM_LEASE_SECONDS", "0"),
        ("TASKLOOM_GRACE_SECONDS", "-1"),
    ],
)
def test_a_variable_with_a_bad_value_names_field_or_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(InvalidInput) as refused:
        Settings()
    assert refused.value.field.upper() in (variable, variable.removeprefix("TASKLOOM_"))


def test_a_field_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="colour"):
        Settings(colour="red")  # type: ignore[call-arg]


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().database = "other.db"  # type: ignore[misc]


def test_register_without_settings_takes_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TASKLOOM_DATABASE", str(tmp_path / "from-environment.db"))
    module = TaskModule.register()
    try:
        asyncio.run(module.task_service.list_tasks("acme"))
    finally:
        module.close()
    assert (tmp_path / "from-environment.db").exists()


def test_a_database_may_be_a_path(make_module: MakeModule, tmp_path: Path) -> None:
    module = make_module(settings=Settings(database=tmp_path / "path.db"))
    asyncio.run(module.task_service.list_tasks("acme"))
    assert (tmp_path / "path.db").exists()


@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
def test_tasks_run_with_either_synchronous(make_module: MakeModule, database: Path, synchronous: Any) -> None:
    module = make_module(settings=Settings(database=database, synchronous=synchronous))
    module.task("job")(lambda event: "done")
    assert asyncio.run(single(module)).result == "done"


def test_lease_seconds_is_how_long_a_claim_holds(make_module: MakeModule, database: Path, clock: FakeClock) -> None:
    module = make_module(settings=Settings(database=database, lease_seconds=90), clock=clock)

    @module.task("job")
    def job(event: TaskQueueEvent) -> float:
        assert event.task.lease_until is not None
        return (event.task.lease_until - clock.now()).total_seconds()

    assert asyncio.run(single(module)).result == 90


@pytest.mark.parametrize(("settings_grace", "worker_grace", "seconds"), [(0, None, 0), (20, None, 20), (20, 10, 10)])
def test_grace_seconds_is_how_long_a_stopping_worker_waits(
    make_module: MakeModule,
    database: Path,
    clock: FakeClock,
    settings_grace: float,
    worker_grace: float | None,
    seconds: float,
) -> None:
    """Unless the worker is made with a grace of its own."""
    module = make_module(settings=Settings(database=database, grace_seconds=settings_grace), clock=clock)
    start = clock.now()

    async def scenario() -> Any:
        started = asyncio.Event()

        @module.task("job")
        async def job(event: TaskQueueEvent) -> None:
            started.set()
            await asyncio.Event().wait()

        async def work() -> None:
            async with module.worker(grace=worker_grace):
                await within_patience(started.wait())

        task = await module.task_service.create_task(tenant_code="acme", task_type="job")
        working = asyncio.create_task(work())
        await within_patience(started.wait())
        if not seconds:
            await within_patience(working)  # virtual time stands still: nobody waits for it
        while not working.done():
            clock.advance(0.5)
            await asyncio.wait([working], timeout=0)
        return await module.task_service.get_task(task.key)

    given_back = asyncio.run(scenario())
    assert given_back.status == "PENDING"
    assert (given_back.history[-1].at - start).total_seconds() >= seconds


def vars_of(settings: Settings) -> dict[str, Any]:
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}


def test_invalid_type_is_a_type_error_too() -> None:
    with pytest.raises(InvalidType):
        Settings(retry=5)  # type: ignore[arg-type]
