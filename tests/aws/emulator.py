"""The AWS emulator of the tests: MiniStack, in an environment of its own, one process per test session.

`python -m tests.aws.emulator` makes the environment, which the first test does otherwise.
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
    "ministack==1.5.33",  # launch.py changes its inner parts
    "boto3",
    "cryptography",  # without it every JWT is refused
    "aws-sam-translator",  # without it SAM templates are
    "awslambdaric",
)
HOME: Final = Path(__file__).parents[2] / ".emulator"
PYTHON: Final = HOME / "venv" / "bin" / "python"
REGION: Final = "eu-central-1"
READY_WITHIN: Final = 60.0
"""Seconds. The server itself needs half a second; a busy machine may need longer."""


def prepare() -> None:
    """Make the environment, unless it is there; other processes wait for it."""
    HOME.mkdir(exist_ok=True)
    wanted, stamp = "\n".join(REQUIREMENTS), HOME / "ready"
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        print(f"Preparing the AWS emulator in {HOME} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", HOME / "venv"], check=True)
        pip = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-qq"]
        subprocess.run([*pip, *REQUIREMENTS], check=True)
        stamp.write_text(wanted)  # last: an installation that broke off is done again


class Emulator:
    """A running emulator."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"

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
def running(**environment: str) -> Iterator[Emulator]:
    """An emulator until the end of the block; *environment* adds to its own."""
    prepare()
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
            [PYTHON, Path(__file__).with_name("launch.py")],
            env=own | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        emulator = Emulator(port)
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
    prepare()
