"""Groups of runs: what the executor trains together, and that each leaves the record it would leave alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from factory import a_dataset, a_record, a_run, part, timeless

from bench.engine import checkpoint
from bench.evaluation import bound, refit
from bench.evaluation.samples import FeatureNet, Reference
from bench.runs import cluster
from bench.runs import execute as runner
from bench.runs.cluster import left_of, take
from bench.runs.execute import Job, SharedContext, execute, execute_group
from bench.runs.groups import MOST, TaskGroup, groups
from bench.spec.experiment import Run
from bench.store.records import CHECKPOINT, Record, RunFolder, read

CPU = torch.device("cpu")


def workshop() -> SharedContext:
    data = a_dataset()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = FeatureNet((28, 28), 10).eval()
    return SharedContext(data, CPU, Reference.of([net], data.test_images.flatten(1).float() / 255))


@contextmanager
def quickly() -> Iterator[None]:
    """Estimate ln p(x) from few images and few temperatures: it is not looked at here."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("REFITTED", 4), ("ANNEALED", 3), ("SIMULATED", 3)):
            patch.setattr(bound, name, (size, 1000, size))
        patch.setattr(bound, "TEMPERATURES", (8,))
        patch.setattr(refit, "ROUNDS", 1)
        yield


@pytest.fixture(scope="module")
def shared() -> Iterator[SharedContext]:
    """What runs share; they are measured quickly."""
    with quickly():
        yield workshop()


def jobs_of(folder: Path, seeds: list[int], **changes: Any) -> list[Job]:
    runs = [a_run(seed=seed, **changes) for seed in seeds]
    about = {"experiment": "tiny", "git": {}, "command": "bench run"}
    return [Job(f"{r.variant}-s{r.seed}", r, folder / f"s{r.seed}", dict(about)) for r in runs]


class Ears:
    """A listener that remembers, and refuses to hear anything twice."""

    def __init__(self) -> None:
        self.heard: Counter[tuple[Any, ...]] = Counter()
        self.records: dict[str, Record] = {}

    def starting(self, job: Job) -> None:
        self._note(job.id, "starting")

    def event(self, job: Job, kind: str, data: dict[str, Any]) -> None:
        if kind == "image":
            assert Path(data["path"]).is_file(), "a picture is here when it is told of"
            assert Path(data["path"]).is_relative_to(job.folder)
        self._note(job.id, kind, data.get("epoch"), data.get("key"), data.get("step"))

    def ended(self, job: Job, record: Record) -> None:
        self._note(job.id, "ended")
        self.records[job.id] = record

    def _note(self, *what: Any) -> None:
        assert what not in self.heard or what[1] == "retry", f"told twice: {what}"
        self.heard[what] += 1

    def count(self, kind: str) -> int:
        return sum(count for what, count in self.heard.items() if what[1] == kind)


def check_equal(got: Record, expected: Record) -> None:
    """Bitwise what the local executor records, but for times and where it was."""
    aside = {"started", "finished", "evaluation_seconds", "metrics", "curves", "git"}
    aside |= {"node", "retried", "resumed"}
    assert {k: v for k, v in got.items() if k not in aside} == {
        k: v for k, v in expected.items() if k not in aside
    }
    assert timeless(got["metrics"]) == timeless(expected["metrics"])
    assert [*map(timeless, got["curves"])] == [*map(timeless, expected["curves"])]
    assert got["metrics"].keys() == expected["metrics"].keys()


def check_alike(got: Record, expected: Record) -> None:
    """All that two records say, but for when, how long, by which engine, and bytes of files."""
    assert got.keys() == expected.keys()
    for key in got.keys() - {"environment", "started", "finished", "artifacts", "evaluation_seconds"}:
        check_value(got[key], expected[key], key)
    assert got["artifacts"].keys() == expected["artifacts"].keys()
    assert got["evaluation_seconds"].keys() == expected["evaluation_seconds"].keys()


