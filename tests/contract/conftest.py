"""Failed assertions of the suites explain themselves like those of test files."""

import pytest

for _suite in (
    "backends",
    "base",
    "change_stream",
    "clocks",
    "deadlines",
    "executions",
    "idempotency",
    "ids",
    "notifier",
    "payloads",
    "queue_admin",
    "queue_machine",
    "queues",
    "signals",
    "steps",
    "task_logs",
    "task_store",
):
    pytest.register_assert_rewrite(f"tests.contract.{_suite}")
