"""A budget of hours: which rounds of seeds are begun, when all ends, and what more time would decide."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forked
import pytest
import synthetic
from factory import a_run
from hypothesis import example, given
from hypothesis import strategies as st
from synthetic import settings

import bench
from bench.cli.outlook import times
from bench.errors import BenchError
from bench.report import write_report
from bench.report.results import load
from bench.report.undecided import undecided
from bench.runs.budget import Budget, StopMatrixError
from bench.runs.execute import Job
from bench.runs.groups import TaskGroup, Waiting
from bench.runs.order import Prediction


@dataclass
class Clock:
    """Time that passes when it is told to."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class Silent:
    """A listener that does not listen."""

    def starting(self, job: Job) -> None:
        pass

    def event(self, job: Job, kind: str, data: dict[str, Any]) -> None:
        pass

    def ended(self, job: Job, record: dict[str, Any]) -> None:
        pass


def jobs(seeds: int, variants: int = 2) -> list[Job]:
    return [
        Job(f"v{v}-s{seed}", a_run(variant=f"v{v}", seed=seed), Path("x"), {})
        for seed in range(seeds)
        for v in range(variants)
    ]


def done_within(seconds: float, actual: Callable[[int], float], rounds: int, *, report: float = 0.0) -> int:
    """Play a matrix of two variants on one worker; the seeds done of those foreseen with 10 seconds a run."""
    clock, every = Clock(), jobs(rounds)
    foreseen = Prediction({job.id: 10.0 for job in every}, report=report)
    budget = Budget(seconds, foreseen, workers=1, clock=clock)
    waiting = Waiting([TaskGroup([job], Silent(), 1) for job in every], budget)
    ended = 0
    while group := waiting.take():
        (job,) = group.jobs.values()
        budget.starting(job)
        clock.now += actual(job.run.seed)
        budget.check()
        budget.ended(job, "finished")
        ended += 1
    assert ended % 2 == 0, "rounds are whole"
    return ended // 2


@pytest.mark.parametrize(
    ("seconds", "actual", "rounds"),
    [
        (20, 10, 1), (39, 10, 1), (40, 10, 2), (1000, 10, 5),  # as foreseen; 5 is all of them
        (60, 20, 1), (80, 20, 2), (60, 5, 5),  # twice as slow, twice as fast
    ],
)  # fmt: skip
def test_as_many_whole_rounds_are_done_as_fit_at_the_pace_so_far(seconds, actual, rounds):
    assert done_within(seconds + 0.001, lambda _: actual, 5) == rounds


@given(st.floats(20.01, 300), st.floats(0.2, 1.0), st.integers(1, 6))
@example(80.0, 1.0, 6)  # the fourth round would end with the time
@example(60.00000000000001, 0.75, 6)
def test_no_round_is_begun_that_ends_too_late_where_runs_take_what_they_took(seconds, pace, rounds):
    """Then nothing is stopped half-way, and one more round would not have fitted."""
    done = done_within(seconds, lambda _: 10 * pace, rounds)
    assert done * 20 * pace <= seconds
    assert done == rounds or (done + 1) * 20 * pace > seconds - 1e-6


def test_the_report_has_its_time():
    assert done_within(45, lambda _: 10, 5) == 2
    assert done_within(45, lambda _: 10, 5, report=6) == 1


def test_the_first_round_is_begun_whatever_it_takes_and_stopped_when_time_is_over():
    with pytest.raises(StopMatrixError):
        done_within(15, lambda _: 10, 3)


def test_what_is_under_way_counts_for_the_next_round():
    clock, every = Clock(), jobs(2)
    budget = Budget(25.001, Prediction({job.id: 10.0 for job in every}), workers=2, clock=clock)
    assert budget.fits(every[:2])
    for job in every[:2]:
        budget.starting(job)
    clock.now += 15
    budget.ended(every[0], "finished")
    assert budget.pace == 1.5
    assert not budget.fits(every[2:])  # two of 15 seconds begin after 15, beside one that should be over
    budget.over += 5
    assert budget.fits(every[2:])
    budget.starting(every[2])
    assert not budget.fits(every[2:])  # one of them waits for that


def test_a_run_taken_up_in_its_midst_tells_nothing_of_the_pace():
    clock, (job, *_) = Clock(), jobs(1)
    budget = Budget(35, Prediction({job.id: 10.0}), workers=1, clock=clock)
    budget.starting(resumed := Job(job.id, job.run, job.folder, {}, resume=3))
    clock.now += 1
    budget.ended(resumed, "finished")
    budget.starting(job)
    budget.ended(job, "failed")
    assert budget.pace == 1


def test_what_is_tried_again_needs_no_leave():
    clock, every = Clock(), jobs(2, variants=1)
    budget = Budget(5, Prediction({job.id: 10.0 for job in every}), workers=1, clock=clock)
    waiting = Waiting([TaskGroup([job], Silent(), 1) for job in every], budget)
    first = waiting.take()
    assert first
    waiting.again(first)
    assert waiting.take() is first
    assert waiting.take() is None
    assert budget.refused
    assert not len(waiting)


