"""The tables follow from METRICS and from the records: rankings, n/N, baselines, machines."""

from __future__ import annotations

import csv
import dataclasses
import json
import statistics
from collections.abc import Mapping
from pathlib import Path

import pytest
import synthetic
from synthetic import Settings, settings

from bench.evaluation.metrics import METRICS, Metric
from bench.report import tables
from bench.report.answers import sentences
from bench.report.export import results_csv, summary_csv
from bench.report.markdown import render
from bench.report.results import SINCE, Results, load

NOISE = (0.0, 0.02, -0.01, 0.03, -0.02)


def measured(levels: Mapping[str, Mapping[str, float]]) -> synthetic.Measure:
    """A measure with given levels and the same small noise in every variant, more in each next one."""
    names = list(levels)

    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        scale = 1 + 0.1 * names.index(name)
        return {metric: value + scale * NOISE[seed] for metric, value in levels[name].items()}

    return measure


def results(folder: Path, levels: Mapping[str, Mapping[str, float]], variants=None, **more) -> Results:
    variants = variants or {name: settings() for name in levels}
    return load(synthetic.write(folder, variants, measure=measured(levels), **more))


def rows(table: str) -> dict[str, list[str]]:
    """First cell -> the others."""
    cells = [
        [c.strip() for c in line.strip("|").split(" | ")] for line in table.splitlines() if line[:1] == "|"
    ]
    return {row[0]: row[1:] for row in cells[2:]}


def test_best_follows_the_direction_of_the_metric(tmp_path: Path):
    found = results(
        tmp_path, {"a": {"elbo_bernoulli": -90, "mse": 9}, "b": {"elbo_bernoulli": -99, "mse": 8}}
    )
    shown = rows(tables.one_footing(found))
    assert shown["a"][0].startswith("**")
    assert shown["b"][1].startswith("**")
    assert not shown["a"][1].startswith("**")
    assert "ELBO, binarised ↑ (nats/image)" in tables.one_footing(found)
    assert "MSE ↓ (per pixel)" in tables.one_footing(found)


def test_ties_are_marked_and_told(tmp_path: Path):
    found = results(tmp_path, {"a": {"mse": 1.0}, "b": {"mse": 1.0001}, "c": {"mse": 5.0}})
    shown = rows(tables.one_footing(found))
    assert shown["a"][0].startswith("**")
    assert shown["b"][0].endswith("†")
    assert not shown["c"][0].endswith("†")
    assert "b from a" in tables.one_footing(found)


def test_what_was_not_tested_is_not_called_a_tie(tmp_path: Path):
    """One seed is no evidence that a variant fifty units behind is not significantly different."""
    missing = {("c", seed): "missing" for seed in (1, 2, 3, 4)}
    levels = {"a": {"mse": 1.0}, "b": {"mse": 5.0}, "c": {"mse": 50.0}}
    found = results(tmp_path, levels, status=missing)
    table = tables.one_footing(found)
    shown = rows(table)
    assert shown["c"][0].endswith("‡")
    assert "†" not in "".join(shown["b"])
    assert "‡: not tested, with fewer than 3 seeds." in table
    assert "*MSE*: too few seeds: add at least 2, c from a." in table
    said = "\n".join(sentences(found)).replace("\N{NO-BREAK SPACE}", " ")
    assert "better than every other that is tested; too few seeds to test `c`" in said


@pytest.mark.parametrize(("slowest", "disturbed"), [(700.0, False), (400.0, True)])
def test_times_that_something_disturbed_are_said_to_be(
    tmp_path: Path, slowest: float, disturbed: bool
) -> None:
    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        return {"images_per_second": slowest if (name, seed) == ("b", 3) else 1000.0, "train_seconds": 1.0}

    found = load(synthetic.write(tmp_path, {"a": settings(), "b": settings()}, measure=measure))
    assert tables.speed_spread(found) == pytest.approx(1000 / slowest)
    assert ("something else was at work there" in render(found, {}, {})) == disturbed


def test_with_two_seeds_there_is_no_star_but_advice(tmp_path: Path):
    found = results(tmp_path, {"a": {"mse": 1.0}, "b": {"mse": 5.0}}, seeds=(0, 1))
    assert "**" not in tables.one_footing(found)
    assert "*MSE*: too few seeds: add at least 2." in tables.one_footing(found)


def test_values_of_an_older_definition_are_marked_and_never_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SINCE, "elbo_bernoulli", 2)
    levels = {
        "a": {"elbo_bernoulli": -90.0},
        "b": {"elbo_bernoulli": -95.0},
        "old": {"elbo_bernoulli": -50.0},
    }
    found = results(tmp_path, levels)
    assert "°" not in tables.one_footing(found)
    for run in synthetic.runs_of(tmp_path, "old-*").values():
        record = json.loads((run / "record.json").read_text())
        synthetic.save(run / "record.json", record | {"yardstick": 1})
    table = tables.one_footing(load(tmp_path))
    assert rows(table)["a"][0].startswith("**")
    assert rows(table)["old"][0].endswith("°")
    assert "°: by an older yardstick" in table
    assert "old" not in load(tmp_path).rankings["elbo_bernoulli"].members


