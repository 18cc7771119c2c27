"""The written report: complete, idempotent, self-contained, valid from no finished run on."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import synthetic
from markdown_it import MarkdownIt
from PIL import Image
from synthetic import settings

from bench.errors import BenchError
from bench.report import write_report

SECTIONS = [
    "Answer", "What failed", "The matrix", "One footing", "Published and measured", "Samples", "Figures",
    "Details",
]  # fmt: skip
DETAILS = [
    "Effects", "More answers", "Behind the footing", "In their own terms", "Latent space", "Settings",
    "Every published number", "Pictures", "Cost", "Protocol", "References",
]  # fmt: skip


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nine documents and the matrix, five seeds, some lost, with pictures and baselines."""
    folder = tmp_path_factory.mktemp("reports") / "all"
    status = {("000-recsys", 1): "diverged", ("002-conv", 2): "failed", ("004-beta-1", 3): "missing"}
    variants = {**synthetic.documents(), **synthetic.matrix()}
    synthetic.write(folder, variants, status=status, pictures=True)
    synthetic.save(folder / "baselines.json", synthetic.baselines())
    write_report(folder)
    return folder


def test_the_sections_are_there_in_order(folder: Path):
    report = (folder / "report.md").read_text()
    assert re.findall(r"^## (.*)$", report, re.MULTILINE) == SECTIONS
    assert re.findall(r"^### (.*)$", report.partition("## Details")[2], re.MULTILINE) == DETAILS
    assert report.count("<details>") == report.count("</details>") == len(DETAILS)
    anchors = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in (*SECTIONS, *DETAILS)}
    assert set(re.findall(r"\]\(#([^)]*)\)", report)) <= anchors
    assert report.startswith("# synthetic, on mnist\n")
    assert "Covers 144 of 145 runs. Finished: 142. Diverged: 1. Failed: 1. Missing: 1." in report
    assert "WARNING" not in report


def test_every_table_is_a_table_and_every_link_is_in_the_folder(folder: Path):
    report = (folder / "report.md").read_text()
    html = MarkdownIt("commonmark").enable("table").render(report)
    assert html.count("<table>") == len(re.findall(r"^\| (?::--|--:) \|", report, re.MULTILINE))
    assert "<p>|" not in html
    links = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", report)
    assert len(links) == 5 + 7  # figures and contact sheets: 29 variants are too many for more
    assert all(link.startswith("figures/") and (folder / link).is_file() for link in links)


def test_the_pictures_are_of_the_smallest_finished_seed_at_the_last_epoch(tmp_path: Path):
    status = {("000-recsys", 0): "diverged"}
    report = write_report(synthetic.write(tmp_path, synthetic.documents(), status=status, pictures=True))
    links = re.findall(r"!\[[^\]]*\]\((figures/runs/[^)]*)\)", report.read_text())
    assert len(links) == len(set(links)) == 2 * 9
    assert all((tmp_path / link).is_file() for link in links)
    run = "000-recsys-s1-00000001"
    copied = (tmp_path / f"figures/runs/{run}-samples.png").read_bytes()
    assert copied == (synthetic.runs_of(tmp_path)[run] / "pictures/samples-epoch-020.png").read_bytes()


def test_many_variants_are_shown_on_the_sheets_alone(folder: Path):
    assert "29 variants are not shown one by one" in (folder / "report.md").read_text()
    assert (folder / "figures/contact-mlp-100-100-32.png").is_file()
    assert not (folder / "figures/runs").exists()


def test_what_was_lost_is_told(folder: Path):
    report = (folder / "report.md").read_text()
    assert "| 000-recsys | 1 | diverged | reconstruction became non-finite in epoch 15 |" in report
    assert "| 002-conv | 2 | failed | RuntimeError: out of memory |" in report
    assert "Not run yet: 1 of 145, of 004-beta-1 (1)." in report


def test_references_are_of_what_is_used(folder: Path):
    report = (folder / "report.md").read_text()
    for used in ("Heusel", "Burda", "Holm", "Loshchilov", "LeCun", "Ioffe", "Tipping"):
        assert used in report
    assert "Loaiza-Ganem" not in report


def test_figures_are_1200_pixels_wide_small_and_without_metadata(folder: Path):
    figures = [path for path in (folder / "figures").glob("*.png") if not path.stem.startswith("contact-")]
    assert len(figures) == 5
    for path in figures:
        with Image.open(path) as image:
            assert image.width == 1200
            assert not image.info.keys() - {"transparency"}
        assert path.stat().st_size < 200_000


def test_equal_records_give_equal_bytes(folder: Path):
    before = bytes_of(folder)
    write_report(folder, figures=False)  # drawn again they are too: see below
    assert bytes_of(folder) == before


