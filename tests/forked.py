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
    "bench.campaign",
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
    os.environ.clear()
    os.environ.update(environment)
    with Path(f"{folder}.log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    from bench.cli import main

    sys.argv = ["bench", *words]
    main()


class Forked:
    """A command under way in a folder, printing to a file beside that; what is needed of Popen."""

    stdout = stderr = None

    def __init__(self, folder: Path, words: list[str], environment: dict[str, str]) -> None:
        FORKS.set_forkserver_preload(IMPORTED)
        self._process = FORKS.Process(target=command_line, args=(str(folder), words, environment))
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid
        self.kill = self._process.kill
        self._log = Path(f"{folder}.log")

    def told(self) -> str:
        """What it has printed."""
        return self._log.read_text() if self._log.exists() else ""

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
