"""A report as it is published: records, tables and figures, without what else its runs left."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import test_verify
from forked import bench
from synthetic import contents
from test_cli import SPEC
from test_verify import run_id, run_path, snapshot

from bench.errors import BenchError
from bench.report import contact, write_report
from bench.report.results import load
from bench.saved import load_model
from bench.store.records import RECORD, RunFolder
from bench.verify import verify

ROOT = Path(__file__).parents[1]
RUN = ("run", "tiny.yaml", "--workers", "1")
NOT_HERE = "weights and pictures of 6 runs are not here"  # the two that diverged at once left none
original = test_verify.original
complete = test_verify.folder
here = test_verify.here


def publish(folder: Path, but: Path | None = None) -> Path:
    """Leave of every run, but of one that was made again, what is committed: its record."""
    for run in {*(folder.parent / "runs").glob("[!.]*")} - {but}:
        for path in run.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != RECORD:
                path.unlink()
    return folder


@pytest.fixture
def folder(complete: Path) -> Path:
    return publish(complete)


# What git holds of it


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_git_takes_a_record_and_nothing_else_of_a_run() -> None:
    run = "reports/mnist/runs/0123456789abcdef-s0"
    kept = [f"{run}/record.json", "reports/mnist/documents/experiment.json"]
    others = [f"{run}/weights.safetensors", f"{run}/pictures/kl.png", f"{run}/checkpoint.safetensors"]
    others += ["reports/mnist/documents/.lock", "reports/mnist/runs/.claim-host-1"]
    told = subprocess.run(
        ["git", "check-ignore", "--no-index", *kept, *others],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.splitlines() == others


# Reported again


def test_the_report_is_the_complete_folders_byte_for_byte(complete: Path) -> None:
    before = contents(complete)
    assert len([name for name in before if name.startswith("figures/runs/")]) > 12
    publish(complete)
    for _ in range(2):
        write_report(complete)
        assert contents(complete) == before


def test_a_run_that_is_made_again_shows_its_own_pictures(complete: Path) -> None:
    before, run = contents(complete), run_path(complete, "plain")
    publish(complete, but=run)
    (copy,) = (complete / "figures/runs").glob(f"{run_id('plain')}-kl.png")
    copy.write_bytes(b"stale")
    write_report(complete)
    assert contents(complete) == before


def test_a_copy_that_is_not_shown_goes_only_where_the_run_has_the_picture(complete: Path) -> None:
    extra = complete / "figures/runs" / f"{run_id('plain', 1)}-kl.png"
    shutil.copy(run_path(complete, "plain", 1) / "pictures/kl.png", extra)
    publish(complete)
    write_report(complete)
    assert extra.exists()
    assert verify(complete).differences == []
    names = ("nobody-s0-01234567-kl.png", f"{run_id('plain', 1)}-unlisted.png")
    others = [Path(shutil.copy(extra, extra.with_name(name))) for name in names]
    write_report(complete)
    assert not any(path.exists() for path in others)


def test_pictures_are_found_beside_another_report_of_the_same_run(folder: Path) -> None:
    """Whatever the variant is called here, and only as the run's record has them."""
    shown = {path.name: path.read_bytes() for path in (folder / "figures/runs").iterdir()}
    stale = next((folder / "figures/runs").glob(f"{run_id('plain')}-samples.png"))
    stale.write_bytes(b"of another run")
    other = folder.parent / "other"
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("figures"))
    told = json.loads((other / "experiment.json").read_text())
    told["variants"] = {name.replace("plain", "simple"): v for name, v in told["variants"].items()}
    planned = {name.replace("plain-", "simple-"): run for name, run in told["planned"].items()}
    for run in planned.values():
        run["variant"] = run["variant"].replace("plain", "simple")
    told["planned"] = planned
    (other / "experiment.json").write_text(json.dumps(told))
    write_report(other)
    found = {path.name: path.read_bytes() for path in (other / "figures/runs").iterdir()}
    del shown[stale.name]
    assert found == {name.replace("plain-", "simple-"): content for name, content in shown.items()}
    assert verify(other).differences == []