def test_the_bytes_do_not_depend_on_where_it_is_written(folder: Path, tmp_path: Path):
    other = tmp_path / "elsewhere" / folder.name
    shutil.copytree(folder.parent, other.parent)
    for path in (other / "figures", other / "report.md", other / "results.csv"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_report(other)
    assert bytes_of(other) == bytes_of(folder)


def small(folder: Path, **more) -> Path:
    variants = {"a": settings(), "b": settings(beta=0.5)}
    return synthetic.write(folder, variants, **more)


def test_valid_with_no_finished_run(tmp_path: Path):
    status = {(name, seed): "missing" for name in "ab" for seed in range(5)}
    report = write_report(small(tmp_path, status=status)).read_text()
    assert "Covers 0 of 10 runs. Missing: 10." in report
    assert "No run has finished yet" in report
    assert not (tmp_path / "figures").exists()


def test_valid_after_the_first_finished_run(tmp_path: Path):
    status = {(name, seed): "missing" for name in "ab" for seed in range(5)} | {("a", 0): "finished"}
    report = write_report(small(tmp_path, status=status)).read_text()
    assert "Covers 1 of 10 runs. Finished: 1. Missing: 9." in report
    assert "±" not in report.split("## Protocol")[0].replace("mean ± 95 %", "")


def test_a_fallback_is_loud(tmp_path: Path):
    report = write_report(small(tmp_path, dataset="digits", fallback=True)).read_text()
    assert report.startswith("# synthetic, on digits (NOT mnist)\n\n> **WARNING: MNIST WAS NOT AVAILABLE.")


def test_a_broken_record_is_told_not_trusted(tmp_path: Path):
    small(tmp_path)
    (broken,) = synthetic.runs_of(tmp_path, "a-s0*").values()
    (broken / "record.json").write_text('{"status": "finis')
    report = write_report(tmp_path, figures=False).read_text()
    assert "Covers 10 of 10 runs. Finished: 9. Unreadable: 1." in report


def test_hostile_names_stay_text(tmp_path: Path):
    reports = tmp_path / "reports"
    name = "a|b`<script>alert(1)</script>$x$\n# c"
    variants = {name: settings(note="</td>|", latent=2), "_b": settings(beta=0.5)}
    planned = {f"r{i}-s0": {"variant": v, "seed": 0, "run": f"{i:016x}-s0"} for i, v in enumerate(variants)}
    synthetic.write(reports / "x", {"x": settings()}, seeds=())
    synthetic.save(
        reports / "x" / "experiment.json",
        {
            "name": "<b>x</b>",
            "question": "# why\n| a |",
            "dataset": "mnist",
            "variants": variants,
            "planned": planned,
        },
    )
    for (run_id, plan), v in zip(planned.items(), variants.values(), strict=True):
        metrics = synthetic.measure(plan["variant"], v, 0)
        record = synthetic.record(run_id, plan["variant"], v, 0, metrics)
        synthetic.save(reports / "runs" / planned[run_id]["run"] / "record.json", record)
    html = (
        MarkdownIt("commonmark", {"html": True})
        .enable("table")
        .render(write_report(reports / "x").read_text())
    )
    assert "<script" not in html
    assert "<b>x" not in html
    assert "</td>|" not in html
    assert html.count("<h1>") == 1


def test_a_picture_no_longer_shown_is_removed(tmp_path: Path):
    small(tmp_path, pictures=True)
    write_report(tmp_path, figures=False)
    stale = tmp_path / "figures/runs/gone-s0-samples.png"
    synthetic.picture(stale, 1)
    write_report(tmp_path, figures=False)
    assert not stale.exists()
    assert len(list((tmp_path / "figures/runs").iterdir())) == 4


def test_a_page_of_before_is_gone_where_none_is_made(tmp_path: Path):
    write_report(small(tmp_path), figures=False)
    assert (tmp_path / "report.html").is_file()
    write_report(tmp_path, figures=False, html=False)
    assert not (tmp_path / "report.html").exists()


def test_nothing_half_written_is_left_behind(folder: Path):
    assert not [p for p in folder.rglob(".*") if p.is_file()]


def test_a_folder_without_an_experiment_is_refused(tmp_path: Path):
    with pytest.raises(BenchError, match=r"experiment\.json does not exist: give the folder"):
        write_report(tmp_path)
    (tmp_path / "experiment.json").write_text("[]")
    with pytest.raises(BenchError, match="is not a resolved experiment"):
        write_report(tmp_path)


def test_the_report_needs_no_torch_no_mlflow_and_no_pyplot():
    heavy = "{'torch', 'mlflow', 'matplotlib.pyplot', 'bench.engine.loop', 'bench.runs.execute'}"
    code = f"import sys, bench.report, bench.report.figures; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
