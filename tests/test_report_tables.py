"""The tables follow from METRICS and from the records: rankings, n/N, baselines, machines."""

from __future__ import annotations

import csv
import dataclasses
import doctest
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import synthetic
from synthetic import Settings, settings

import bench
from bench.evaluation.metrics import METRICS, Metric
from bench.report import tables, write_report
from bench.report.frame import results_csv
from bench.report.results import BY_NAME, Results, load, read, summary_csv
from bench.report.tables import MOST, Cell, Table


def results(folder: Path, levels: Mapping[str, Mapping[str, float]], variants=None, **more) -> Results:
    variants = variants or {name: settings() for name in levels}
    return load(synthetic.write(folder, variants, measure=synthetic.measured(levels), **more))


def rows(found: Sequence[Table] | Table | None) -> dict[str, list[Cell]]:
    """Name of a row -> its other cells, of all parts of a table."""
    cells: dict[str, list[Cell]] = {}
    for table in [found] if isinstance(found, Table) else found or ():
        assert len(table.columns) <= MOST
        for row in table.rows:
            assert len(row) == len(table.columns)
            cells.setdefault(row[0].text, []).extend(row[1:])
    return cells


def texts(found: Sequence[Table] | Table | None) -> dict[str, list[str]]:
    return {name: [cell.text for cell in cells] for name, cells in rows(found).items()}


def marks(found: Sequence[Table], column: int = 0) -> dict[str, str]:
    """Name -> the mark in a column: * for the best."""
    return {name: "*" if cells[column].best else cells[column].mark for name, cells in rows(found).items()}


def test_ties_are_marked_and_told(tmp_path: Path) -> None:
    found = tables.one_footing(
        results(tmp_path, {"a": {"mse": 1.0}, "b": {"mse": 1.0001}, "c": {"mse": 5.0}})
    )
    assert marks(found) == {"a": "*", "b": "†", "c": ""}
    [(metric, _, near, leader)] = found[0].advice
    assert (metric, near, leader) == ("MSE", "b", "a")


def test_what_was_not_tested_is_not_called_a_tie(tmp_path: Path) -> None:
    """One seed is no evidence that a variant fifty units behind is not significantly different."""
    missing = {("c", seed): "missing" for seed in (1, 2, 3, 4)}
    levels = {"a": {"mse": 1.0}, "b": {"mse": 5.0}, "c": {"mse": 50.0}}
    found = tables.one_footing(results(tmp_path, levels, status=missing))
    assert marks(found) == {"a": "*", "b": "", "c (1/5)": "‡"}
    assert found[0].advice == (("MSE", "too few seeds: add at least 2", "c", "a"),)
    report = write_report(tmp_path, figures=False).read_text()
    assert "‡ was not tested, with fewer than 3 seeds." in report
    assert "Too few seeds to test some." in report


@pytest.mark.parametrize(("slowest", "disturbed"), [(700.0, False), (400.0, True)])
def test_times_that_something_disturbed_are_said_to_be(
    tmp_path: Path, slowest: float, disturbed: bool
) -> None:
    def measure(name: str, _: Settings, seed: int) -> dict[str, float]:
        return {"images_per_second": slowest if (name, seed) == ("b", 3) else 1000.0, "train_seconds": 1.0}

    found = load(synthetic.write(tmp_path, {"a": settings(), "b": settings()}, measure=measure))
    assert tables.speed_spread(found) == pytest.approx(1000 / slowest)
    told = write_report(tmp_path, figures=False).read_text()
    assert ("something else was at work there" in told) == disturbed


def test_values_of_an_older_definition_are_marked_and_never_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = dataclasses.replace(BY_NAME["elbo_bernoulli"], since=2)
    monkeypatch.setitem(BY_NAME, "elbo_bernoulli", newer)
    levels = {name: {"elbo_bernoulli": value} for name, value in (("a", -90.0), ("b", -95.0), ("old", -50.0))}
    assert "°" not in marks(tables.one_footing(results(tmp_path, levels))).values()
    for run in synthetic.runs_of(tmp_path, "old-*").values():
        record = json.loads((run / "record.json").read_text())
        synthetic.save(run / "record.json", record | {"yardstick": 1})
    found = load(tmp_path)
    assert marks(tables.one_footing(found)) == {"a": "*", "b": "", "old": "°"}
    assert "old" not in found.rankings["elbo_bernoulli"].members


