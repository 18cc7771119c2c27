"""Publish and join: a stranger's runs beside one's own, each checked, marked, and nothing written over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import synthetic
from factory import a_run, part
from synthetic import Edit, edit

from bench.cli import main
from bench.errors import BenchError
from bench.evaluation.footing import bits_per_dim, gaussian_score
from bench.report import figures, write_report
from bench.report.results import load
from bench.spec.experiment import Run
from bench.store.experiments import ExperimentFolder
from bench.store.joined import merged
from bench.store.records import RunFolder
from bench.verify import verify
from bench.verify.join import join
from bench.verify.publish import publish

DIGEST = "d" * 64
PART = "raise SystemExit('imported')\n"


def of(name: str, *seeds: int, **changes: Any) -> list[Run]:
    written = part("elbo", beta=1.0, reconstruction="batchmean", kl="batchmean")
    return [a_run(variant=name, seed=seed, epochs=1, objective=written, **changes) for seed in seeds]


def leave(run: Run, folder: RunFolder, **about: Any) -> None:
    """What a finished run leaves: numbers that obey every law of a record, weights, a picture."""
    kl, mse, seconds = 3.0, 0.02 + run.seed / 1000, 1.5 + run.seed
    row = {"test_loss": 10.0, "test_loss_nats": 10.0, "elbo": -10.0, "reconstruction": 7.0, "kl": kl}
    losses = dict.fromkeys(("train_loss", "train_loss_nats"), 10.0)
    losses |= dict.fromkeys(("validation_loss", "validation_loss_nats"))
    bits = bits_per_dim(kl - gaussian_score(mse * 784, 784, 0.01), 784)
    more = {"mse": mse, "gaussian_bits_per_dim": bits, "mutual_information": 2.0, "aggregate_kl": 1.0,
            "elbo_bernoulli": -100.0 - run.seed, "train_seconds": seconds}  # fmt: skip
    synthetic.picture(folder.pictures / "samples-epoch-001.png", run.seed)
    folder.weights.write_bytes(b"weights")
    record = {
        "id": run.identity(DIGEST), "variant": run.variant, "seed": run.seed, "status": "finished",
        "yardstick": 2, "run": run.model_dump(mode="json"), "beta_eff": 1.0,
        "likelihood_class": "Bernoulli, grey target",
        "metrics": row | more, "kl_per_unit": [kl], "calibration": {"variance": 0.01},
        "curves": [{"epoch": 1, "train_seconds": seconds, **losses, **row}], "environment": {"device": "cpu"},
        "data": {"name": "tiny", "digest": DIGEST, "shape": [28, 28], "train": 9, "test": 8},
        "artifacts": folder.artifacts(), **about,
    }  # fmt: skip
    folder.write_record(record)


def experiment(folder: Path, runs: list[Run], commit: str) -> Path:
    """An experiment as a matrix leaves it, in a clone of its own."""
    planned, variants = {}, {}
    for run in runs:
        key = run.key(DIGEST)
        planned[run.name_of(key)] = {"variant": run.variant, "seed": run.seed, "run": key}
        named = {"name": run.variant, "label": run.variant, "axes": {}, "published": []}
        variants[run.variant] = run.model_dump(mode="json", exclude={"variant", "seed"}) | named
        leave(run, RunFolder(folder.parent / "runs" / key), experiment=folder.name, git={"commit": commit})
    synthetic.save(folder / "experiment.json", {
        "name": folder.name, "question": "What?", "dataset": "tiny", "seeds": [0], "variants": variants,
        "planned": planned,
    })  # fmt: skip
    write_report(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _undrawn() -> Iterator[None]:
    """Nothing is drawn by Matplotlib, which takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw", lambda results: {})
        yield


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lab's experiment: a seed of our a, another b, c with a file of its own, and d, our seed 0 of a."""
    others = [*of("a", 2), *of("b", 0, latent=5), *of("c", 0, batch_size=16), *of("d", 0)]
    folder = experiment(tmp_path_factory.mktemp("clone") / "theirs", others, "decade")
    run = RunFolder(the_run(folder, "c").parent)
    run.parts.mkdir()
    (run.parts / "01234567-own.py").write_text(PART)
    edit(run.record, lambda record: record.update(artifacts=run.artifacts()))
    return folder


