"""The MLflow UI, in headless Chromium, shows what the tool promises: names, charts, pictures, saved views.

BENCH_SCREENSHOTS names a folder to keep what was seen, BENCH_CHROMIUM a browser that is not on the PATH.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from servers import free_port, healthy, service
from tracked import record

from bench.store.records import RunFolder
from bench.tracking import Attempt, Tracker, ui_command, ui_environment, views
from bench.tracking.ui import links

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.around, pytest.mark.xdist_group("browser")]

VARIANTS = ("mlp-512-256-2", "conv-bn-16", "linear-400-20")
SETTINGS: dict[str, dict[str, Any]] = {variant: {} for variant in VARIANTS}
SEEDS = (0, 1)
EPOCHS = 4
HIGHER = ("elbo_bernoulli", "log_px_bernoulli", "recall", "coverage")
LOWER = ("mse", "active_units", "prior_divergence", "frechet_distance", "kl")
PATIENCE = 60_000  # milliseconds until something must have appeared


def picture(file: Path, seed: int, grey: float) -> None:
    """A legible stand-in for a grid of digits: checks whose tone says which epoch it is."""
    rows, cols = np.indices((112, 280)) // 28
    tone = np.where((rows + cols + seed) % 2, 255 * grey, 20)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(tone.astype(np.uint8)).save(file)


def delivered(tracker: Tracker, variant: str, seed: int, reports: Path) -> str:
    rank, noise = VARIANTS.index(variant), np.random.default_rng(seed).normal(size=EPOCHS + 1)
    made = record(seed, variant=variant) | {
        "metrics": dict.fromkeys(HIGHER, -100.0 - 5 * rank + noise[-1]) | dict.fromkeys(LOWER, 2.0 + rank),
        "curves": [
            {"epoch": epoch, "elbo": -110 - 5 * rank - 60 / epoch + noise[epoch], "train_loss": 150.0 / epoch,
             "reconstruction": 90.0 + rank + 40 / epoch, "kl": 20.0 + rank - 5 / epoch,
             "train_seconds": 1 + rank / 2}
            for epoch in range(1, EPOCHS + 1)
        ],
        "command": f"bench run experiments/all.yaml --only {variant} --seeds {seed}",
    }  # fmt: skip
    folder = RunFolder(reports / "records" / made["id"])
    for epoch in (1, EPOCHS):
        for key in ("samples", "reconstructions"):
            picture(folder.pictures / f"{key}-epoch-{epoch:03}.png", seed + rank, epoch / EPOCHS)
    return tracker.deliver(made, Attempt(folder.path))


@pytest.fixture(scope="module")
def ui(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> Iterator[dict[str, Any]]:
    """Links into a running UI on a store of six runs, and those runs' MLflow ids by (variant, seed)."""
    root = tmp_path_factory.mktemp("ui")
    reports = root / "reports" / "all"
    tracker = Tracker(f"sqlite:///{shutil.copy(empty_store, root)}", "all")
    runs = {(v, s): delivered(tracker, v, s, reports) for v in VARIANTS for s in SEEDS}
    picture(reports / "figures" / "contact-sheet.png", 0, 1.0)
    runs["report", 0] = tracker.summary(reports, {"report.md": "# Which documented VAE is best?\n"})
    tracker.save_views(SETTINGS, epochs=EPOCHS)
    tracker.describe("**Which documented VAE is best on one footing?**")
    assert tracker.warnings == []
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    with service(ui_command(tracker.uri, port), root, healthy(base), ui_environment(tracker.uri)):
        saved = views.saved(tracker._client.get_experiment(tracker.experiment_id).tags)
        addresses = links(base, tracker.experiment_id, saved, [runs[variant, 0] for variant in VARIANTS[:2]])
        yield {"base": base, "runs": runs, "links": addresses, "id": tracker.experiment_id}


@pytest.fixture(scope="module")
def page(browser: Browser) -> Page:
    opened = browser.new_page(viewport={"width": 1600, "height": 2000})
    opened.set_default_timeout(PATIENCE)
    return opened


def visit(page: Page, address: str) -> None:
    page.goto("about:blank")  # a change of the part after # alone would not load anew
    page.goto(address)


