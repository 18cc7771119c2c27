"""kill -9 at any moment: all is done in the end, and done once."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from small_matrix import RUNS, SPEC, Fault, check_whole, kill, records, results, run, start

pytestmark = pytest.mark.faults
LONG = SPEC.replace("epochs: 30", "epochs: 300").replace("epochs: 6", "epochs: 60")


@pytest.mark.parametrize(
    ("spec", "kills", "window"),
    [(LONG, 17, (0.01, 0.35)), (SPEC, 8, (0.5, 0.95))],
    ids=["a long matrix, again and again", "short ones, towards their ends"],
)
def test_kill_9_at_random_moments(
    spec: str, kills: int, window: tuple[float, float], tmp_path: Path, fault: Fault
) -> None:
    """From the first import to the last report; `window` in units of what a matrix takes undisturbed."""
    whole = tmp_path / "undisturbed"
    whole.mkdir()
    started = time.monotonic()
    assert run(whole, spec=spec).returncode == 0
    seconds = time.monotonic() - started
    chance = random.Random(0)
    killed, matrix = 0, 0
    while killed < kills:
        matrix += 1
        folder = tmp_path / str(matrix)
        folder.mkdir()
        finished: set[str] = set()
        going_on = True
        while going_on and killed < kills:
            process = start(folder, spec=spec)
            time.sleep(chance.uniform(*window) * seconds)
            if chance.random() < 0.25 and kill(process, "worker"):
                killed += 1
                time.sleep(chance.uniform(0, 0.2) * seconds)  # the matrix goes on with another one
            going_on = kill(process, chance.choice(["bench", "bench", "group"]))
            killed += going_on
            now = {record["id"] for record in records(folder) if record["status"] == "finished"}
            assert finished <= now, "a finished run was lost"
            finished = now
            if report := [*folder.glob("reports/small/report.md")]:
                assert "## " in report[0].read_text()
        last = run(folder, spec=spec)
        assert last.returncode == 0, last.stdout + last.stderr
        assert run(folder, spec=spec).stdout.startswith(f"{RUNS} skipped")
        check_whole(folder, results(whole), fault, "kill -9 of bench, its group or a worker", 0)
    fault("kill -9 of bench, its group or a worker", injected=killed, survived=killed)
