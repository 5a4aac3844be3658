"""What an import costs: a queue handler must not pay for a web server, nor a caller for a driver."""

import subprocess
import sys

import pytest

HEAVY = frozenset({"boto3", "botocore", "fastapi", "pydantic", "rich", "starlette", "typer"})


def loaded_by(code: str) -> frozenset[str]:
    """The top-level modules that *code* loads in a fresh interpreter, beyond those the interpreter starts with."""
    script = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return frozenset(name.partition(".")[0] for name in done.stdout.split())


@pytest.fixture(scope="module")
def package() -> frozenset[str]:
    return loaded_by("import taskloom")


def test_import_loads_only_the_standard_library(package: frozenset[str]) -> None:
    """An allow-list, so that a new dependency cannot slip in under a name that nobody thought of."""
    assert package - sys.stdlib_module_names == {"taskloom"}


@pytest.mark.parametrize("driver", ["sqlite3", "boto3", "fastapi", "pydantic"])
def test_import_loads_no_driver(package: frozenset[str], driver: str) -> None:
    """sqlite3 is in the standard library, yet only whoever opens a file should pay for it."""
    assert driver not in package


def test_only_webhooks_pay_for_an_http_client() -> None:
    loaded = loaded_by("import taskloom\ntaskloom.TaskModule.register()\ntaskloom.Webhook")
    assert "http" not in loaded


def test_task_module_is_lazy_and_light() -> None:
    """The first touch of a public name loads its module, and still nothing that an extra brings."""
    loaded = loaded_by("import taskloom\nassert 'taskloom.module' not in sys.modules\ntaskloom.TaskModule")
    assert loaded & HEAVY == frozenset()
    assert loaded - sys.stdlib_module_names == {"taskloom"}
