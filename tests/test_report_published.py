"""Verdicts on published numbers."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import synthetic
from synthetic import settings

from bench.report import write_report
from bench.report.answers import answers
from bench.report.published import compare, final_values, prediction, published_csv, switched_off, table
from bench.report.results import load

ROW = {"value": 100.0, "unit": "nats/image", "epoch": 20, "metric": "test_loss", "to_nats": 1.0,
       "source": "README"}  # fmt: skip


def verdicts(
    folder: Path, rows: list[dict], level: float = 100.0, noise: float = 0.0, seeds=(0, 1, 2, 3, 4), **more
):
    def measure(_name, _settings, seed):
        return {"test_loss_nats": level + noise * (seed - 2), "train_seconds": 1.0}

    synthetic.write(folder, {"a": settings(published=rows)}, seeds, measure=measure, **more)
    return compare(load(folder))


@pytest.mark.parametrize(
    ("given", "change", "compatible"),
    [
        ({"level": 100.9}, {}, True),  # one percent either way
        ({"level": 99.1}, {}, True),
        ({"level": 101.1}, {}, False),
        ({"level": 98.9}, {}, False),
        ({"level": 103.0, "noise": 1.0}, {}, True),  # s = 1.58: one more run within ± 4.8
        ({"level": 106.0, "noise": 4.0, "seeds": (1, 3)}, {}, False),  # two seeds excuse nothing
        ({"level": 98.5}, {"value": 0.125, "unit": "per pixel", "to_nats": 784.0}, True),
        ({"level": 101.5}, {"uncertainty": 0.6}, True),  # what the print leaves open
        ({"level": 101.5}, {}, False),
    ],
)
def test_what_is_compatible(tmp_path: Path, given: dict, change: dict, compatible: bool):
    (found,) = verdicts(tmp_path, [ROW | change], **given)
    assert found.verdict == ("compatible" if compatible else "not compatible")
    assert found.nats == (98 if change.get("unit") else 100)
    assert found.difference == pytest.approx(given["level"] - found.nats)


def test_the_spread_is_the_interval_of_one_more_run():
    # s = 1, t(0.975, 2) = 4.3027, √(1 + 1/3)
    assert prediction([1.0, 2.0, 3.0]) == pytest.approx(4.302653 * 1.154701, abs=1e-5)
    assert prediction([1.0, 9.0]) is None


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"not_comparable": "another | target"}, "not comparable: another | target"),
        ({"unit": "per batch", "to_nats": None}, "not comparable: no conversion to nats per image is given"),
        ({"epoch": 90}, "not measured: no finished run has this epoch"),
        ({"metric": "validation_loss"}, "not measured: no finished run has this epoch"),
    ],
)
def test_what_cannot_be_compared_says_why(tmp_path: Path, change: dict, verdict: str):
    (found,) = verdicts(tmp_path, [ROW | change])
    assert found.verdict == verdict
    assert table([found]).rows[0][-1].text == verdict


def test_failed_seeds_are_not_compared(tmp_path: Path):
    (found,) = verdicts(tmp_path, [ROW], status={("a", seed): "failed" for seed in range(4)})
    assert found.measured is not None
    assert found.measured.n == 1


def test_a_seed_counts_up_to_where_it_diverged(tmp_path: Path):
    """The printed run may have ended so too."""
    gone = {("a", seed): "diverged" for seed in range(5)}
    for epoch, n, verdict in ((14, 5, "compatible"), (15, None, "not measured: every seed diverged before")):
        (found,) = verdicts(tmp_path / str(epoch), [ROW | {"epoch": epoch}], status=gone)
        assert (found.verdict, found.measured and found.measured.n) == (verdict, n)


@pytest.mark.parametrize("used", [{"dataset": "digits", "fallback": True}, {"dataset": "kmnist"}])
def test_another_dataset_switches_it_off(tmp_path: Path, used: dict):
    verdicts(tmp_path, [ROW])
    write_report(tmp_path, figures=False)
    assert (tmp_path / "published.csv").exists()
    assert verdicts(tmp_path, [ROW], **used) == []
    assert switched_off(load(tmp_path))
    assert "so none is compared" in write_report(tmp_path, figures=False).read_text()
    assert not (tmp_path / "published.csv").exists()


def test_the_rows_as_data_are_those_of_the_table(tmp_path: Path):
    found = verdicts(tmp_path, [ROW, ROW | {"epoch": 99}], 101.0, noise=0.1)
    assert found
    first, second = csv.DictReader((published_csv(found) or b"").decode().splitlines())
    assert (first["variant"], first["epoch"], first["verdict"]) == ("a", "20", "compatible")
    assert float(first["measured_mean"]) == pytest.approx(101.0)
    assert float(first["difference"]) == pytest.approx(1.0)
    assert (second["measured_mean"], second["measured_n"]) == ("", "0")


def test_final_values_of_curves_are_counted_not_points(tmp_path: Path):
    rows = [ROW | {"epoch": epoch} for epoch in (5, 20, 10)] + [ROW | {"metric": "elbo", "value": -50.0}]
    found = verdicts(tmp_path, [*rows, ROW | {"metric": "mse", "value": 0.1, "not_comparable": "x"}])
    assert [(c.row["metric"], c.row["epoch"]) for c in final_values(found)] == [
        ("test_loss", 20), ("elbo", 20), ("mse", 20)
    ]  # fmt: skip
    [told] = [a.data for a in answers(load(tmp_path)) if a.kind == "published"]
    assert (told["of"], [c.row["metric"] for c in told["off"]]) == (2, ["elbo"])


def test_any_metric_may_be_published(tmp_path: Path):
    row = {"metric": "train_seconds", "value": 1.005, "unit": "s", "to_nats": 1.0, "source": "README"}
    (end, epoch) = verdicts(tmp_path, [row, row | {"epoch": 20}])
    assert (end.verdict, epoch.verdict) == ("compatible", "compatible")
    assert [c.measured and c.measured.n for c in (end, epoch)] == [5, 5]
