"""A small matrix in real processes, what it leaves behind, and the laws of what it must leave behind."""

from __future__ import annotations

import csv
import json
import os
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
from test_cli import TIMES, bench, clean

SPEC = """
question: Does a small matrix survive whatever happens to its machine?
dataset: digits
seeds: 2
evaluation: {importance_samples: 3}
defaults: {epochs: 30, batch_size: 64, latent: 2}
variants:
  mlp: {encoder: {name: mlp, hidden: [32]}, decoder: {name: mlp, hidden: [32]}}
  conv: {encoder: conv-bn, decoder: conv-bn, epochs: 6}
"""
RUNS = 4
Fault = Callable[..., None]  # notes a kind, how many were injected and survived, runs lost and doubled


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, str]], float]:
    """The results of a run that nothing happened to, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    started = time.monotonic()
    done = run(folder)
    assert done.returncode == 0, done.stderr
    return results(folder), time.monotonic() - started


def run(folder: Path, *words: str, spec: str = SPEC, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "small.yaml").write_text(spec)
    return bench("run", "small.yaml", "--workers", "2", *words, cwd=folder, **environment)


def start(folder: Path, *words: str, spec: str = SPEC, **environment: str) -> subprocess.Popen[str]:
    """The same, in a process group of its own and under way."""
    (folder / "small.yaml").write_text(spec)
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "run", "small.yaml", "--workers", "2", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean(folder) | environment,
        start_new_session=True,
    )


def results(folder: Path) -> list[dict[str, str]]:
    """The results table but for what is a matter of the clock."""
    with (folder / "reports/small/results.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    dropped = TIMES | {"evaluation_seconds"}
    return [{k: v for k, v in row.items() if k not in dropped} for row in rows]


def records(folder: Path) -> list[dict[str, Any]]:
    """Every record there is: each must be whole at any moment."""
    return [json.loads(f.read_text()) for f in folder.glob("reports/small/records/*/record.json")]


def in_mlflow(folder: Path) -> list[dict[str, str]]:
    """Status and tags of the runs in the store, the report's own left out."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        runs = dict(database.execute("SELECT run_uuid, status FROM runs"))
        tags: dict[str, dict[str, str]] = {run: {"status": status} for run, status in runs.items()}
        for run_id, key, value in database.execute("SELECT run_uuid, key, value FROM tags"):
            tags[run_id][key] = value
    return [found for found in tags.values() if "bench.id" in found]


def check_whole(folder: Path, expected: list[dict[str, str]], fault: Fault, kind: str, injected: int) -> None:
    """After whatever happened: every run once, here and in MLflow, and the results of an undisturbed run."""
    ids = [record["id"] for record in records(folder) if record["status"] == "finished"]
    latest = [run for run in in_mlflow(folder) if run["bench.attempt"] == "latest"]
    whole = [r["bench.id"] for r in latest if (r["status"], r.get("outcome")) == ("FINISHED", "finished")]
    lost = 2 * RUNS - len(set(ids)) - len(set(whole))
    doubled = len(ids) - len(set(ids)) + len(latest) - len({r["bench.id"] for r in latest})
    same = results(folder) == expected
    fault(kind, injected=injected, survived=injected if same else 0, lost=lost, doubled=doubled)
    assert same
    assert (lost, doubled) == (0, 0)
    assert not [r for r in in_mlflow(folder) if r["status"] == "RUNNING"]
    assert not [*folder.glob("reports/small/records/*/checkpoint.safetensors")]


def worker_of(process: subprocess.Popen[str]) -> int | None:
    """Some worker of a matrix under way."""
    found = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True, check=False
    )
    return int(found.stdout.split()[0]) if found.stdout.split() else None


def kill(process: subprocess.Popen[str], whom: str) -> bool:
    """kill -9 of bench, of bench and its workers, or of one worker; whether there was one to kill."""
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
    process.communicate(timeout=60)
    return True


def until(there: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait for something of a matrix under way."""
    deadline = time.monotonic() + 120
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