def test_a_new_row_of_the_metric_table_is_a_new_column(tmp_path: Path) -> None:
    found = results(tmp_path, {"a": {"mse": 1.0, "sharpness": 1.0}, "b": {"mse": 2.0, "sharpness": 3.0}})
    new = Metric("sharpness", "sharpness", "J", "higher", "common", lambda m: 0.0)
    table = tables.one_footing(dataclasses.replace(found, metrics=(*METRICS, new)))
    assert [f"{c.title}{c.arrow} ({c.unit})" for c in table[0].columns[1:]] == [
        "MSE ↓ (per pixel)", "sharpness ↑ (J)"
    ]  # fmt: skip
    assert (marks(table, 0), marks(table, 1)) == ({"a": "*", "b": ""}, {"a": "", "b": "*"})


def test_a_table_of_many_metrics_is_cut_into_parts_that_fit(tmp_path: Path) -> None:
    found = load(synthetic.write(tmp_path, synthetic.matrix()))
    metrics = found.measured("common", "details", "latent", "samples", "own")
    parts = tables.ranked(found.started, metrics, {})
    assert len(parts) > 2
    assert [column.metric for table in parts for column in table.columns[1:]] == [m.name for m in metrics]
    assert len(rows(parts)) == len(found.variants)


def test_own_terms_are_ranked_inside_a_class_only(tmp_path: Path) -> None:
    kinds = {"a": "bernoulli", "b": "bernoulli", "c": "gaussian", "d": "gaussian"}
    variants = {name: settings(likelihood=kind) for name, kind in kinds.items()}
    levels = {"a": {"elbo": -100}, "b": {"elbo": -110}, "c": {"elbo": 900}, "d": {"elbo": 800}}
    found = tables.own_terms(results(tmp_path, levels, variants))
    assert [kind for kind, _ in found] == ["Bernoulli, grey target", "Gaussian, grey target"]
    assert [marks(each) for _, each in found] == [{"a": "*", "b": ""}, {"c": "*", "d": ""}]


def test_lost_seeds_are_counted_never_averaged_and_never_best(tmp_path: Path) -> None:
    status = {("a", 1): "diverged", ("a", 2): "failed", ("b", 4): "missing"}
    status |= {
        (name, seed): kind for name, kind in (("gone", "diverged"), ("new", "missing")) for seed in range(5)
    }
    levels = {
        name: {"mse": value}
        for name, value in (("a", 1.0), ("b", 2.0), ("c", 9.0), ("gone", 1.0), ("new", 1.0))
    }
    found = results(tmp_path, levels, status=status)
    table = tables.one_footing(found)
    lost = ("a (3/5, 1 diverged, 1 failed)", "gone (0/5, 5 diverged)")
    assert marks(table) == {lost[0]: "", "b (4/5)": "*", "c": "", lost[1]: ""}
    assert texts(table)[lost[1]] == ["–"]
    assert found.variants[0].values("mse") == {0: 1.0, 3: 1.03, 4: 0.98}
    assert table[0].lost == lost
    assert "new (0/5)" in rows(tables.settings(found))
    runs = csv.DictReader(results_csv(found.table).decode().splitlines())
    assert [row["variant"] for row in runs if row["status"] == "missing"] == ["b", *["new"] * 5]


def test_baselines_are_faint_and_below(tmp_path: Path) -> None:
    synthetic.save(tmp_path / "baselines.json", synthetic.baselines())
    found = results(tmp_path, {"a": {"mse": 1.0, "gaussian_bits_per_dim": 1.0}, "b": {"mse": 2.0}})
    [table] = tables.one_footing(found)
    assert [(row[0].text, row[0].faint) for row in table.rows] == [
        ("a", False), ("b", False), ("PCA, 20 components", True), ("pixel mean", True)
    ]  # fmt: skip
    assert texts(table)["pixel mean"] == ["0.06700"]
    found = results(tmp_path, {"a": {"frechet_distance": 20.0}, "b": {"frechet_distance": 30.0}})
    assert [*rows(tables.footing(found, "samples"))][2:] == [
        "training images", "noise: pixels black or white by the pixel mean"
    ]  # fmt: skip


