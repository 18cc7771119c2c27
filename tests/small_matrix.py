"""A small matrix in real processes, what it leaves behind, and the laws of what it must leave behind."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from factory import TIMES
from filelock import FileLock
from forked import Forked, bench
from test_cli import clean

SPEC = """
question: Does a small matrix survive whatever happens to its machine?
dataset: digits
seeds: 2
evaluation: {importance_samples: 3}
defaults: {epochs: 20, batch_size: 64, latent: 1}
architectures:
  mlp: {encoder: {name: mlp, hidden: [32]}, decoder: {name: mlp, hidden: [32]}}
matrix:
  architecture: [mlp]
  likelihood: [bernoulli, gaussian]
"""
RUNS = 4
LONGEST = 400  # seconds that anything here may take, on a machine that does much else
Fault = Callable[..., None]  # notes a kind, how many were injected and survived, runs lost and doubled


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The results of a matrix that nothing happened to; made once for all."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the processes of a session have folders beside each other
        shared = shared.parent
    folder, kept = shared / "undisturbed", shared / "undisturbed.json"
    with FileLock(shared / "undisturbed.lock", timeout=LONGEST):
        if not kept.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of another process, where this failed
            folder.mkdir()
            done = run(folder)
            assert done.returncode == 0, done.stderr
            kept.write_text(json.dumps(results(folder)))
    rows: list[dict[str, str]] = json.loads(kept.read_text())
    return rows


def run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The small matrix from start to end; subprocess.TimeoutExpired where it takes minutes."""
    (folder / "small.yaml").write_text(SPEC)
    return bench("run", "small.yaml", "--workers", "2", *words, cwd=folder, **environment)


def start(folder: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    """The same, in a process group of its own and under way."""
    (folder / "small.yaml").write_text(SPEC)
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "run", "small.yaml", "--workers", "2", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean(folder) | environment,
        start_new_session=True,
    )


def fork(folder: Path, *words: str) -> Forked:
    """The same, at less cost."""
    (folder / "small.yaml").write_text(SPEC)
    return Forked(folder, ["run", "small.yaml", "--workers", "2", *words], clean(folder))


Matrix = subprocess.Popen[str] | Forked


def results(folder: Path) -> list[dict[str, str]]:
    """The results table but for what is a matter of the clock."""
    with (folder / "reports/small/results.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    dropped = TIMES | {"evaluation_seconds"}
    return [{k: v for k, v in row.items() if k not in dropped} for row in rows]


def records(folder: Path) -> list[dict[str, Any]]:
    """Every record there is: each must be whole at any moment."""
    return [json.loads(f.read_text()) for f in folder.glob("reports/runs/*/record.json")]


def in_mlflow(folder: Path) -> list[dict[str, str]]:
    """Status and tags of the runs in the store; the report's own has no bench.id."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        runs = dict(database.execute("SELECT run_uuid, status FROM runs"))
        tags: dict[str, dict[str, str]] = {run: {"status": status} for run, status in runs.items()}
        for run_id, key, value in database.execute("SELECT run_uuid, key, value FROM tags"):
            tags[run_id][key] = value
    return [*tags.values()]


def check_whole(folder: Path, expected: list[dict[str, str]], fault: Fault, kind: str, injected: int) -> None:
    """After whatever happened: every run once, here and in MLflow, and the results of an undisturbed run."""
    ids = [record["id"] for record in records(folder) if record["status"] == "finished"]
    stored = in_mlflow(folder)
    latest = [run for run in stored if run.get("bench.attempt") == "latest"]
    whole = [r["bench.id"] for r in latest if (r["status"], r.get("outcome")) == ("FINISHED", "finished")]
    lost = 2 * RUNS - len(set(ids)) - len(set(whole))
    doubled = len(ids) - len(set(ids)) + len(latest) - len({r["bench.id"] for r in latest})
    same = results(folder) == expected
    fault(kind, injected=injected, survived=injected if same else 0, lost=lost, doubled=doubled)
    assert same
    assert (lost, doubled) == (0, 0)
    assert [r["status"] for r in stored if r.get("bench.summary") == "report"] == ["FINISHED"]
    assert not [r for r in stored if r["status"] == "RUNNING"]
    assert not [*folder.glob("reports/runs/*/checkpoint.safetensors")]


def worker_of(process: Matrix) -> int | None:
    """Some worker of a matrix under way: a child of the child that workers are forked from."""
    found = str(process.pid)
    for generation in (["-f", "multiprocessing.forkserver"], []):
        words = ["pgrep", "-P", found, *generation]
        done = subprocess.run(words, capture_output=True, text=True, timeout=LONGEST, check=False)
        if not done.stdout:
            return None
        found = done.stdout.split()[0]
    return int(found)


def kill(process: Matrix, whom: str) -> bool:
    """kill -9 of bench, of bench and its workers, or of one worker; whether it hit a live process."""
    if process.poll() is not None:
        return False
    if whom == "worker":
        worker = worker_of(process)
        if worker is None:
            return False
        try:
            os.kill(worker, signal.SIGKILL)
        except ProcessLookupError:  # it has just ended by itself
            return False
        return True
    if whom == "group":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    return end(process) == -signal.SIGKILL


def end(process: Matrix) -> int:
    """Wait for a process, not for the workers that it may leave, and give its exit code."""
    code = process.wait(timeout=LONGEST)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    return code


def until(there: Callable[[], object], process: Matrix) -> None:
    """Wait for something of a matrix under way."""
    deadline = time.monotonic() + LONGEST
    while not there():
        assert process.poll() is None, (
            process.told() if isinstance(process, Forked) else process.communicate()
        )
        assert time.monotonic() < deadline
        time.sleep(0.02)


def begun(folder: Path, pattern: str, since: float) -> bool:
    """Whether such a file was written since; bench may replace or remove it at any moment."""
    times = []
    for file in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            times.append(file.stat().st_mtime)
    return max(times, default=0.0) > since


def processor_time(process: Matrix) -> float:
    """Seconds that the living of a process group have worked: a clock that a busy machine slows down too."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            fields = (
                stat.read_text(errors="replace").rpartition(")")[2].split()
            )  # from the third on, see proc(5)
            if int(fields[2]) == process.pid:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
