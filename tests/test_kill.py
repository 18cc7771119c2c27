"""kill -9 at any moment: all is done in the end, and done once."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from small_matrix import RUNS, Fault, check_whole, kill, records, run, start, undisturbed

__all__ = ["undisturbed"]  # a fixture
pytestmark = pytest.mark.faults
KILLS = 25


def test_kill_9_at_random_moments(
    undisturbed: tuple[list[dict[str, str]], float], tmp_path: Path, fault: Fault
) -> None:
    """At moments from the first import to the last report."""
    expected, seconds = undisturbed
    chance = random.Random(0)
    kills, matrix = 0, 0
    while kills < KILLS:
        matrix += 1
        folder = tmp_path / str(matrix)
        folder.mkdir()
        finished: set[str] = set()
        while kills < KILLS:
            process = start(folder)
            time.sleep(chance.uniform(0.1, 0.8) * seconds)
            killed = kill(process, chance.choice(["bench", "bench", "group", "worker"]))
            kills += killed
            if process.poll() is None:
                process.communicate(timeout=240)  # only a worker was killed: the matrix goes on
            now = {record["id"] for record in records(folder) if record["status"] == "finished"}
            assert finished <= now, "a finished run was lost"
            finished = now
            if report := [*folder.glob("reports/small/report.md")]:
                assert "## " in report[0].read_text()
            if not killed:
                break
        last = run(folder)
        assert last.returncode == 0, last.stdout + last.stderr
        assert run(folder).stdout.startswith(f"{RUNS} skipped")
        check_whole(folder, expected, fault, "kill -9 of bench, its group or a worker", 0)
    fault("kill -9 of bench, its group or a worker", injected=kills, survived=kills)
