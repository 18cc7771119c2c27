"""Servers of the tests' own: on a free port of this machine, there when they answer, gone with the test."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

LONGEST = 300  # seconds that a server may take to answer, on a machine that does much else


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def service(
    words: Sequence[str | Path],
    folder: Path,
    there: Callable[[], object],
    environment: Mapping[str, str] | None = None,
    stop: Sequence[signal.Signals] = (signal.SIGKILL,),
) -> Iterator[None]:
    """Start a process, wait until `there` raises nothing, and stop it, and what it started, at the end."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            words, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        deadline = time.monotonic() + LONGEST
        try:
            while not _answers(there):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise AssertionError(f"{words} does not answer: {log.read()[-5000:]}")
                time.sleep(0.1)
            yield
        finally:
            for number in stop:
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, number)
                    process.wait(20)


def _answers(there: Callable[[], object]) -> bool:
    try:
        there()
    except Exception:  # whatever a client raises while its server starts
        return False
    return True


@contextlib.contextmanager
def mlflow(folder: Path, port: int, *words: str, **environment: str) -> Iterator[str]:
    """Run an MLflow server, by default on sqlite in `folder`; give its address."""
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--artifacts-destination", str(folder / "artifacts"), *words]
    settings = {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/server.db",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with service(command, folder, healthy(address), os.environ | settings | environment):
        yield address


def healthy(address: str) -> Callable[[], object]:
    """Ask an MLflow server whether it is up."""
    return lambda: urllib.request.urlopen(f"{address}/health", timeout=10).close()  # noqa: S310  our own