def test_information_that_the_test_images_cannot_show_is_told(tmp_path: Path) -> None:
    nats = {"wide": 9.2, "narrow": 4.0}
    levels = {name: {"aggregate_kl": 11.0, "mutual_information": value} for name, value in nats.items()}
    shown = texts(tables.latent(results(tmp_path, levels)))
    assert [text[0] for text in shown["wide"]] == ["≤", "≥"]
    assert not {"≤", "≥"} & {*"".join(shown["narrow"])}
    told = write_report(tmp_path, figures=False).read_text()
    assert "`wide` is within 0.7 of that." in told


def test_latents_are_ranked_within_a_size_and_without_the_collapsed(tmp_path: Path) -> None:
    levels = {
        "a": {"kl": 0.01, "active_units": 3.0, "prior_divergence": 0.001},
        "b": {"kl": 20.0, "active_units": 9.0, "prior_divergence": 2.0},
        "c": {"kl": 21.0, "active_units": 9.0, "prior_divergence": 5.0},
    }
    assert marks(tables.latent(results(tmp_path, levels)), 2) == {"a (collapsed 5/5)": "", "b": "*", "c": ""}
    sizes = {name: settings(latent=latent) for name, latent in zip(levels, (2, 2, 20), strict=True)}
    assert set(marks(tables.latent(results(tmp_path, levels, sizes)), 2).values()) == {""}
    assert "variants of different latent sizes" in write_report(tmp_path, figures=False).read_text()


def test_times_of_two_machines_are_never_pooled(tmp_path: Path) -> None:
    levels = {"a": {"mse": 1.0, "train_seconds": 10.0}, "b": {"mse": 2.0, "train_seconds": 20.0}}
    results(tmp_path, levels)
    for run in synthetic.runs_of(tmp_path, "a-s[34]*").values():
        record = json.loads((run / "record.json").read_text())
        record["environment"]["device_name"] = "Other CPU"
        record["metrics"]["train_seconds"] = 500.0
        synthetic.save(run / "record.json", record)
    found = load(tmp_path)
    table = tables.cost(found)
    assert table
    of_a = [[cell.text for cell in row] for row in table.rows if row[0].text == "a"]
    assert [row[1] for row in of_a] == ["M1", "M2"]
    assert [row[2][:3] for row in of_a] == ["10.", "500"]
    assert found.variants[0].estimate("mse").n == 5


def test_a_report_adds_up_what_all_its_runs_took(tmp_path: Path) -> None:
    """Two variants of five seeds, each an hour in 20 epochs and 6 minutes of evaluation; one failed."""
    results(tmp_path, {name: {"train_seconds": 3600.0} for name in "ab"})
    for name, run in synthetic.runs_of(tmp_path, "*").items():
        record = json.loads((run / "record.json").read_text())
        record["curves"] = [row | {"train_seconds": 180.0} for row in record["curves"]]
        record["evaluation_seconds"] = {"elbo": 300.0, "mse": 60.0}
        if name.startswith("a-s4"):
            record = {k: v for k, v in record.items() if k != "evaluation_seconds"} | {"status": "failed"}
            record["curves"] = record["curves"][:10]
        synthetic.save(run / "record.json", record)
    found = load(tmp_path)
    assert tables.spent(found) == (10, pytest.approx(9.5 * 3600), pytest.approx(9 * 360))
    report = write_report(tmp_path, figures=False).read_text()
    assert "All runs together (10) took 9.5 h of training and 54 min of evaluation" in report


def test_runs_scored_by_other_networks_are_told(tmp_path: Path) -> None:
    results(tmp_path, {"a": {"frechet_distance": 10.0}, "b": {"frechet_distance": 20.0}})
    known = synthetic.baselines()
    synthetic.save(tmp_path / "baselines.json", known)
    for variant, digest in (("a", known["classifier"]["digest"]), ("b", "another")):
        for run in synthetic.runs_of(tmp_path, f"{variant}-s*").values():
            record = json.loads((run / "record.json").read_text())
            record["environment"]["feature_networks"] = digest
            synthetic.save(run / "record.json", record)
    report = write_report(tmp_path, figures=False).read_text()
    assert "Runs of `b` were scored by other networks" in report