def test_a_plan_says_which_rounds_fit():
    foreseen = Prediction(rounds={3: 10.0, 5: 20.0}, report=4.0, total=24.0)
    run = SimpleNamespace(patience=0)
    for seconds, told in ((25, "everything fits"), (20, "seeds 3 fit"), (10, "not one round of seeds fits")):
        request = SimpleNamespace(hours=seconds / 3600)
        plan: Any = SimpleNamespace(todo=[SimpleNamespace(run=run)], request=request)
        assert told in [*times(plan, foreseen)][-1]


# What more time would decide


def folder(path: Path, spread: float, gap: float, **more: Any) -> Path:
    def measure(name: str, _: synthetic.Settings, seed: int) -> dict[str, float]:
        return {"elbo_bernoulli": -100.0 + gap * (name == "b") + spread * (seed - 1) * (-1) ** (name == "b")}

    return synthetic.write(
        path, {"a": settings(), "b": settings(latent=9)}, (0, 1, 2), measure=measure, **more
    )


def test_open_comparisons_stand_with_their_seeds_and_time(tmp_path: Path):
    results = load(folder(tmp_path / "x", 1.0, 1.5, budget={"hours": 2.0}))
    found = undecided(results, [])
    assert found is not None
    (row,) = found.rows
    assert {row.a.name, row.b.name} == {"a", "b"}
    # Spread 1 in each, 1.5 apart: t-tests of 8 and more a group have a power of 80 % (Cohen 1988, table 2.4)
    assert row.seeds is not None
    assert row.seeds in (8, 9)
    assert row.add == row.seeds - 3
    record = row.a.first.record
    seed = sum(each["train_seconds"] for each in record["curves"]) + sum(
        record["evaluation_seconds"].values()
    )
    assert found.seconds == row.seconds == pytest.approx(2 * row.add * seed)


def test_what_is_shown_or_equal_is_not_open_and_without_a_budget_there_is_no_section(tmp_path: Path):
    budget = {"budget": {"hours": 2.0}}
    for name, spread, gap in (("apart", 0.1, 5.0), ("equal", 0.05, 0.1)):
        found = undecided(load(folder(tmp_path / name / "x", spread, gap, **budget)), [])
        assert found is not None
        assert not found.rows
    title = "What more time would decide"
    plain, given = (
        folder(tmp_path / "plain" / "x", 1.0, 1.5),
        folder(tmp_path / "b" / "x", 1.0, 1.5, **budget),
    )
    assert title not in write_report(plain, figures=False).read_text()
    told = write_report(given, figures=False).read_text()
    assert f"## {title}" in told
    assert "after 2 hours" in told
    assert title in (given / "report.html").read_text()
    (given / "experiment.json").write_text((plain / "experiment.json").read_text())
    assert title not in write_report(given, figures=False).read_text()


def test_runs_that_are_left_are_told_with_their_time(tmp_path: Path):
    lost = {("a", 2): "missing", ("b", 2): "interrupted"}
    found = undecided(load(folder(tmp_path / "x", 1.0, 1.5, status=lost, budget={"hours": 1.0})), [])
    assert found is not None
    assert found.runs == 2
    assert found.runs_seconds
    assert found.runs_seconds > 0


# The command

SPEC = """
question: What fits?
dataset: digits
seeds: 3
evaluation: {importance_samples: 3}
defaults: {epochs: 1, latent: 1, encoder: {name: mlp, hidden: [8]}, decoder: {name: mlp, hidden: [8]}}
variants: {a: {}}
"""


def test_a_budget_that_is_over_leaves_runs_that_the_same_command_does(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SPEC)
    home = tmp_path / "reports/small"
    stopped = forked.bench("run", "small.yaml", "--hours", "0.0001", "--workers", "1", cwd=tmp_path)
    assert stopped.returncode == 4, stopped.stderr
    assert "budget   0.0001 h: not one round of seeds fits; the first is begun" in stopped.stderr
    assert "3 runs left, as it was over before a round of seeds was" in " ".join(stopped.stdout.split())
    assert json.loads((home / "experiment.json").read_text())["budget"] == {"hours": 0.0001}
    assert "Planned and not done: 3 runs" in (home / "report.md").read_text()
    planned = forked.bench("plan", "small.yaml", "--hours", "5", cwd=tmp_path)
    assert "budget   5 h: everything fits" in planned.stdout
    whole = forked.bench("run", "small.yaml", "--hours", "5", "--workers", "2", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert "5 h: everything is done" in whole.stdout
    assert "Covers 3 of 3 runs" in (home / "report.md").read_text()
    assert "What more time would decide" in (home / "report.md").read_text()
    without = forked.bench("run", "small.yaml", cwd=tmp_path)
    assert without.returncode == 0
    assert "What more time would decide" not in (home / "report.md").read_text()


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf"])
def test_hours_are_more_than_none(hours: str, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SPEC)
    refused = forked.bench("plan", "small.yaml", "--hours", hours, cwd=tmp_path)
    assert refused.returncode == 2
    assert "give hours above 0, such as 2 or 0.5" in refused.stderr
    with pytest.raises(BenchError, match="give hours above 0"):
        bench.run(tmp_path / "small.yaml", hours=float(hours))
