"""`taskloom deploy synth`."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskloom.cli.app import run
from taskloom.deploy import package

APPLICATION = """
from taskloom import TaskModule

module = TaskModule.register()


@module.task("mail")
def mail(event):
    return 1
"""


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an application, which is the current one."""
    (tmp_path / "mailshop.py").write_text(APPLICATION, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("mailshop", None)


def test_synth_writes_template_and_package(application: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert run(["deploy", "synth", "mailshop:module", "--out", "out", "--stack", "mail", "--python", version]) == 0
    template, zipped = (Path(line) for line in capsys.readouterr().out.split())
    made = json.loads(template.read_text("utf-8"))
    assert made["Parameters"]["CodeKey"]["Default"] == zipped.name
    with zipfile.ZipFile(zipped) as archive:
        names = set(archive.namelist())
        archive.extractall(application / "unpacked")
    assert {"mailshop.py", "taskloom/__init__.py", "taskloom/aws/state_machine.asl.json", package.ENTRY} <= names
    assert not any(name.startswith(("boto3", "botocore", "aws_cdk")) for name in names)  # boto3 is on Lambda already
    done = subprocess.run(
        [sys.executable, "-c", "import mailshop; print(mailshop.module)"],
        cwd=application / "unpacked", capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_same_application_makes_the_same_package(application: Path) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    first, second = (
        package.build("mailshop:module", application / name, requirements=None, python=version, arm=False)
        for name in ("a.zip", "b.zip")
    )
    assert first == second
    assert (application / "a.zip").read_bytes() == (application / "b.zip").read_bytes()
    (application / "mailshop.py").write_text(APPLICATION + "\n", "utf-8")
    third = package.build("mailshop:module", application / "c.zip", requirements=None, python=version, arm=False)
    assert third != first


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--jwt-issuer", "https://example.com"], "--jwt-audience"),
        (["--requirements", "nowhere.txt"], "does not exist"),
        (["--timeout", "901"], "900"),
    ],
)
def test_what_cannot_be_is_refused(
    application: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    assert run(["deploy", "synth", "mailshop:module", *options]) == 2
    assert says in capsys.readouterr().err
    assert not (application / "taskloom-deploy").exists()


def test_a_requirement_that_lambda_cannot_have_is_named(application: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (application / "needs.txt").write_text("no-such-package-for-certain==9.9\n", "utf-8")
    assert run(["deploy", "synth", "mailshop:module", "--requirements", "needs.txt"]) == 2
    assert "no-such-package-for-certain" in capsys.readouterr().err
