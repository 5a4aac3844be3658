"""An AWS emulator on this machine: MiniStack, in an environment of its own, without Docker.

`taskloom dev --aws` and the tests deploy the stack on it. `python -m taskloom.deploy.emulator FOLDER` makes the
environment in FOLDER, which the first use does otherwise.
"""

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

REQUIREMENTS: Final = (
    "ministack==1.5.33",  # emulator_start.py changes its inner parts
    "boto3",
    "cryptography",  # without it every JWT is refused
    "aws-sam-translator",  # without it SAM templates are
    "awslambdaric",
)
HOME: Final = Path.home() / ".cache" / "taskloom" / "emulator"
"""Where the environment lies, unless somebody says otherwise."""
REGION: Final = "eu-central-1"
READY_WITHIN: Final = 90.0
"""Seconds. The server itself needs half a second; a busy machine may need longer."""


def python_of(home: Path) -> Path:
    """The interpreter of the environment in *home*."""
    return home / "venv" / "bin" / "python"


def packages_of(home: Path) -> Path:
    """Where its packages lie; `awslambdaric` among them, which runs Python functions as Lambda does."""
    return home / "venv" / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def prepare(home: Path = HOME) -> None:
    """Make the environment in *home*, unless it is there; other processes wait for it."""
    home.mkdir(parents=True, exist_ok=True)
    wanted, stamp = "\n".join((sys.version, *REQUIREMENTS)), home / "ready"
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text("utf-8") == wanted:
            return
        print(f"Preparing the AWS emulator in {home} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", home / "venv"], check=True)
        pip = [str(python_of(home)), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-qq"]
        subprocess.run([*pip, *REQUIREMENTS], check=True)
        stamp.write_text(wanted, "utf-8")  # last: an installation that broke off is done again


class Emulator:
    """A running emulator."""

    def __init__(self, port: int, home: Path) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.home = home

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What makes a boto3 client one of this emulator."""
        return {
            "endpoint_url": self.endpoint,
            "region_name": REGION,
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
        }

    def client(self, service: str) -> Any:
        """A new boto3 client of *service*."""
        import boto3

        return boto3.session.Session().client(service, **self.arguments)

    def post(self, path: str, body: bytes = b"") -> None:
        """Call one of the emulator's own addresses, such as `/_ministack/config`."""
        request = urllib.request.Request(self.endpoint + path, data=body, method="POST")
        urllib.request.urlopen(request, timeout=10).close()


@contextmanager
def running(home: Path = HOME, **environment: str) -> Iterator[Emulator]:
    """An emulator until the end of the block; *environment* adds to its own."""
    prepare(home)
    port = _free_port()
    scratch = Path(tempfile.mkdtemp(prefix="taskloom-emulator-"))
    # Its whole environment reaches the Lambda functions that it runs, so it gets as little as possible.
    own = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    own |= {
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_REGION": REGION,
        "TMPDIR": str(scratch),
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
    }
    log = scratch / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [python_of(home), Path(__file__).with_name("emulator_start.py")],
            env=own | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        emulator = Emulator(port, home)
        _wait_until_ready(server, emulator, log)
        yield emulator
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(server: "subprocess.Popen[bytes]", emulator: Emulator, log: Path) -> None:
    pause = threading.Event()  # nobody sets it: another process has no way to tell us
    for _ in range(int(READY_WITHIN / 0.05)):
        if server.poll() is not None:
            raise RuntimeError(f"the emulator ended at once:\n{log.read_text(errors='replace')[-4000:]}")
        try:
            with urllib.request.urlopen(f"{emulator.endpoint}/_ministack/ready", timeout=5):
                return
        except OSError:
            pause.wait(0.05)
    raise RuntimeError(f"the emulator was not ready in time:\n{log.read_text(errors='replace')[-4000:]}")


if __name__ == "__main__":
    prepare(*(Path(argument) for argument in sys.argv[1:]))