@pytest.fixture(scope="module")
def clones(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our experiment, a with two seeds and b, and the folder that the lab published."""
    root = tmp_path_factory.mktemp("clones")
    publish(lab, root / "lab", by="The lab")
    experiment(root / "reports/mine", [*of("a", 0, 1), *of("b", 0, latent=2)], "c0ffee")
    return root


@pytest.fixture
def both(clones: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of both, to change."""
    shutil.copytree(clones, tmp_path, dirs_exist_ok=True)
    return tmp_path / "reports/mine", tmp_path / "lab"


def the_run(folder: Path, variant: str) -> Path:
    """The record of a variant's first run."""
    home = ExperimentFolder(folder)
    return next(home.run(name).record for name, plan in home.planned.items() if plan["variant"] == variant)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


# Publish


def test_what_is_published_stands_alone_without_weights(lab: Path, tmp_path: Path) -> None:
    sizes = publish(lab, tmp_path / "out")
    assert verify(tmp_path / "out/theirs").differences == []
    names = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert names >= {"README.md", "record.json", "report.html", "results.csv", "01234567-own.py"}
    assert not {name for name in names if name.endswith((".safetensors", ".lock")) or name.startswith(".")}
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert sizes["all"] == sum(file.stat().st_size for file in files)
    whole = publish(lab, tmp_path / "whole", weights=True)
    assert (whole["weights"] > 0, sizes["weights"]) == (True, 0)
    assert verify(tmp_path / "whole/theirs").unchecked == []


def test_publishing_writes_over_nothing(lab: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish(lab, out)
    before = snapshot(out)
    with pytest.raises(BenchError, match="is there already, and stays as it is"):
        publish(lab, out)
    assert snapshot(out) == before
    shutil.rmtree(out / "theirs")
    publish(lab, out)  # its runs are there already, and the same
    shutil.rmtree(out / "theirs")
    edit(next(out.glob("runs/*/record.json")), lambda record: record.update(node="another"))
    with pytest.raises(BenchError, match="holds other results of a run"):
        publish(lab, out)
    assert not (out / "theirs").exists()


# Join


def test_runs_of_two_clones_stand_in_one_report(both: tuple[Path, Path]) -> None:
    ours, lab = both
    done = join(ours, lab)
    assert (len(done.added), len(done.here), done.refused) == (3, 1, {})  # d is a, and its seed 0 is ours
    variants = {v.name: v for v in load(ours).variants}
    assert [*variants] == ["a", "b", "b-the-lab", "c"]
    assert [run.seed for run in variants["a"].finished] == [0, 1, 2]
    assert [variants[name].latent for name in ("b", "b-the-lab")] == [2, 5]
    assert [sum(v.table.origin == "The lab") for v in variants.values()] == [1, 0, 1, 1]
    assert verify(ours).differences == []
    report = (ours / "report.md").read_text()
    told = ("a (1 of 3 from The lab)", "c (from The lab)", "decade", "c0ffee", "Joined from others: 3")
    assert all(line in report for line in told)
    assert (ours / "results.csv").read_text().count(",The lab,") == 3
    (copy,) = ours.parent.glob("runs/*/parts/*.py")
    assert copy.read_text() == PART  # it goes along, and is not imported


def test_all_runs_may_be_joined(both: tuple[Path, Path]) -> None:
    ours, lab = both
    for run in json.loads((ours / "experiment.json").read_text())["planned"].values():
        shutil.rmtree(ours.parent / "runs" / run["run"])
    assert len(join(ours, lab).added) == 4
    report = (ours / "report.md").read_text()
    assert "Joined from others: 4 runs" in report
    assert "made here" not in report


def test_a_run_that_does_not_pass_is_not_published(both: tuple[Path, Path], tmp_path: Path) -> None:
    edit(the_run(both[0], "a"), TAMPERED["metrics.elbo"])
    with pytest.raises(BenchError, match=r"would not pass a check .*bench verify"):
        publish(both[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_joining_twice_changes_nothing(both: tuple[Path, Path]) -> None:
    ours, lab = both
    join(ours, lab)
    before = snapshot(ours.parent)
    again = join(ours, lab)
    assert (again.added, len(again.here)) == ([], 4)
    assert snapshot(ours.parent) == before


def test_own_runs_and_their_numbers_stay(both: tuple[Path, Path]) -> None:
    ours, lab = both
    edit(the_run(lab / "theirs", "d"), lambda record: record.update(environment={"device": "other"}))
    before = {file: file.read_bytes() for file in ours.parent.glob("runs/*/*") if file.is_file()}
    spec = (ours / "experiment.json").read_bytes()
    join(ours, lab)
    assert {file: file.read_bytes() for file in before} == before
    assert (ours / "experiment.json").read_bytes() == spec


def test_times_are_never_pooled(both: tuple[Path, Path]) -> None:
    ours, lab = both
    alone = load(ours).variants[0].estimate("train_seconds")
    join(ours, lab)
    a, *_ = load(ours).variants
    assert alone
    assert a.estimate("train_seconds") is None  # the same processor, another's machine
    assert a.estimate("mse").n == 3
    lines = (ours / "report.md").read_text().splitlines()
    assert sum(line.startswith("| a (1 of 3") and "| M" in line for line in lines) == 2


TAMPERED: dict[str, Edit] = {
    "metrics.elbo": lambda record: record["metrics"].update(elbo=-1.0),
    "hash of its run and data": lambda record: record["run"].update(batch_size=9),
    "seed": lambda record: record.update(seed=7),
    "is not a bench record": lambda record: record.update(metrics="none"),
    "another version of bench": lambda record: record["run"].update(encoder="mlp"),
    "curves, rows": lambda record: record["curves"].clear(),
}


@pytest.mark.parametrize(("why", "change"), TAMPERED.items(), ids=TAMPERED)
def test_a_tampered_record_is_refused_by_name_and_the_rest_goes_in(
    both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, why: str, change: Edit
) -> None:
    monkeypatch.setattr("bench.verify.join.write_report", lambda folder: None)
    ours, lab = both
    edit(the_run(lab / "theirs", "c"), change)
    told = join(ours, lab)
    ((run_id, told_why),) = told.refused.items()
    assert run_id.startswith("c-s0-")
    assert why in told_why
    assert len(told.added) == 2
    assert [v.name for v in load(ours).variants] == ["a", "b", "b-the-lab"]


def test_a_file_that_is_not_the_listed_one_is_refused_and_no_link_followed(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    ours, lab = both
    next(lab.glob("runs/*/parts/*.py")).write_text("import os")
    record = the_run(lab / "theirs", "b")
    (tmp_path / "secret").write_bytes(record.read_bytes())
    record.unlink()
    record.symlink_to(tmp_path / "secret")
    linked, other = join(ours, lab).refused.values()
    assert ("link" in linked, "sha256" in other) == (True, True)
    assert not [*ours.parent.glob("runs/*/parts")]


def test_other_data_are_refused(both: tuple[Path, Path]) -> None:
    ours, lab = both
    edit(ours / "experiment.json", lambda spec: spec.update(dataset="mnist"))
    told = join(ours, lab)
    assert set(told.refused.values()) == {"it is on other data, tiny; here is mnist"}
    assert not told.added


def test_the_command_says_what_it_did_and_exits_1_where_it_refused(
    both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, lab = both
    edit(the_run(lab / "theirs", "c"), TAMPERED["seed"])
    monkeypatch.setattr("sys.argv", ["bench", "join", str(ours), str(lab), "--as", "X"])
    with pytest.raises(SystemExit) as end:
        main()
    out = capsys.readouterr().out.splitlines()
    assert end.value.code == 1
    assert out[0].startswith("refused c-s0-")
    assert out[1:] == ["2 added, 1 here already, 1 refused", str(ours / "report.md")]
    for folder, told in ((ours, "have one store of runs"), (ours.parent / "runs", "holds no experiment")):
        with pytest.raises(BenchError, match=told):
            join(ours, folder)


# Names


def settings(latent: int, **about: Any) -> dict[str, Any]:
    return {"latent": latent, "label": None, "axes": {}, **about}


def source(name: str, **variants: dict[str, Any]) -> Any:
    planned = {f"{v}-s5": {"variant": v, "seed": 5, "run": f"{name}{v}".ljust(16, "0")} for v in variants}
    return {"name": name, "variants": variants, "planned": planned}


def test_names_are_clear_whatever_others_call_theirs() -> None:
    spec = {
        "variants": {"a": settings(1, axes={"beta": 1}), "twin": settings(1), "b": settings(2, label="B")},
        "planned": {"a-s0": {"variant": "a", "seed": 0, "run": "own"}},
        "seeds": [0],
    }
    lab = source(
        "Lab 1", a=settings(9), x=settings(1), b=settings(8, label="B"), n=settings(7, axes={"z": 1})
    )
    found = merged(spec, [lab, source("lab-1", a=settings(10), m=settings(6, axes={"beta": 2}))])
    assert [*found["variants"]] == ["a", "twin", "b", "a-lab-1", "b-lab-1", "n", "a-lab-1-2", "m"]
    assert found["variants"]["b-lab-1"]["label"] == "b-lab-1"  # another B
    assert [found["variants"][name]["axes"] for name in ("n", "m")] == [{}, {"beta": 2}]
    assert [plan["variant"] for plan in found["planned"].values()].count("twin") == 1  # x is a, and twin
    assert found["seeds"] == [0, 5]
    assert merged(spec, [])["planned"] == spec["planned"]
