"""Command lines forked from a process that has imported what bench imports, which takes seconds each time.

This module is imported by every one of them, and needs nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
IMPORTED = [
    "bench.runs.matrix",
    "bench.runs.workers",
    "bench.cli.outlook",
    "bench.pictures.plots",
    "sklearn.linear_model",
    "sklearn.neighbors",
    "bench.runs.generate",
    "bench.verify",
    "bench.cli.matrix",
    "mlflow.store.tracking.sqlalchemy_store",
    "sklearn.datasets",
    "sklearn.model_selection",
    "matplotlib.figure",
    "torch._dynamo",
]


def command_line(folder: str, words: list[str], environment: dict[str, str]) -> None:
    """`bench ...` in this process, in a process group of its own."""
    os.setsid()
    os.chdir(folder)
    # What bench's imports set for MLflow stays: without it a server that is away is tried for four minutes
    imported = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    imported.pop("MLFLOW_TRACKING_URI", None)
    os.environ.clear()
    os.environ.update(imported | environment)
    for stream, kind in ((1, "out"), (2, "err")):
        with Path(f"{folder}.{kind}").open("wb") as file:
            os.dup2(file.fileno(), stream)
    from bench.cli import main

    sys.argv = ["bench", *words]
    main()


class Forked:
    """A command under way in a folder, printing to files beside that; what is needed of Popen."""

    stdout = stderr = None

    def __init__(self, folder: Path, words: list[str], environment: dict[str, str]) -> None:
        FORKS.set_forkserver_preload(IMPORTED)
        self._process = FORKS.Process(target=command_line, args=(str(folder), words, environment))
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid
        self.kill = self._process.kill
        self._told = [Path(f"{folder}.{kind}") for kind in ("out", "err")]

    def told(self) -> str:
        """What it has printed."""
        return "".join(self.streams())

    def streams(self) -> tuple[str, str]:
        """What it has printed on stdout and on stderr."""
        out, err = (file.read_text() if file.exists() else "" for file in self._told)
        return out, err

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """The exit code, once it has one; subprocess.TimeoutExpired where that takes longer."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("bench", timeout)
        return code


def bench(*words: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """As `test_cli.bench`, which starts a process as a user does; TimeoutExpired after as long."""
    from test_cli import LONGEST, clean

    process = Forked(cwd, [*map(str, words)], clean(cwd) | environment)
    try:
        code = process.wait(LONGEST)
    finally:
        process.kill()
    return subprocess.CompletedProcess(words, code, *process.streams())