def settle(page: Page, name: str) -> None:
    """Close what MLflow puts in front of the page, and keep a screenshot where one is wanted."""
    for button in ("Close", "Hide banner"):
        for shown in page.get_by_role("button", name=button, exact=True).all():
            shown.click()
    if folder := os.environ.get("BENCH_SCREENSHOTS"):
        page.wait_for_timeout(1500)
        page.set_viewport_size({"width": 1600, "height": 1000})
        page.wait_for_timeout(1000)
        page.screenshot(path=Path(folder) / f"{name}.png")
        page.set_viewport_size({"width": 1600, "height": 2000})


def test_the_experiment_page_lists_the_runs_by_name(ui: dict[str, Any], page: Page) -> None:
    visit(page, ui["links"]["experiment"])
    for variant in VARIANTS:
        for seed in SEEDS:
            page.get_by_role("link", name=views.run_name(variant, seed), exact=True).first.wait_for()
    page.get_by_role("link", name="report · all", exact=True).first.wait_for()
    page.get_by_text("Which documented VAE is best on one footing?").first.wait_for()
    settle(page, "mlflow-runs")


@pytest.mark.parametrize("view", views.saved_views(EPOCHS, SETTINGS), ids=lambda view: view.key)
def test_a_saved_view_opens_with_its_charts(ui: dict[str, Any], page: Page, view: views.View) -> None:
    visit(page, ui["links"][view.name])
    headers = page.get_by_test_id("experiment-view-compare-runs-section-header")
    for name, charts in view.sections.items():
        headers.filter(has_text=name).filter(has_text=f"({len(charts)})").wait_for()
    for chart in chain.from_iterable(view.sections.values()):
        card = page.get_by_test_id("experiment-view-compare-runs-card").filter(
            has=page.get_by_text(title(chart), exact=True)
        ).first  # fmt: skip
        card.scroll_into_view_if_needed()
        drawn = card.locator(MARKS[chart["type"]])
        drawn.nth(len(VARIANTS) - 1).wait_for(state="attached")
        if chart["type"] == "IMAGE":
            assert all(drawn.evaluate_all("all => all.map(one => one.naturalWidth >= 256)"))
    page.mouse.move(0, 0)
    headers.first.scroll_into_view_if_needed()
    settle(page, f"mlflow-{view.key}")


# What a chart of each type draws per variant
MARKS = {
    "LINE": ".scatterlayer .trace .js-line, .scatterlayer .trace .point",
    "BAR": ".barlayer .point",
    "SCATTER": ".scatterlayer .point",
    "IMAGE": "img",
}


def title(chart: dict[str, Any]) -> str:
    """The title that MLflow gives a chart."""
    if chart["type"] == "SCATTER":
        return f"{chart['xaxis']['key']} vs. {chart['yaxis']['key']}"
    return str(chart.get("metricKey") or chart["imageKeys"][0])


def test_the_comparison_of_two_runs_opens(ui: dict[str, Any], page: Page) -> None:
    visit(page, ui["links"]["compare"])
    page.get_by_text("Comparing 2 Runs").first.wait_for()
    for variant in VARIANTS[:2]:
        page.get_by_text(views.run_name(variant, 0)).first.wait_for()
    page.get_by_text("encoder.hidden").first.wait_for()
    settle(page, "mlflow-compare")


def test_a_run_says_how_to_repeat_it(ui: dict[str, Any], page: Page) -> None:
    run_id = ui["runs"][VARIANTS[0], 0]
    visit(page, f"{ui['base']}/#/experiments/{ui['id']}/runs/{run_id}")
    page.get_by_text(f"bench run experiments/all.yaml --only {VARIANTS[0]} --seeds 0").first.wait_for()
    page.get_by_text("elbo_bernoulli").first.wait_for()
    settle(page, "mlflow-run")


def test_the_summary_run_shows_the_contact_sheet(ui: dict[str, Any], page: Page) -> None:
    visit(page, f"{ui['base']}/#/experiments/{ui['id']}/runs/{ui['runs']['report', 0]}/model-metrics")
    page.locator("img[src*='contact-sheet']").first.wait_for()
    settle(page, "mlflow-summary")
