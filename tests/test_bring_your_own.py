"""The examples of docs/bring-your-own.md are good parts, and train."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_groups import shared

from bench.engine.images import data_of
from bench.parts.check import check_file
from bench.runs.execute import Job, SharedContext, execute
from bench.spec.resolve import load

__all__ = ["shared"]  # a fixture
PAGE = (Path(__file__).parents[1] / "docs/bring-your-own.md").read_text(encoding="utf-8")
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
    record = execute(Job("mine-s0", run, tmp_path / "run", {}), shared, lambda *_: None)
    assert record["status"] == "finished", record.get("traceback")
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
        job, own = Job("own-s0", run, tmp_path / section, {}), replace(shared, data=data, reference=None)
        record = execute(job, own, lambda *_: None)
        assert record["status"] == "finished", record.get("traceback")
    copy = f"parts/{run.own_data.sha256[:8]}-stripes.py"
    assert (tmp_path / section / copy).read_bytes() == (tmp_path / "stripes.py").read_bytes()


def test_a_whole_model_is_good_and_trains(tmp_path: Path, shared: SharedContext) -> None:
    mine, spec = tmp_path / "mine.py", tmp_path / "mine.yaml"
    mine.write_text(block("A whole model"))
    spec.write_text(block("A whole model", "yaml"))
    assert [(part.kind, part.fault) for part in check_file(mine)] == [("model", "")]
    [run] = load(spec).runs()
    record = execute(Job("whole-s0", run, tmp_path / "run", {}), shared, lambda *_: None)
    assert record["status"] == "finished", record.get("traceback")
    first, last = record["curves"]
    assert last["elbo"] > first["elbo"]
