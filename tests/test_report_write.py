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
from synthetic import contents, settings

from bench.errors import BenchError
from bench.evaluation.metrics import METRICS
from bench.report import references, write_report

SECTIONS = [
    "Answer", "What failed", "The matrix", "One footing", "Published and measured", "Samples", "Figures",
    "Details",
]  # fmt: skip
DETAILS = [
    "Effects", "More answers", "Behind the footing", "In their own terms", "Latent space", "Settings",
    "Every published number", "Pictures", "Cost", "Protocol", "References",
]  # fmt: skip


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
    for told in (
        "| 000-recsys | 1 | diverged | reconstruction became non-finite in epoch 15 |",
        "| 002-conv | 2 | failed | RuntimeError: out of memory |",
        "Not run yet: 1 of 145, of 004-beta-1 (1).",
        "29 variants are not shown one by one",
        *("Heusel", "Burda", "Holm", "Loshchilov", "LeCun", "Ioffe", "Tipping"),  # references of what is used
    ):
        assert told in report
    assert "Loaiza-Ganem" not in report


def test_a_paper_is_cited_in_one_way():
    of_parts = {paper for known in references.PARTS.values() for paper in known.values()}
    cited = {*of_parts, *references.STATISTICS, *(m.reference for m in METRICS if m.reference)}
    assert len({re.sub(r"\W", "", paper).lower() for paper in cited}) == len(cited)


def test_every_table_is_a_table_and_every_link_is_in_the_folder(folder: Path):
    report = (folder / "report.md").read_text()
    html = MarkdownIt("commonmark").enable("table").render(report)
    assert html.count("<table>") == len(re.findall(r"^\| (?::--|--:) \|", report, re.MULTILINE))
    assert "<p>|" not in html
    links = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", report)
    assert len(links) == 5 + 7  # figures and contact sheets: 29 variants are too many for more
    assert all(link.startswith("figures/") and (folder / link).is_file() for link in links)
    assert not (folder / "figures/runs").exists()
    assert not [path for path in folder.rglob(".*") if path.is_file()]  # nothing half written


def test_the_pictures_are_of_the_smallest_finished_seed_at_the_last_epoch(tmp_path: Path):
    status = {("000-recsys", 0): "diverged"}
    report = write_report(synthetic.write(tmp_path, synthetic.documents(), status=status, pictures=True))
    links = re.findall(r"!\[[^\]]*\]\((figures/runs/[^)]*)\)", report.read_text())
    assert len(links) == len(set(links)) == 2 * 9
    assert all((tmp_path / link).is_file() for link in links)
    run = "000-recsys-s1-00000001"
    copied = (tmp_path / f"figures/runs/{run}-samples.png").read_bytes()
    assert copied == (synthetic.runs_of(tmp_path)[run] / "pictures/samples-epoch-020.png").read_bytes()


def test_figures_are_1200_pixels_wide_small_and_without_metadata(folder: Path):
    figures = [path for path in (folder / "figures").glob("*.png") if not path.stem.startswith("contact-")]
    assert len(figures) == 5
    for path in figures:
        with Image.open(path) as image:
            assert image.width == 1200
            assert not image.info.keys() - {"transparency"}
        assert path.stat().st_size < 200_000


def test_equal_records_give_equal_bytes(folder: Path):
    before = contents(folder)
    write_report(folder, figures=False)  # drawn again they are too: see below
    assert contents(folder) == before


def test_the_bytes_do_not_depend_on_where_it_is_written(folder: Path, tmp_path: Path):
    other = tmp_path / "elsewhere" / folder.name
    shutil.copytree(folder.parent, other.parent)
    for path in (other / "figures", other / "report.md", other / "results.csv"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_report(other)
    assert contents(other) == contents(folder)


def small(folder: Path, **more) -> Path:
    return synthetic.write(folder, {"a": settings(), "b": settings(beta=0.5)}, **more)


@pytest.mark.parametrize(
    ("finished", "told"),
    [(0, "Missing: 10.\n\n## Answer\n\nNo run has finished yet"), (1, "Finished: 1. Missing: 9.")],
)
def test_a_report_is_valid_before_all_is_done_and_loud_on_other_data(
    tmp_path: Path, finished: int, told: str
):
    status = {(name, seed): "missing" for name in "ab" for seed in range(5)}
    status |= dict.fromkeys([*status][:finished], "finished")
    small(tmp_path, status=status, dataset="digits", fallback=True)
    report = write_report(tmp_path).read_text()
    assert f"Covers {finished} of 10 runs. {told}" in report
    assert "±" not in report.split("## Protocol")[0].replace("mean ± 95 %", "")
    assert report.startswith("# synthetic, on digits (NOT mnist)\n\n> **WARNING: MNIST WAS NOT AVAILABLE.")
    assert (tmp_path / "figures").exists() == (finished > 0)


def test_a_broken_record_is_told_not_trusted_and_an_old_page_is_gone(tmp_path: Path):
    small(tmp_path)
    (broken,) = synthetic.runs_of(tmp_path, "a-s0*").values()
    (broken / "record.json").write_text('{"status": "finis')
    assert (write_report(tmp_path, figures=False).parent / "report.html").is_file()
    report = write_report(tmp_path, figures=False, html=False).read_text()
    assert "Covers 10 of 10 runs. Finished: 9. Unreadable: 1." in report
    assert not (tmp_path / "report.html").exists()  # the one of before is gone


def test_a_picture_no_longer_shown_is_removed(tmp_path: Path):
    small(tmp_path, pictures=True)
    write_report(tmp_path, figures=False)
    stale = tmp_path / "figures/runs/gone-s0-samples.png"
    synthetic.picture(stale, 1)
    write_report(tmp_path, figures=False)
    assert not stale.exists()
    assert len(list((tmp_path / "figures/runs").iterdir())) == 4


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
