"""The package of the functions: a zip with the application, Taskloom, and what they need."""

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.metadata import requires
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Final

from taskloom.errors import InvalidInput

ENTRY: Final = "taskloom_entry.py"
HANDLER: Final = "taskloom_entry.handler"
"""Where the functions begin."""
MAX_UNPACKED: Final = 250 * 1024 * 1024
"""Bytes of an unpacked package (source: AWS Lambda developer guide, "Lambda quotas")."""
_LEAVE_OUT: Final = ignore_patterns("__pycache__", "*.pyc", ".*")
_SAME_TIME: Final = (1980, 1, 1, 0, 0, 0)


def build(application: str, target: Path, *, requirements: Path | None, python: str, arm: bool) -> str:
    """Write the zip for *application* (`package.module:attribute`) to *target*; the SHA-256 of what it holds.

    The module's top-level package goes in as it is imported here, with what the extra `aws` needs and the lines of the
    file *requirements*, as wheels for Lambda's Python. The same content makes the same zip.

    Raises: InvalidInput when something cannot be had for Lambda, or the package is too large.
    """
    top = application.partition(":")[0].partition(".")[0]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _install([*_own_requirements(), *(["-r", str(requirements)] if requirements else [])], root, python, arm)
        _copy("taskloom", root)
        _copy(top, root)
        (root / ENTRY).write_text(entry(application), "utf-8")
        return _zip(root, target)


def entry(application: str) -> str:
    """The module in which Lambda finds the handler of *application*."""
    module, _, attribute = application.partition(":")
    name, dot, rest = attribute.partition(".")
    return (
        f"from {module} import {name}\n\n"
        f"found = {name}{dot}{rest}\n"
        'handler = (found if hasattr(found, "lambda_handler") else found()).lambda_handler\n'
    )


def _own_requirements() -> list[str]:
    """What Taskloom itself needs on Lambda; boto3 is there already."""
    needed = [line.partition(";") for line in requires("taskloom") or ()]
    return [
        name.strip()
        for name, _, marker in needed
        if "extra == 'aws'" in marker.replace('"', "'") and not name.startswith("boto3")
    ]


def _install(what: Sequence[str], root: Path, python: str, arm: bool) -> None:
    platform = "manylinux2014_aarch64" if arm else "manylinux2014_x86_64"
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input",
        "--target", str(root), "--only-binary=:all:", "--implementation", "cp", "--python-version", python,
        "--platform", platform, "--no-compile", *what,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - pip, with our arguments
    if done.returncode != 0:
        problem = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise InvalidInput(
            "--requirements", f"cannot be installed for Python {python} on {platform}: {problem}", "see pip's message"
        )


def _copy(name: str, root: Path) -> None:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise InvalidInput("APP", f"there is no module {name!r}", "start in the folder that holds it")
    origin = Path(spec.origin)
    if origin.name == "__init__.py":
        copytree(origin.parent, root / name, ignore=_LEAVE_OUT, dirs_exist_ok=True)
    else:
        (root / origin.name).write_bytes(origin.read_bytes())


def _zip(root: Path, target: Path) -> str:
    digest, size = hashlib.sha256(), 0
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path in sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
            content, name = path.read_bytes(), path.relative_to(root).as_posix()
            size += len(content)
            digest.update(f"{name}\n{len(content)}\n".encode() + content)
            info = zipfile.ZipInfo(name, _SAME_TIME)
            info.external_attr = 0o644 << 16  # Lambda must be able to read it
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    if size > MAX_UNPACKED:
        raise InvalidInput("APP", f"makes a package of {size} bytes", f"Lambda unpacks at most {MAX_UNPACKED}")
    return digest.hexdigest()
