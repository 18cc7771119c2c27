"""Which runs are to be done, and why: what is finished stays, what changed is told."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from factory import a_dataset

from bench.errors import BenchError
from bench.runs.order import ends, in_order
from bench.runs.plan import Plan, make_plan
from bench.runs.request import Request
from bench.spec.resolve import load
from bench.store.experiments import ExperimentFolder
from bench.store.records import RunFolder

ROOT = Path(__file__).parents[1]

SPEC = """
question: What is to be done?
dataset: digits
seeds: [0, 1]
defaults: {epochs: 2, latent: 2, encoder: {name: mlp, hidden: [8]}, decoder: {name: mlp, hidden: [8]}}
variants:
  a: {}
  b: {batch_size: 64}
"""


def plan(folder: Path, spec: str = SPEC, **options: Any) -> Plan:
    """The plan of a file, as it would be written before the runs are done."""
    (folder / "small.yaml").write_text(spec)
    made = make_plan(Request(load(folder / "small.yaml"), reports=folder / "reports", **options))
    made.write()
    return made


def record(made: Plan, key: str, status: str = "finished", reason: str | None = None, **more: Any) -> None:
    """Leave the record of a planned run."""
    (run,) = [planned.run for planned in made.runs if planned.key == key][:1]
    RunFolder(made.home.runs / key).write_record(
        {
            "id": "made-s0-00000000", "variant": run.variant, "seed": run.seed, "status": status,
            "reason": reason, "experiment": "small", "run": run.model_dump(mode="json"), **more,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("status", "reason", "todo", "why"),
    [
        ("finished", None, False, "finished"),
        ("diverged", "kl became infinite", False, "diverged: kl became infinite"),
        ("failed", "out of memory", True, "failed before: out of memory"),
        ("interrupted", "Ctrl-C", True, "interrupted before: Ctrl-C"),
    ],
)
def test_a_record_decides(tmp_path: Path, status: str, reason: str | None, todo: bool, why: str) -> None:
    first = plan(tmp_path)
    record(first, first.runs[0].key, status, reason)
    again = plan(tmp_path)
    assert [(p.todo, p.why) for p in again.runs] == [(todo, why), *[(True, "never run")] * 3]
    assert plan(tmp_path, fresh=True).runs[0].why == "asked for by --fresh"
    assert len(plan(tmp_path, fresh=True).todo) == 4


def test_what_changed_is_told(tmp_path: Path) -> None:
    first = plan(tmp_path)
    for planned in first.runs:
        record(first, planned.key)
    changed = plan(
        tmp_path, SPEC.replace("batch_size: 64", "batch_size: 32, optimizer: {name: adam, lr: 0.5}")
    )
    assert [p.why for p in changed.runs[:2]] == [
        "finished",
        "changed: batch_size: 64 → 32, optimizer.lr: 0.001 → 0.5",
    ]


def test_what_was_done_for_another_experiment_is_done(tmp_path: Path) -> None:
    first = plan(tmp_path)
    for planned in first.runs:
        record(first, planned.key, experiment="documents")
    (tmp_path / "mine.yaml").write_text(
        "extends: small.yaml\nquestion: And mine?\nvariants: {c: {batch_size: 16}, d: {batch_size: 64}}\n"
    )
    mine = make_plan(Request(load(tmp_path / "mine.yaml"), reports=tmp_path / "reports"))
    assert [p.id.rpartition("-")[0] for p in mine.todo] == ["c-s0", "c-s1"]
    assert {p.why for p in mine.runs if not p.todo} == {"finished, made for documents"}


def test_two_names_of_one_run_are_done_once(tmp_path: Path) -> None:
    made = plan(tmp_path, SPEC + "  same: {}\n", seeds=(3,))
    assert len(made.runs) == 3
    assert [p.run.variant for p in made.todo] == ["a", "b"]
    assert made.runs[0].key == made.runs[2].key


def test_only_leaves_others_alone(tmp_path: Path) -> None:
    made = plan(tmp_path, only=("b",))
    assert [p.why for p in made.runs] == ["left out by --only", "never run"] * 2
    assert {p.run.variant for p in made.todo} == {"b"}


def test_another_precision_is_another_matrix_and_the_same_is_not(tmp_path: Path) -> None:
    made, same, other = (plan(tmp_path, precision=given) for given in (None, "fp32", "bf16"))
    assert [p.key for p in same.runs] == [p.key for p in made.runs]
    assert [p.folder.name for p in (made, same, other)] == ["small", "small", "small-bf16"]
    assert {p.run.precision for p in other.runs} == {"bf16"}
    assert not {p.key for p in other.runs} & {p.key for p in made.runs}
    assert other.request.command().endswith("small.yaml --precision bf16")


def test_an_epoch_without_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="b: drop_last leaves no batch, as batch_size 6000"):
        plan(tmp_path, SPEC.replace("batch_size: 64", "batch_size: 6000, drop_last: true"))


def test_an_experiment_may_not_be_called_as_the_store(tmp_path: Path) -> None:
    (tmp_path / "runs.yaml").write_text(SPEC)
    with pytest.raises(BenchError, match="runs is the folder of all runs"):
        make_plan(Request(load(tmp_path / "runs.yaml"), reports=tmp_path / "reports"))


def test_published_runs_count_as_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """README's example: variants beside the published ones, of which the clone holds the records alone."""
    published = ExperimentFolder(ROOT / "reports/mnist/all")
    digest = next(iter(published.records().values()))["data"]["digest"]
    data = replace(a_dataset(), name="mnist", digest=digest)
    monkeypatch.setattr("bench.runs.plan.data_of", lambda *_, **__: data)
    monkeypatch.setattr("bench.runs.plan._check_batches", lambda *_: None)  # the stand-in has few images
    readme = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"```yaml\n# mine\.yaml\n(.*?)```", readme, re.DOTALL)
    (part,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (tmp_path / "my_parts.py").write_text(part)
    (tmp_path / "mine.yaml").write_text(example.replace("experiments/", f"{ROOT}/experiments/"))
    made = make_plan(Request(load(tmp_path / "mine.yaml"), reports=ROOT / "reports/mnist"))
    assert Counter(p.run.variant for p in made.todo) == {"small": 3, "dropped": 3}
    assert len(made.runs) == 96
    why = {p.why for p in made.runs if not p.todo}
    assert why > {"finished, made for all", "finished, made for documents"}
    assert all(each.startswith("finished, made for ") for each in why)


def test_the_first_round_of_seeds_begins_with_the_shortest_and_others_with_the_longest(tmp_path):
    made = plan(tmp_path, seeds=(4, 2, 3))
    seconds = {p.id: {"a": 9.0, "b": 1.0}[p.run.variant] for p in made.runs}
    order = [(p.run.variant, p.run.seed) for p in in_order(made.todo, seconds)]
    assert order == [("b", 2), ("a", 2), ("a", 3), ("b", 3), ("a", 4), ("b", 4)]
    assert ends([1.0, 9.0, 9.0, 1.0], 2) == [1.0, 9.0, 10.0, 10.0]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_most_of_a_large_matrix_stands_early_in_its_first_round(tmp_path, monkeypatch, workers):
    """`all.yaml` with the seconds that its published runs took, each the least of its seeds."""
    data = replace(a_dataset(), name="mnist")
    monkeypatch.setattr("bench.runs.plan.data_of", lambda *_, **__: data)
    monkeypatch.setattr("bench.runs.plan._check_batches", lambda *_: None)  # the stand-in has few images
    least: dict[str, float] = {}
    for made_before in ExperimentFolder(ROOT / "reports/mnist/all").records().values():
        spent = sum(row["train_seconds"] for row in made_before["curves"])
        spent += sum(made_before["evaluation_seconds"].values())
        variant = made_before["variant"]
        least[variant] = min(spent, least.get(variant, spent))
    request = Request(load(ROOT / "experiments/all.yaml"), seeds=(0,), reports=tmp_path)
    made = make_plan(request)
    order = in_order(made.todo, {p.id: least[p.run.variant] for p in made.todo})
    times = ends([least[p.run.variant] for p in order], workers)
    end = dict(zip([p.key for p in order], times, strict=True))
    stands = sorted(end[p.key] / max(times) for p in made.runs)
    assert len(stands) == 30
    assert stands[17] <= 0.25
    assert stands[19] <= 0.3


def test_what_no_memory_holds_is_refused_before_it_is_allocated(tmp_path, monkeypatch):
    for text, told in (
        ("hidden: [16384, 16384]", "a: training takes 4.5 GB at least (281,"),
        ("hidden: [4]}, objective: {name: iwae, samples: 10000000", "1,280,000,000 samples a batch"),
    ):
        spec = tmp_path / "f.yaml"
        networks = f"decoder: {{name: mlp, hidden: [4]}}, latent: 2, encoder: {{name: mlp, {text}}}"
        spec.write_text(f"question: Why?\ndataset: digits\nvariants: {{a: {{{networks}}}}}\n")
        monkeypatch.setattr("bench.runs.memory._memory", lambda _: 4 * 10**9)
        monkeypatch.setattr("bench.runs.plan.load_data", lambda *_, **__: a_dataset())
        with pytest.raises(BenchError, match=re.escape(told)) as caught:
            make_plan(Request(load(spec), reports=tmp_path))
        assert "cpu has 4.0 GB; give it narrower networks" in str(caught.value)
