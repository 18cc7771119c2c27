"""A metric of the user's own: measured, recorded, a column of the report; no part of other runs' identity."""

from __future__ import annotations

from pathlib import Path

import pytest
import synthetic
import torch
from factory import trained
from synthetic import settings
from test_groups import shared

from bench.errors import BenchError
from bench.report import write_report
from bench.report.frame import results_csv
from bench.report.results import load as results_of
from bench.runs.execute import SharedContext
from bench.saved import load_model
from bench.spec.experiment import Run
from bench.spec.resolve import load
from bench.store.records import RunFolder
from bench.tracking.entries import final_metrics

__all__ = ["shared"]  # a fixture
MINE = '''
class Black:
    """How much of the means of test images is black."""
    title = "black pixels"
    unit = "%"
    direction = "lower"
    def __init__(self, *, below: float = 0.5): self.below = below
    def __call__(self, model, images):
        means = model.grey_mean(model.decode(model.encode(images).mean))
        return 100 * (means < self.below).float().mean()

def undefined(model, images): return None
def vast(model, images): return 1e61
class up: direction = "up"
class marked: title = "<b>"
class number: unit = 3
def mse(model, images): ...
def status(model, images): ...
'''
SPEC = """
question: Why?
dataset: digits
metrics: %s
defaults: {encoder: {name: mlp, hidden: [9]}, decoder: {name: mlp, hidden: [9]}, latent: 3, epochs: 1}
variants: {a: {}}
"""


def run_of(folder: Path, metrics: str) -> Run:
    (folder / "mine.py").write_text(MINE)
    (folder / "own.yaml").write_text(SPEC.replace("metrics: %s", metrics and f"metrics: {metrics}"))
    return next(load(folder / "own.yaml").runs())


def test_it_is_measured_on_the_trained_model_and_recorded(tmp_path: Path, shared: SharedContext) -> None:
    absent = "{file: mine.py, name: undefined}, {file: mine.py, name: vast}"
    run = run_of(tmp_path, f"[{{file: mine.py, name: Black, below: 0.45}}, {absent}]")
    record = trained(run, tmp_path / "run", shared)
    model, images = load_model(tmp_path / "run"), shared.data.test_images.flatten(1).float() / 255
    with torch.no_grad():
        means = model.grey_mean(model.decode(model.encode(images).mean))
    share = 100 * float((means < 0.45).float().mean())
    assert record["metrics"]["Black"] == final_metrics(record)["Black"] == pytest.approx(share)
    assert not {"undefined", "vast"} & record["metrics"].keys()  # absent, not zero
    assert RunFolder(tmp_path / "run").read() == {"format": 2, **record}
    assert record["artifacts"].keys() >= {f"parts/{run.metrics[0].sha256[:8]}-mine.py"}
    assert Run.model_validate(record["run"]).key("d") == run.key("d")


def test_it_is_a_part_of_the_identity_of_runs_that_have_it_alone(tmp_path: Path) -> None:
    plain, *others = [
        run_of(tmp_path, text)
        for text in ("", "[]", "[{file: mine.py, name: Black}]", "[{file: mine.py, name: Black, below: 0.1}]")
    ]
    assert "metrics" not in plain.model_dump()
    assert plain.key("d") == others[0].key("d")
    assert len({run.key("d") for run in (plain, *others)}) == 3


def test_its_column_is_ranked_in_the_report_and_stands_in_the_csv(tmp_path: Path) -> None:
    shown = [{"name": "Black", "options": {}, "title": "black pixels", "unit": "%", "direction": "lower"}]
    variants = {name: settings(metrics=shown) for name in ("a", "b")}

    def measure(name: str, _: object, seed: int) -> dict[str, float]:
        return {"mse": 0.1, "Black": (10.0 if name == "a" else 20.0) + 0.1 * seed}

    folder = synthetic.write(tmp_path / "own", variants, measure=measure)
    report = write_report(folder, figures=False).read_text()
    assert "black pixels ↓ (%)" in report
    assert results_of(folder).rankings["Black"].best == "a"
    assert b",Black," in results_csv(results_of(folder).table).partition(b"\n")[0]
    shown[0]["title"] = "[here](http://x)"  # somebody else's report
    with pytest.raises(BenchError, match=r"variants.a.metrics.0.title"):
        results_of(synthetic.write(tmp_path / "other", variants, measure=measure))


MISTAKES = {
    "{file: mine.py, name: Black}": "metrics is a mapping; allowed: a list",
    "[Black]": "a metric is 'Black'; allowed: a mapping",
    "[{name: Black}]": "metric without a file; allowed: one of your own",
    "[{file: mine.py, name: black}]": "unknown metric in mine.py 'black'; did you mean 'Black'",
    "[{file: mine.py, name: Black, below: dark}]": "below is 'dark'; allowed: a number",
    "[{file: mine.py, name: Black}, {file: mine.py, name: Black, below: 1}]": "metric Black again",
    "[{file: mine.py, name: up}]": "direction is \"'up'\"; allowed: 'higher', 'lower' or None",
    "[{file: mine.py, name: marked}]": "title is \"'<b>'\"; allowed: at most 40 letters",
    "[{file: mine.py, name: number}]": "unit is '3'; allowed: at most 40 letters",
    "[{file: mine.py, name: mse}]": "metric mse: the name is taken",
    "[{file: mine.py, name: status}]": "metric status: the name is taken",
}


@pytest.mark.parametrize("metrics", MISTAKES)
def test_a_mistake_is_one_line_at_its_place(tmp_path: Path, metrics: str) -> None:
    with pytest.raises(BenchError) as caught:
        run_of(tmp_path, metrics)
    assert "own.yaml:4:" in str(caught.value)
    assert MISTAKES[metrics] in str(caught.value)
    assert str(caught.value).isprintable()