def test_a_sheet_is_drawn_where_its_pictures_are_here_and_else_left(folder: Path) -> None:
    # The variant that diverged before it drew anything lacks nothing; epoch 1 of the others does
    assert contact.draw(load(folder)) == {"contact-variants.png": None}
    rows = contact.sheets(load(folder))["contact-variants.png"]
    assert replace(rows, takes=contact.LAST).drawn()
    next((folder / "figures/runs").glob("*-reconstructions.png")).unlink()
    rows = contact.sheets(load(folder))["contact-variants.png"]
    assert replace(rows, takes=contact.LAST).drawn() is None


# Verified


def test_everything_but_weights_and_pictures_is_checked(complete: Path) -> None:
    whole = verify(complete).counts
    before = snapshot(publish(complete))
    findings = verify(complete)
    assert findings.differences == []
    assert findings.unchecked == [NOT_HERE]
    for kind in ("numbers", "pictures", "records", "identities", "laws"):
        assert findings.counts[kind] == whole[kind]
    assert findings.counts["artifacts"] == 0
    assert findings.lines()[-2:] == [f"not checked: {NOT_HERE}", findings.lines()[-1]]
    assert snapshot(complete) == before


def test_a_run_that_lacks_some_files_differs(folder: Path) -> None:
    run = run_path(folder, "plain", 1)
    listed = json.loads((run / RECORD).read_text())["artifacts"]
    (run / "notes.txt").touch()
    findings = verify(folder)
    missing = [f"{run_id('plain', 1)}/{name}: missing" for name in listed]
    more = f"{run_id('plain', 1)}/notes.txt: the record does not list it"
    assert sorted(findings.differences) == sorted([*missing, more])
    assert findings.unchecked == ["weights and pictures of 5 runs are not here"]


@pytest.mark.usefixtures("here")
def test_measuring_again_takes_what_weights_there_are(complete: Path) -> None:
    run = run_path(complete, "plain")
    publish(complete, but=run)
    findings = verify(complete, deep=True)
    assert findings.differences == []
    assert findings.counts["measurements"] > 20
    assert findings.unchecked[0] == "weights and pictures of 5 runs are not here"
    publish(complete)
    told = "holds no weights of these runs, so nothing can be measured again; leave out"
    with pytest.raises(BenchError, match=told):
        verify(complete, deep=True)


# What needs weights


def test_a_model_that_is_not_here_says_how_to_make_it(folder: Path) -> None:
    expected = r"its weights are not here; bench run SPEC --fresh --only plain makes them$"
    with pytest.raises(BenchError, match=expected):
        load_model(run_path(folder, "plain"))


def test_a_failed_run_left_only_its_record(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a-s0-01234567")
    record = {"id": "a-s0-01234567", "status": "failed", "artifacts": {}}
    run.write_record(record)
    assert not run.bare(record)
    assert run.bare(record | {"artifacts": {"weights.safetensors": "0" * 64}})


# A clone, as people use it


def test_a_clone_goes_on_with_what_is_published(tmp_path: Path, empty_store: Path) -> None:
    for name in ("mlflow", "other", "third"):
        shutil.copy(empty_store, tmp_path / f"{name}.db")
    (tmp_path / "tiny.yaml").write_text(SPEC.replace(", gaussian]", "]"))
    first = bench(*RUN, "--seeds", "1", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    folder = publish(tmp_path / "reports/tiny")
    before = contents(folder)
    shown = {name: content for name, content in before.items() if name.startswith("figures/runs/")}
    again = {"MLFLOW_TRACKING_URI": "sqlite:///other.db"}
    more = bench(*RUN, "--seeds", "2", cwd=tmp_path, **again)
    assert more.returncode == 0, more.stderr
    assert "1 finished, 1 skipped" in more.stdout
    after = contents(folder)
    assert {name: after.get(name) for name in shown} == shown
    assert after["figures/contact-variants.png"] == before["figures/contact-variants.png"]
    report = after["report.md"].decode()
    assert all(name in report for name in shown)
    assert "contact-variants.png" in report
    checked = bench("verify", "reports/tiny", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout
    assert "not checked: weights and pictures of 1 run are not here\n" in checked.stdout
    sent = bench("sync", "reports/tiny", "--tracking-uri", "sqlite:///third.db", cwd=tmp_path)
    assert "2 sent, 0 there already\n1 of them without weights and pictures" in sent.stdout
