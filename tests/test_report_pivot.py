"""The matrix with one axis down: every number is its variant's, in its place, and marked as in a column."""

from __future__ import annotations

from pathlib import Path

import synthetic
from synthetic import settings
from test_report_tables import measured, results, rows

from bench.report import tables
from bench.report.cells import NOTHING
from bench.report.markdown import render
from bench.report.pivot import pivot
from bench.report.results import load


def of_metric(shown: str, title: str) -> str:
    """The table under a metric's heading."""
    return next(part for part in shown.split("### ") if part.startswith(title)).split("\n\n")[1]


def test_every_variant_stands_in_its_place_as_in_the_column(tmp_path: Path) -> None:
    found = load(synthetic.write(tmp_path, synthetic.matrix()))
    metric = found.metric("elbo_bernoulli")
    assert metric
    shown = pivot(found)
    table = of_metric(shown, "ELBO, binarised ↑ (nats/image)")
    head = [cell.strip() for cell in table.splitlines()[0].strip("|").split(" | ")]
    assert head == ["architecture", "bernoulli, β = 1", "bernoulli, β = 0.04082",
                    "gaussian, β = 1", "gaussian, β = 0.04082"]  # fmt: skip
    order = found.rankings[metric.name]
    cells = rows(table)
    assert list(cells) == list(synthetic.ARCHITECTURES)
    for variant in found.variants:
        axes = variant.axes
        place = head.index(f"{axes['likelihood']}, β = {axes['beta']}") - 1
        assert cells[axes["architecture"]][place] == tables.cell(variant, metric, order)
    assert shown.count("**Bold**: best mean.") == 1
    assert "## The matrix\n\nEvery variant of the matrix in its place" in render(found, {}, {})


def test_the_longest_axis_goes_down_and_what_is_not_there_is_a_dash(tmp_path: Path) -> None:
    variants = {
        f"{name}-{z}": settings(latent=z, axes={"architecture": name, "latent": z})
        for name, z in [("linear", 1), ("relu", 1), ("linear", 2), ("linear", 5), ("relu", 5)]
    }
    levels = {name: {"mse": 0.1 * i, "density": 0.5} for i, name in enumerate(variants, start=1)}
    found = results(tmp_path, levels, variants)
    shown = pivot(found)
    cells = rows(of_metric(shown, "MSE ↓ (per pixel)"))
    assert shown.splitlines()[2].startswith("| latent | linear | relu |")
    assert list(cells) == ["Z = 1", "Z = 2", "Z = 5"]
    metric = found.metric("mse")
    assert metric
    assert cells["Z = 2"] == [tables.cell(found.variants[2], metric), NOTHING]
    assert "density" not in shown


def test_one_axis_is_a_column_already(tmp_path: Path) -> None:
    variants = {f"b{b}": settings(beta=b, axes={"beta": b}) for b in (1, 2)}
    found = load(synthetic.write(tmp_path, variants, measure=measured({n: {"mse": 1} for n in variants})))
    assert pivot(found) == ""
    assert "The matrix" not in render(found, {}, {})


def test_a_variant_that_lost_a_seed_is_shown_and_not_ranked(tmp_path: Path) -> None:
    variants = {f"{a}-{b}": settings(axes={"architecture": a, "beta": b}) for a in ("x", "y") for b in (1, 2)}
    levels = {name: {"mse": 0.1 * i} for i, name in enumerate(variants, start=1)}
    found = results(tmp_path, levels, variants, status={("x-1", 0): "diverged"})
    shown = pivot(found)
    assert "Not ranked, as seeds were lost: x-1." in shown
    assert not rows(of_metric(shown, "MSE"))["x"][0].startswith("**")