def test_a_new_row_of_the_metric_table_is_a_new_column(tmp_path: Path):
    found = results(tmp_path, {"a": {"mse": 1.0, "sharpness": 3.0}, "b": {"mse": 2.0, "sharpness": 1.0}})
    new = Metric("sharpness", "sharpness", "J", "higher", "common", lambda m: 0.0)
    table = tables.one_footing(dataclasses.replace(found, metrics=(*METRICS, new)))
    assert "sharpness ↑ (J)" in table
    assert rows(table)["a"][1].startswith("**")


def test_own_terms_are_ranked_inside_a_class_only(tmp_path: Path):
    variants = {
        "a": settings(), "b": settings(),
        "c": settings(likelihood="gaussian"), "d": settings(likelihood="gaussian"),
    }  # fmt: skip
    levels = {"a": {"elbo": -100}, "b": {"elbo": -110}, "c": {"elbo": 900}, "d": {"elbo": 800}}
    found = tables.own_terms(results(tmp_path, levels, variants))
    assert [kind for kind, _ in found] == ["Bernoulli, grey target", "Gaussian, grey target"]
    (_, first), (_, second) = found
    assert set(rows(first)) == {"a", "b"}
    assert rows(first)["a"][0].startswith("**")
    assert rows(second)["c"][0].startswith("**")
    assert rows(second)["c"][0].strip("*").startswith("900")


def test_the_headline_ranks_nothing(tmp_path: Path):
    found = load(synthetic.write(tmp_path, synthetic.matrix()))
    assert "**" not in tables.headline(found)
    assert "†" not in tables.headline(found)
    assert len(rows(tables.headline(found))) == len(found.variants)


def test_lost_seeds_are_counted_never_averaged_and_never_best(tmp_path: Path):
    status = {("a", 1): "diverged", ("a", 2): "failed", ("b", 4): "missing"}
    found = results(tmp_path, {"a": {"mse": 1.0}, "b": {"mse": 2.0}, "c": {"mse": 9.0}}, status=status)
    shown = rows(tables.one_footing(found))
    assert [row[-1] for row in shown.values()] == ["3/5 (1 diverged, 1 failed)", "4/5", "5/5"]
    assert found.variants[0].values("mse") == {0: 1.0, 3: 1.03, 4: 0.98}
    assert shown["b"][0].startswith("**")
    assert "Not ranked, since the seeds that are left are a selection: a 3/5" in tables.one_footing(found)


def test_a_variant_not_begun_is_in_the_headline_alone(tmp_path: Path):
    status = {("b", seed): "missing" for seed in range(5)}
    found = results(tmp_path, {"a": {"mse": 1.0}, "b": {"mse": 2.0}}, status=status)
    assert set(rows(tables.headline(found))) == {"a", "b"}
    assert set(rows(tables.one_footing(found))) == {"a"}


def test_a_variant_that_lost_every_seed_keeps_its_row(tmp_path: Path):
    status = {("a", seed): "diverged" for seed in range(5)}
    found = results(tmp_path, {"a": {"mse": 1.0}, "b": {"mse": 2.0}}, status=status)
    assert rows(tables.one_footing(found))["a"] == ["–", "0/5 (5 diverged)"]
    assert rows(tables.headline(found))["a"][-1] == "0/5 (5 diverged)"


def test_baselines_are_italic_and_below(tmp_path: Path):
    synthetic.save(tmp_path / "baselines.json", synthetic.baselines())
    table = tables.one_footing(
        results(tmp_path, {"a": {"mse": 1.0, "gaussian_bits_per_dim": 1.0}, "b": {"mse": 2.0}})
    )
    assert list(rows(table)) == ["a", "b", "*PCA, 20 components*", "*pixel mean*"]  # no column for log_px
    assert rows(table)["*pixel mean*"] == ["*0.06700*", "–"]


def test_samples_stand_between_training_images_and_noise(tmp_path: Path):
    synthetic.save(tmp_path / "baselines.json", synthetic.baselines())
    table = tables.samples(
        results(tmp_path, {"a": {"frechet_distance": 20.0}, "b": {"frechet_distance": 30.0}})
    )
    assert [name for name in rows(table) if name.startswith("*")] == [
        "*training images*",
        "*noise: pixels black or white by the pixel mean*",
    ]


def test_information_that_the_test_images_cannot_show_is_told(tmp_path: Path):
    levels = {
        name: {"aggregate_kl": 11.0, "mutual_information": nats}
        for name, nats in (("wide", 9.2), ("narrow", 4.0))
    }
    told = tables.latent(results(tmp_path / "a", levels))
    assert [cell[0] for cell in rows(told)["wide"][:2]] == ["≤", "≥"]
    assert "within 0.7 of ln 10,000 = 9.210 nats" in told
    assert "in 1 of 2 variants." in told
    assert not {"≤", "≥"} & {*"".join(rows(told)["narrow"])}
    assert "≥" not in tables.latent(results(tmp_path / "b", {"narrow": levels["narrow"]}))


