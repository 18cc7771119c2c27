"""kill -9 all along the life of a matrix, at random moments of every stage: all is done in the end, once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_matrix import (
    LONGEST,
    RUNS,
    SPEC,
    Fault,
    check_whole,
    kill,
    records,
    run,
    start,
    undisturbed,
)
from test_cli import bench, clean

__all__ = ["undisturbed"]  # a fixture
pytestmark = pytest.mark.faults
HERE = "reports/small"

# A stage begins with a file that bench writes then ("" is its start). Somebody out of those that are named is
# killed at a random moment of the span after that, in units of what an undisturbed matrix takes.
Stage = tuple[str, float, tuple[str, ...]]
IMPORTS: Stage = ("", 0.2, ("bench",))
TABLES: Stage = (".mlflow.db.new*", 0.1, ("bench",))
PLANNED: Stage = (f"{HERE}/.lock", 0.05, ("bench",))
WORKERS: Stage = (f"{HERE}/experiment.json", 0.15, ("bench", "group"))
TRAINING: Stage = (f"{HERE}/records/*/checkpoint.safetensors", 0.05, ("bench", "group", "worker"))
EVALUATION: Stage = (f"{HERE}/records/*/weights.safetensors", 0.05, ("bench", "group", "worker"))
RECORDED: Stage = (f"{HERE}/records/*/record.json", 0.05, ("bench", "group"))  # sent to MLflow, and reported
CLOSING: Stage = (
    f"{HERE}/experiment.json",
    0.03,
    ("bench",),
)  # all is done but the report and what MLflow lacks
BEFORE, AFTER, LEAST = (IMPORTS, TABLES, PLANNED, WORKERS), 2, 9
TRAINED = (TRAINING, EVALUATION, RECORDED, IMPORTS) * RUNS  # each time round some run gets its record

# Starts are forked from a process that has imported what bench imports: that alone takes seconds, each time.
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


def command_line(folder: str, environment: dict[str, str]) -> None:
    """`bench run` in this process, in a process group of its own."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    with Path("log").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    from bench.cli import main

    sys.argv = ["bench", "run", "small.yaml", "--workers", "2"]
    main()


class Forked:
    """A matrix under way in a forked process, as far as subprocess.Popen is needed here."""

    stdout = stderr = None

    def __init__(self, folder: Path) -> None:
        (folder / "small.yaml").write_text(SPEC)
        FORKS.set_forkserver_preload(IMPORTED)
        self._process = FORKS.Process(target=command_line, args=(str(folder), clean(folder)))
        self._process.start()
        self.pid = self._process.pid
        self.kill = self._process.kill

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """The exit code, once it has one; subprocess.TimeoutExpired where that takes longer."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("bench run", timeout)
        return code


def begun(folder: Path, pattern: str, since: float) -> bool:
    """Whether such a file was written since; bench may replace or remove it at any moment."""
    times = []
    for file in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            times.append(file.stat().st_mtime)
    return max(times, default=0.0) > since


def killed_in(stage: Stage, folder: Path, seconds: float, chance: random.Random) -> int:
    """Start the matrix and kill it in a stage; how many kills hit a live process, 0 where it ended before.

    Where the first hits a worker, bench goes on with another, and is killed in its turn.
    """
    written, span, targets = stage
    since, killed = time.time(), 0
    process = start(folder) if stage is IMPORTS else Forked(folder)
    whom = chance.choice(targets)
    for each in ("worker", "bench") if whom == "worker" else (whom,):
        deadline = time.monotonic() + LONGEST
        while written and process.poll() is None and not begun(folder, written, since):
            assert time.monotonic() < deadline, f"{written} was not written"
            time.sleep(0.01)
        time.sleep(chance.uniform(0, span * seconds))
        since = time.time()
        killed += kill(process, each)
        print(f"{time.time():.1f}", stage, each, killed, process.poll())
    return killed


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kill_9_at_random_moments_of_every_stage(
    seed: int, undisturbed: tuple[list[dict[str, str]], float], tmp_path: Path, fault: Fault
) -> None:
    """A matrix from its first import to its last report; 27 kills or more in the three together."""
    expected, seconds = undisturbed
    chance = random.Random(seed)
    killed, finished = 0, set[str]()

    def hit(stage: Stage) -> int:
        nonlocal finished
        hits = killed_in(stage, tmp_path, seconds, chance)
        now = {record["id"] for record in records(tmp_path) if record["status"] == "finished"}
        assert finished <= now, "a finished run was lost"
        finished = now
        for report in tmp_path.glob(f"{HERE}/report.md"):
            assert "\n## References\n" in report.read_text(), "half a report"
        return hits

    killed += sum(map(hit, BEFORE))
    for stage in TRAINED:
        if len(finished) < RUNS:
            killed += hit(stage)
    assert len(finished) == RUNS
    closing = 0
    for _ in range(10):  # a start that has little to do may be over before it is hit
        closing += hit(CLOSING) if closing < AFTER else 0
    killed += closing
    assert killed >= LEAST
    last = run(tmp_path)
    assert last.returncode == 0, last.stdout + last.stderr
    assert last.stdout.startswith(f"{RUNS} skipped")
    checked = bench("verify", HERE, cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    check_whole(tmp_path, expected, fault, "kill -9 of bench, its group or a worker", killed)
