"""The parts of a user's own that the documentation shows are good, and train."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from factory import trained
from test_groups import shared

from bench.engine.images import data_of
from bench.parts.check import check_file
from bench.runs.execute import Job, SharedContext, execute_group
from bench.spec.resolve import load

__all__ = ["shared"]  # a fixture
ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/bring-your-own.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def block(section: str, language: str = "python") -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], re.DOTALL)
    return str(found)


def test_a_part_of_every_kind_is_good_and_trains(tmp_path: Path, shared: SharedContext) -> None:
    kinds = ("Encoder", "Decoder", "Posterior", "Prior", "Likelihood", "Input and target", "Objective",
             "Optimizer", "Schedule", "Metric")  # fmt: skip
    mine, spec = tmp_path / "mine.py", tmp_path / "mine.yaml"
    mine.write_text("\n\n".join(block(kind) for kind in kinds))
    spec.write_text(block("All of it in an experiment", "yaml"))
    assert [part.fault for part in check_file(mine)] == [""] * len(kinds)
    [run] = load(spec).runs()
    assert {part.file for part in run.parts} == {mine}
    record = trained(run, tmp_path / "run", shared)
    assert 0 < record["metrics"]["Sharpness"] < 1
    first, last = record["curves"]
    assert last["train_loss"] < first["train_loss"]
    # The file is kept with what it trained
    copy = f"parts/{run.encoder.sha256[:8]}-mine.py"
    assert record["artifacts"][copy] == run.encoder.sha256
    assert (tmp_path / "run" / copy).read_bytes() == mine.read_bytes()


def test_data_of_ones_own_are_good_and_train(
    tmp_path: Path, shared: SharedContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(block("Data"))  # noqa: S102  it writes bars.npz
    (tmp_path / "stripes.py").write_text(block("Data made by Python"))
    assert [(part.kind, part.fault) for part in check_file(tmp_path / "stripes.py")] == [("dataset", "")]
    for section, shape in (("Data", (20, 12)), ("Data made by Python", (32, 32, 3))):
        (tmp_path / "mine.yaml").write_text(block(section, "yaml"))
        [run] = load(tmp_path / "mine.yaml").runs()
        data = data_of(run.dataset, run.own_data)
        assert data.shape == shape
        trained(run, tmp_path / section, replace(shared, data=data, reference=None))
    copy = f"parts/{run.own_data.sha256[:8]}-stripes.py"
    assert (tmp_path / section / copy).read_bytes() == (tmp_path / "stripes.py").read_bytes()


def test_a_whole_model_is_good_and_trains(tmp_path: Path, shared: SharedContext) -> None:
    mine, spec = tmp_path / "mine.py", tmp_path / "mine.yaml"
    mine.write_text(block("A whole model"))
    spec.write_text(block("A whole model", "yaml"))
    assert [(part.kind, part.fault) for part in check_file(mine)] == [("model", "")]
    [run] = load(spec).runs()
    first, last = trained(run, tmp_path / "run", shared)["curves"]
    assert last["elbo"] > first["elbo"]


# The examples of other pages

OTHERS = ("docs/yaml.md", "docs/engine.md", "README.md")
SPEC = """
question: Does a part of one's own train?
dataset: digits
seeds: [0, 1]
evaluation: {importance_samples: 5}
defaults: {decoder: {name: mlp, hidden: [9]}, latent: 3, epochs: 2, batch_size: 16}
variants:
  encoder: {encoder: {file: parts.py, name: Narrow, width: 7}}
  network: {encoder: {file: parts.py, name: Dropped, width: 7}}
  objective: {encoder: {name: mlp, hidden: [9]}, objective: {file: parts.py, name: WarmUp, images: 100}}
"""


@pytest.mark.parametrize(
    ("variant", "told"),
    [("encoder", "encoder Narrow"), ("network", "encoder Dropped"), ("objective", "objective WarmUp")],
)
def test_a_part_from_a_file_trains_by_the_reference_step(
    variant: str, told: str, tmp_path: Path, shared: SharedContext
) -> None:
    shown = [re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)[0] for page in OTHERS]
    (tmp_path / "parts.py").write_text("\n\n".join(shown))
    (tmp_path / "own.yaml").write_text(SPEC)
    runs = [load(tmp_path / "own.yaml").variants[variant].run(seed) for seed in (0, 1)]
    record = trained(runs[0], tmp_path / "s0", shared)
    assert record["environment"]["engine"] == "reference"
    assert record["environment"]["engine_note"] == f"reference: {told} has no written-out gradient"
    first, last = record["curves"]
    assert last["elbo"] > first["elbo"]
    # What an objective does not say of itself is absent
    says = variant != "objective"
    assert (record["beta_eff"] is not None) == (last["train_loss_nats"] is not None) == says
    assert ("test_loss_nats" in record["metrics"]) == says
    assert record["metrics"]["test_loss"] == pytest.approx(last["test_loss"])
    # Nor is it stacked: the seeds are trained one by one
    jobs = [Job(f"s{run.seed}", run, tmp_path / f"s{run.seed}", {}) for run in runs]
    for grouped in () if says else execute_group(jobs, shared, lambda *_: None):
        assert grouped["status"] == "finished"
        assert grouped["environment"]["engine_note"].startswith(f"not stacked: TypeError: {told} has no")