def test_how_fast_the_test_loss_still_falls_is_told_of_the_epoch_measured(tmp_path: Path) -> None:
    """Of 100·(1 + 0.4·(1/e − 1/20)) the fall from e − 5 to e is 40·(1/(e − 5) − 1/e)/5 an epoch."""
    found = results(tmp_path, {"a": {"mse": 1.0}, "b": {"mse": 2.0}})
    assert [cells[-1].value for cells in rows(tables.settings(found)).values()] == pytest.approx(
        [0.4 / 3] * 2
    )
    for run in synthetic.runs_of(tmp_path, "a-*").values():
        record = json.loads((run / "record.json").read_text())
        synthetic.save(run / "record.json", record | {"chosen": {"epoch": 10, "ended": "..."}})
    shown = rows(tables.settings(load(tmp_path)))
    assert [(cells[-2].text, cells[-1].value) for cells in shown.values()] == [
        ("10", pytest.approx(0.8)), ("20", pytest.approx(0.4 / 3))
    ]  # fmt: skip


def test_the_estimators_own_error_is_told_where_it_matters(tmp_path: Path) -> None:
    found = results(tmp_path, {"a": {"iwae_bernoulli": -90.0}, "b": {"iwae_bernoulli": -95.0}})
    assert "(MC 0.050)" in texts(tables.footing(found, "details"))["a"][0]  # a subset that all seeds share


def test_every_variant_stands_in_its_place_of_the_matrix_as_in_the_column(tmp_path: Path) -> None:
    found = load(synthetic.write(tmp_path, synthetic.matrix()))
    column = rows(tables.one_footing(found))
    table = tables.matrix(found)[0]
    heads = [c.title for c in table.columns]
    kinds = [f"{kind}, β = {beta}" for kind in ("bernoulli", "gaussian") for beta in ("1", "0.04082")]
    assert (table.title, heads) == ("ELBO, binarised ↑ (nats/image)", ["architecture", *kinds])
    cells = rows(table)
    assert list(cells) == list(synthetic.ARCHITECTURES)
    for variant in found.variants:
        axes = variant.axes
        place = heads.index(f"{axes['likelihood']}, β = {axes['beta']}") - 1
        assert cells[axes["architecture"]][place] == column[variant.name][0]


def test_the_longest_axis_goes_down_and_what_is_not_there_is_a_dash(tmp_path: Path) -> None:
    variants = {
        f"{name}-{z}": settings(latent=z, axes={"architecture": name, "latent": z})
        for name, z in [("linear", 1), ("relu", 1), ("linear", 2), ("linear", 5), ("relu", 5)]
    }
    levels = {name: {"mse": 0.1 * i, "density": 0.5} for i, name in enumerate(variants, start=1)}
    [table] = tables.matrix(results(tmp_path, levels, variants))
    assert [c.title for c in table.columns] == ["latent", "linear", "relu"]
    assert list(rows(table)) == ["Z = 1", "Z = 2", "Z = 5"]
    assert texts(table)["Z = 2"][1] == "–"
    one = {name: variant | {"axes": {"latent": variant["latent"]}} for name, variant in variants.items()}
    assert tables.matrix(results(tmp_path, levels, one)) == []  # it is a column already


def test_the_csv_agrees_with_the_table_and_with_what_load_gives(tmp_path: Path) -> None:
    status = {("conv-bn-16-gaussian-beta1", 2): "failed", ("conv-bn-16-gaussian-beta1", 3): "missing"}
    found = load(synthetic.write(tmp_path, synthetic.matrix(), status=status))
    runs = list(csv.DictReader(results_csv(found.table).decode().splitlines()))
    summary = {row["variant"]: row for row in csv.DictReader(summary_csv(found).decode().splitlines())}
    tidy = read(tmp_path)
    assert len(runs) == len(found.runs) == len(tidy)
    assert tidy.index.names == ["experiment", "variant", "seed"]
    for variant, metric in itertools.product(found.variants, ("elbo_bernoulli", "mse", "kl")):
        value = variant.estimate(metric)
        own = [row for row in runs if row["variant"] == variant.name and row["status"] == "finished"]
        values, row = [float(run[metric]) for run in own], summary[variant.name]
        center = statistics.geometric_mean if metric == "mse" else statistics.fmean
        assert float(row[f"{metric}_mean"]) == value.mean == pytest.approx(center(values), rel=1e-14)
        assert (float(row[f"{metric}_low"]), float(row[f"{metric}_high"])) == (value.low, value.high)
        assert int(row[f"{metric}_n"]) == value.n == len(values) == int(row["finished"])
        assert tidy.xs(variant.name, level="variant")[metric].dropna().tolist() == values


def test_load_does_what_its_docstring_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    found = doctest.testmod(bench)
    assert (found.failed, found.attempted > 1) == (0, True)