def test_collapse_is_flagged_and_no_contest_for_latents(tmp_path: Path):
    levels = {
        "a": {"kl": 0.01, "active_units": 3.0, "prior_divergence": 0.001},
        "b": {"kl": 20.0, "active_units": 9.0, "prior_divergence": 2.0},
        "c": {"kl": 21.0, "active_units": 9.0, "prior_divergence": 5.0},
    }
    shown = rows(tables.latent(results(tmp_path, levels)))
    assert list(shown) == ["a (collapsed 5/5)", "b", "c"]
    assert shown["b"][1].startswith("**")


def test_latents_are_not_ranked_across_their_sizes(tmp_path: Path):
    levels = {
        name: {"kl": 20.0, "prior_divergence": value} for name, value in zip("abc", (2, 5, 9), strict=True)
    }
    variants = {"a": settings(latent=2), "b": settings(latent=20), "c": settings(latent=20)}
    table = tables.latent(results(tmp_path, levels, variants))
    assert "**" not in table
    assert "Not ranked: variants of 2 and 20 latents" in table


def test_times_of_two_machines_are_never_pooled(tmp_path: Path):
    found = results(
        tmp_path, {"a": {"mse": 1.0, "train_seconds": 10.0}, "b": {"mse": 2.0, "train_seconds": 20.0}}
    )
    for run in synthetic.runs_of(tmp_path, "a-s[34]*").values():
        path = run / "record.json"
        record = json.loads(path.read_text())
        record["environment"]["device_name"] = "Other CPU"
        record["metrics"]["train_seconds"] = 500.0
        synthetic.save(path, record)
    found = load(tmp_path)
    lines = [line for line in tables.cost(found).splitlines() if line.startswith("| a")]
    assert [line.split(" | ")[1] for line in lines] == ["M1", "M2"]
    assert "500" in lines[1]
    assert rows(tables.headline(found))["a"][10].startswith("10.0")
    assert found.variants[0].estimate("mse").n == 5


def test_how_fast_the_test_loss_still_falls_is_told_of_the_epoch_measured(tmp_path: Path):
    """Of 100·(1 + 0.4·(1/e − 1/20)) the fall from e − 5 to e is 40·(1/(e − 5) − 1/e)/5 an epoch."""
    found = results(tmp_path, {"a": {"mse": 1.0}, "b": {"mse": 2.0}})
    assert [row[9] for row in rows(tables.headline(found)).values()] == ["0.1333333\u00a0±\u00a00"] * 2
    for run in synthetic.runs_of(tmp_path, "a-*").values():
        record = json.loads((run / "record.json").read_text())
        synthetic.save(run / "record.json", record | {"chosen": {"epoch": 10, "ended": "..."}})
    shown = rows(tables.headline(load(tmp_path)))
    assert (shown["a"][9], shown["a"][-1]) == ("0.8\u00a0±\u00a00", "10, 10, 10, 10, 10")
    assert shown["b"][-1] == "20, 20, 20, 20, 20"


def test_the_estimators_own_error_is_told_where_it_matters(tmp_path: Path):
    found = results(tmp_path, {"a": {"iwae_bernoulli": -90.0}, "b": {"iwae_bernoulli": -95.0}})
    assert "(MC 0.050)" in rows(tables.details(found))["a"][0]  # of a subset that all five seeds share


@pytest.mark.parametrize("metric", ["elbo_bernoulli", "mse", "kl"])
def test_the_csv_agrees_with_the_table(tmp_path: Path, metric: str):
    found = load(
        synthetic.write(tmp_path, synthetic.matrix(), status={("conv-bn-16-gaussian-beta1", 2): "failed"})
    )
    runs = list(csv.DictReader(results_csv(found).decode().splitlines()))
    summary = {row["variant"]: row for row in csv.DictReader(summary_csv(found).decode().splitlines())}
    assert len(runs) == len(found.runs)
    for variant in found.variants:
        value = variant.estimate(metric)
        values = [
            float(r[metric]) for r in runs if r["variant"] == variant.name and r["status"] == "finished"
        ]
        row = summary[variant.name]
        center = statistics.geometric_mean if metric == "mse" else statistics.fmean
        assert float(row[f"{metric}_mean"]) == value.mean == pytest.approx(center(values), rel=1e-14)
        assert (float(row[f"{metric}_low"]), float(row[f"{metric}_high"])) == (value.low, value.high)
        assert int(row[f"{metric}_n"]) == value.n == len(values)
        assert row["finished"] == str(len(variant.finished))


def test_a_missing_run_is_a_row_of_the_csv_too(tmp_path: Path):
    found = results(tmp_path, {"a": {"mse": 1.0}, "b": {"mse": 2.0}}, status={("b", 3): "missing"})
    runs = list(csv.DictReader(results_csv(found).decode().splitlines()))
    assert [(r["variant"], r["seed"]) for r in runs if r["status"] == "missing"] == [("b", "3")]
