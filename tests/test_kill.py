"""kill -9 all along the life of a matrix, at random moments of every stage: all is done in the end, once."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from forked import Forked
from small_matrix import (
    LONGEST,
    RUNS,
    Fault,
    Matrix,
    begun,
    check_whole,
    end,
    fork,
    kill,
    processor_time,
    records,
    start,
    undisturbed,
)
from test_cli import clean

__all__ = ["undisturbed"]  # a fixture
pytestmark = pytest.mark.faults
HERE = "reports/small"

# A stage begins with a file that bench writes then ("" is its start). Somebody out of those that are named is
# killed at a random moment of it: after up to so many seconds of the processor time of bench and its workers.
Stage = tuple[str, float, tuple[str, ...]]
IMPORTS: Stage = ("", 6, ("bench",))
TABLES: Stage = (".mlflow.db.new*", 1.5, ("bench",))
PLANNED: Stage = (f"{HERE}/.lock", 1, ("bench",))
WORKERS: Stage = (f"{HERE}/experiment.json", 6, ("bench", "group"))
TRAINING: Stage = ("reports/runs/*/checkpoint.safetensors", 0.7, ("bench", "group", "worker"))
EVALUATION: Stage = ("reports/runs/*/weights.safetensors", 1.5, ("bench", "group", "worker"))
RECORDED: Stage = ("reports/runs/*/record.json", 1.5, ("bench", "group"))  # sent to MLflow, and reported
CLOSING: Stage = (f"{HERE}/experiment.json", 0.8, ("bench",))  # all is done but the report and MLflow's rest
BEFORE, TRAINED, LEAST = (IMPORTS, TABLES, PLANNED, WORKERS), (TRAINING, EVALUATION, RECORDED) * 2, 10


def wait_for(stage: Stage, folder: Path, process: Matrix, since: float, share: float) -> None:
    """Until so much of a stage is over, or the process."""
    written, span, _ = stage
    deadline = time.monotonic() + LONGEST
    while process.poll() is None and written and not begun(folder, written, since):
        assert time.monotonic() < deadline, f"{written} was not written"
        time.sleep(0.01)
    moment = processor_time(process) + share * span
    while process.poll() is None and processor_time(process) < moment:
        assert time.monotonic() < deadline, f"{span} s are not over"
        time.sleep(0.02)


def killed_in(stage: Stage, folder: Path, chance: random.Random) -> int:
    """Start the matrix and kill it in a stage; how many kills hit a live process, 0 where it ended before.

    Where the first hits a worker, bench goes on with another, and is killed in its turn.
    """
    since, killed = time.time(), 0
    process = start(folder) if stage is IMPORTS else fork(folder)
    whom = chance.choice(stage[2])
    for each in ("worker", "bench") if whom == "worker" else (whom,):
        wait_for(stage, folder, process, since, chance.random())
        since = time.time()
        killed += kill(process, each)
    return killed


@pytest.mark.parametrize("seed", [0, 1])
def test_kill_9_at_random_moments_of_every_stage(
    seed: int, undisturbed: list[dict[str, str]], tmp_path: Path, fault: Fault
) -> None:
    """A matrix from its first import to its last report; 20 kills or more in the two together."""
    chance = random.Random(seed)
    killed, finished = 0, set[str]()

    def hit(stage: Stage) -> int:
        nonlocal finished
        hits = killed_in(stage, tmp_path, chance)
        now = {record["id"] for record in records(tmp_path) if record["status"] == "finished"}
        assert finished <= now, "a finished run was lost"
        finished = now
        for report in tmp_path.glob(f"{HERE}/report.md"):
            text = report.read_text()
            assert "References" in text, "half a report"
            assert text.endswith("</details>\n"), "half a report"
        return hits

    killed += sum(map(hit, (*BEFORE, *TRAINED)))
    rest = fork(tmp_path)
    assert end(rest) == 0, rest.told()
    for closing in range(20):  # twice at least; a start that has little to do may be over before it is hit
        if closing < 2 or killed < LEAST:
            killed += hit(CLOSING)
    assert killed >= LEAST
    last = fork(tmp_path)
    assert end(last) == 0, last.told()
    assert f"{RUNS} skipped" in last.told()
    checked = Forked(tmp_path, ["verify", HERE], clean(tmp_path))
    assert end(checked) == 0, checked.told()
    check_whole(tmp_path, undisturbed, fault, "kill -9 of bench, its group or a worker", killed)
