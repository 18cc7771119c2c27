"""kill -9 all along the life of a matrix, at random moments of every stage: all is done in the end, once."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from small_matrix import (
    LONGEST,
    RUNS,
    Fault,
    begun,
    check_whole,
    fork,
    kill,
    records,
    run,
    start,
    undisturbed,
)
from test_cli import bench

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
CLOSING: Stage = (f"{HERE}/experiment.json", 0.03, ("bench",))  # all done but the report and MLflow's rest
BEFORE, LEAST = (IMPORTS, TABLES, PLANNED, WORKERS), 13
TRAINED = (TRAINING, EVALUATION, RECORDED, IMPORTS) * RUNS  # each time round some run gets its record


def killed_in(stage: Stage, folder: Path, seconds: float, chance: random.Random) -> int:
    """Start the matrix and kill it in a stage; how many kills hit a live process, 0 where it ended before.

    Where the first hits a worker, bench goes on with another, and is killed in its turn.
    """
    written, span, targets = stage
    since, killed = time.time(), 0
    process = start(folder) if stage is IMPORTS else fork(folder)
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


@pytest.mark.parametrize("seed", [0, 1])
def test_kill_9_at_random_moments_of_every_stage(
    seed: int, undisturbed: tuple[list[dict[str, str]], float], tmp_path: Path, fault: Fault
) -> None:
    """A matrix from its first import to its last report; 26 kills or more in the two together."""
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
    for closing in range(20):  # twice at least; a start that has little to do may be over before it is hit
        if closing < 2 or killed < LEAST:
            killed += hit(CLOSING)
    assert killed >= LEAST
    last = run(tmp_path)
    assert last.returncode == 0, last.stdout + last.stderr
    assert last.stdout.startswith(f"{RUNS} skipped")
    checked = bench("verify", HERE, cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    check_whole(tmp_path, expected, fault, "kill -9 of bench, its group or a worker", killed)