def check_value(got: Any, expected: Any, where: str) -> None:
    # Scores of a few images jump from one neighbour to the next: a hundredth, or two images
    jumpy = ("accuracy", "precision", "recall", "coverage", "frechet")
    if isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for key in got:
            check_value(got[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(got) == len(expected)
        for index, pair in enumerate(zip(got, expected, strict=True)):
            check_value(*pair, f"{where}.{index}")
    elif isinstance(expected, float):
        if not any(word in where for word in ("second", "memory")):
            relative, absolute = (1e-2, 0.03) if any(word in where for word in jumpy) else (1e-3, 1e-5)
            assert got == pytest.approx(expected, rel=relative, abs=absolute), where
    else:
        assert got == expected, where


def test_a_group_leaves_the_records_of_its_runs_alone(tmp_path: Path, shared: SharedContext) -> None:
    told: list[tuple[str, str]] = []
    grouped = jobs_of(tmp_path / "group", [0, 4])
    for job in grouped:
        job.folder.mkdir(parents=True)
        (job.folder / "left over").touch()  # of an attempt that was broken off
    records = list(execute_group(grouped, shared, lambda run_id, kind, data: told.append((run_id, kind))))
    for job, record in zip(grouped, records, strict=True):
        assert record == {k: v for k, v in (read(job.folder) or {}).items() if k != "format"}
        assert "left over" not in record["artifacts"]
        environment = record["environment"]
        assert (environment["engine"], environment["replicas"]) == ("stacked", 2)
        assert environment["engine_note"] == "no CUDA graph on cpu"
        kinds = [kind for run_id, kind in told if run_id == job.id]
        assert kinds.count("epoch") == 2
        assert kinds.count("evaluate") == 1
    for job, record in zip(jobs_of(tmp_path / "alone", [0, 4]), records, strict=True):
        check_alike(record, execute(job, shared, lambda kind, data: None))


def test_a_diverged_run_of_a_group_is_recorded_and_the_others_go_on(
    tmp_path: Path, shared: SharedContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = runner.untrained

    def untrained(run: Run, shape: Any) -> Any:
        model = whole(run, shape)
        if run.seed == 1:
            torch.nn.init.constant_(next(model.encoder.parameters()), torch.nan)
        return model

    monkeypatch.setattr(runner, "untrained", untrained)
    good, bad = execute_group(jobs_of(tmp_path, [0, 1]), shared, lambda run_id, kind, data: None)
    assert good["status"] == "finished"
    assert bad["status"] == "diverged"
    assert bad["diverged"] == {"epoch": 1, "term": "training reconstruction"}
    for fact in ("beta_eff", "likelihood_class", "data"):
        assert bad[fact] == good[fact], "known before training"
    assert bad["environment"]["engine"] == "stacked"
    json.dumps([good, bad], allow_nan=False)


def test_what_cannot_be_stacked_is_done_one_by_one(
    tmp_path: Path, shared: SharedContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = runner.train

    def full(*given: Any, stacked: bool) -> Any:
        if stacked:
            raise torch.OutOfMemoryError("out of memory\nTried to allocate much")
        return train(*given)

    monkeypatch.setattr(runner, "train", full)
    for record in execute_group(jobs_of(tmp_path, [0, 1]), shared, lambda run_id, kind, data: None):
        assert record["status"] == "finished"
        assert (record["environment"]["engine"], record["environment"]["replicas"]) == ("fast", 1)
        assert record["environment"]["engine_note"] == "not stacked: OutOfMemoryError: out of memory"


def test_groups_are_seeds_of_one_variant() -> None:
    """In the order of the first of each: a matrix is in the order of seeds."""
    folder, cuda = Path("nowhere"), torch.device("cuda")
    jobs = [j for s in range(MOST + 2) for v in ("a", "b") for j in jobs_of(folder, [s], variant=v)]

    def sizes(jobs: list[Job], device: torch.device) -> list[tuple[str, list[int]]]:
        made = [[*group.jobs.values()] for group in groups(jobs, device, Ears(), 2)]
        return [(group[0].run.variant, [job.run.seed for job in group]) for group in made]

    first, rest = list(range(MOST)), [MOST, MOST + 1]
    assert sizes(jobs, cuda) == [("a", first), ("b", first), ("a", rest), ("b", rest)]
    assert sizes(jobs, CPU) == [(job.run.variant, [job.run.seed]) for job in jobs]
    other = jobs_of(folder, [0], variant="a", optimizer=part("adam", lr=0.1))
    assert len(sizes([*jobs[:1], *other], cuda)) == 2


@pytest.mark.parametrize(
    "over", [lambda group: group.lose("killed"), lambda group: group.end("interrupted", "")]
)
def test_a_worker_that_ends_between_its_record_and_the_news_of_it_loses_nothing(
    over: Callable[[TaskGroup], None], tmp_path: Path
) -> None:
    jobs, ears = jobs_of(tmp_path, [0, 1]), Ears()
    record = a_record(jobs[0].id)
    for job in jobs:  # of an earlier command, to be done afresh
        RunFolder(job.folder).write_record(a_record(job.id, "diverged"))
    group = TaskGroup(jobs, ears, 2)
    group.begin()
    RunFolder(jobs[0].folder).write_record(record)
    over(group)
    assert ears.records[jobs[0].id] == read(jobs[0].folder) == {"format": 2, **record}
    assert (read(jobs[1].folder) or {}).get("status") != "diverged"


def test_an_exception_ends_its_run_and_no_other(
    tmp_path: Path, shared: SharedContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is recorded with where it came from."""
    train = runner.train

    def a_bug(runs: list[Run], *words: Any, stacked: bool) -> Any:
        if runs[0].seed == 1:
            raise RuntimeError("shapes do not match")
        return train(runs, *words)

    monkeypatch.setattr(runner, "train", a_bug)
    lost, other = (execute(job, shared, lambda *_: None) for job in jobs_of(tmp_path, [1, 2]))
    assert other["status"] == "finished"
    assert read(tmp_path / "s1") == lost | {"format": 2}
    assert (lost["status"], lost["environmental"]) == ("failed", False)
    assert lost["reason"] == "RuntimeError: shapes do not match"
    assert "a_bug" in lost["traceback"]


def test_memory_and_disk_are_worth_another_attempt() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    for error in (caught.value, MemoryError(), torch.OutOfMemoryError(), OSError(28, "No space left")):
        assert runner.environmental(error)
    assert not runner.environmental(RuntimeError("shapes do not match"))


def test_what_a_task_sends_makes_the_folder_that_a_run_here_makes(
    tmp_path: Path, shared: SharedContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, with a checkpoint at every event; then the same run again, from a checkpoint."""
    monkeypatch.setattr(cluster, "_unpack", lambda parcel: shared)
    monkeypatch.setattr(cluster, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))  # of every epoch, however slow the disk
    (here,) = jobs_of(tmp_path / "here", [0], epochs=4)
    expected = execute(here, shared, lambda kind, data: None)
    (job,) = jobs_of(tmp_path / "there", [0], epochs=4)
    ears = Ears()
    group = TaskGroup([job], ears, 2)
    for item in cluster.work(group.begin(), {}, ["parcel"]):
        take(item, group)
        if item[1] == "epoch" and item[2]["epoch"] == 3:
            break  # the node is lost; what it told is here
    assert (job.folder / CHECKPOINT).is_file()
    group.lose("its node was lost")
    assert group.jobs[job.id].resume == 2
    for item in cluster.work(group.begin(), left_of(group), ["parcel"]):
        take(item, group)
    got = ears.records[job.id]
    check_equal(got, expected)
    assert (got["resumed"], got["retried"]) == ([2], "its node was lost")
    assert RunFolder(job.folder).artifacts() == got["artifacts"] == expected["artifacts"]
    assert not (job.folder / CHECKPOINT).exists()
    assert read(job.folder) == {"format": 2, **got}
