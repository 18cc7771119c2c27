"""`bench verify`: silent on what agrees, and naming exactly what was changed."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import pytest
from factory import a_run, part
from safetensors.torch import load_file, save_file
from synthetic import Edit, edit, save
from test_groups import quickly, workshop

from bench.cli import main
from bench.cli.matrix import report
from bench.errors import BenchError
from bench.evaluation.baselines import baselines
from bench.evaluation.samples import Reference, yardstick
from bench.report import figures, write_report
from bench.runs.execute import Job, execute
from bench.saved import read_saved
from bench.spec.experiment import Run
from bench.store import records
from bench.store.experiments import ExperimentFolder
from bench.verify import Findings, verify, weights
from bench.verify.files import _csv
from bench.verify.runs import _laws

ROOT = Path(__file__).parents[1]
SHARED = workshop()
DATA = SHARED.data
WRITTEN = {"beta": 1.0, "reconstruction": "batchmean", "kl": "batchmean"}  # a resolved part has every option
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"objective": part("elbo", **WRITTEN)},
    "squared": {
        "target": part("normalised", mean=0.1307, std=0.3081),
        "likelihood": part("gaussian", mean="linear", variance=0.3),
        "objective": part("elbo", beta=0.3, reconstruction="mean", kl="mean"),
        "validation": 9000,
    },
    "raw": {
        "posterior": "gaussian-raw-sigma",
        "objective": part("elbo", beta=1.0, reconstruction="sum", kl="sum"),
        "drop_last": True,
    },
    "lost": {"optimizer": part("sgd", lr=1e25), "objective": part("elbo", **WRITTEN)},
}


def run_of(variant: str, seed: int = 0) -> Run:
    return a_run(variant=variant, seed=seed, **VARIANTS[variant])


def run_id(variant: str, seed: int = 0) -> str:
    return run_of(variant, seed).identity(DATA.digest)


def run_path(folder: Path, variant: str, seed: int = 0) -> Path:
    return folder.parent / "runs" / run_of(variant, seed).key(DATA.digest)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three variants of other parts and a variant that diverges, two seeds each."""
    folder = tmp_path_factory.mktemp("reports") / "tiny"
    folder.mkdir()
    planned, variants = {}, {}
    for run in (run_of(name, seed) for seed in (0, 1) for name in VARIANTS):
        name, path = run.identity(DATA.digest), run_path(folder, run.variant, run.seed)
        planned[name] = {"variant": run.variant, "seed": run.seed, "run": path.name}
        settings = run.model_dump(mode="json", exclude={"variant", "seed"})
        variants[run.variant] = settings | {"label": f"{run.variant} · [x]", "axes": {}, "published": []}
        with quickly():
            record = execute(Job(name, run, path, {"git": {}}), SHARED, lambda *_: None)
        assert record["status"] == ("diverged" if run.variant == "lost" else "finished"), record
    save(folder / "experiment.json", {"name": "tiny", "question": "What?", "dataset": "tiny", "seeds": [0, 1],
                                      "variants": variants, "planned": planned})  # fmt: skip
    scores = {name: asdict(s) for name, s in yardstick(DATA, SHARED.reference).items()}
    of, accuracy = {"data": DATA.digest, "latents": [3]}, SHARED.reference.accuracy(DATA)
    rest = {
        "of": of,
        "samples": scores,
        "classifier": {"accuracy": accuracy, "digest": SHARED.reference.digest},
    }
    save(folder / "baselines.json", baselines(DATA, [3]) | rest)
    write_report(folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to change; what Matplotlib draws for it is the original's, since that takes a second."""
    there = {file: (original / "figures" / file, caption) for file, (caption, _) in figures.FIGURES.items()}
    drawn = {file: (caption, path.read_bytes()) for file, (path, caption) in there.items() if path.exists()}
    monkeypatch.setattr(figures, "draw", lambda results: drawn)
    return Path(shutil.copytree(original.parent, tmp_path / "reports")) / "tiny"


def replace(path: Path, old: str, new: str) -> int:
    """Replace the first occurrence; returns its line's number."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return text[: text.index(old)].count("\n") + 1


def cell(folder: Path, variant: str, column: str) -> tuple[str, str]:
    """A row of the first table that has a column and a variant, and that cell."""
    lines = (folder / "report.md").read_text(encoding="utf-8").split("\n")
    head = next(i for i, line in enumerate(lines) if line.startswith("| variant ") and f"| {column}" in line)
    row = next(line for line in lines[head:] if line.startswith(f"| {variant} "))
    return row, row.split(" | ")[lines[head].split(" | ").index(column)]


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in folder.rglob("*")}


# What agrees


def test_what_was_written_agrees_and_is_left_alone(original: Path) -> None:
    before = snapshot(original.parent)
    findings = verify(original)
    assert findings.differences == []
    assert findings.unchecked == []
    assert snapshot(original.parent) == before
    due = {"records": 7, "artifacts": 53, "numbers": 20, "pictures": 20, "identities": 20, "laws": 20}
    assert all(findings.counts[kind] > least for kind, least in due.items())
    assert findings.lines()[-1].endswith(": all agree")


@pytest.mark.parametrize(
    "report", sorted(ROOT.glob("reports/mnist/*/results.csv")), ids=lambda p: p.parent.name
)
def test_the_reports_of_this_repository_agree(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = (report.parent / "figures").glob("*.png")  # another's bytes are no difference, and take seconds
    there = {path.name: ("", path.read_bytes()) for path in drawn if path.name in figures.FIGURES}
    monkeypatch.setattr(figures, "draw", lambda results: there)
    assert verify(report.parent).differences == []


def test_a_report_without_its_runs_is_neither_verified_nor_emptied(folder: Path) -> None:
    shutil.rmtree(folder.parent / "runs")
    before = (folder / "report.md").read_text()
    for command in (verify, report):
        with pytest.raises(BenchError, match=r"runs holds none of the runs of .*tiny, .* put them there"):
            command(folder)
    assert (folder / "report.md").read_text() == before


# One change in the report, one line that names it


def test_a_digit_a_word_of_a_sentence_and_of_a_long_cell_and_the_ninth_place(folder: Path) -> None:
    row, shown = cell(folder, "plain", "ELBO ↑ (nats/image)")
    other = shown.replace(shown[1], "9" if shown[1] != "9" else "8", 1)
    digit = replace(folder / "report.md", row, row.replace(shown, other, 1))
    digest, foreign = DATA.digest, f"00000{DATA.digest[5:]}"
    long = replace(folder / "report.md", digest, foreign)
    word = replace(folder / "report.md", "Covers 8 of 8 runs", "Covers 9 of 8 runs")
    summary = (folder / "summary.csv").read_text()
    right = next(csv.DictReader(summary.splitlines()))["elbo_mean"]
    near = repr(float(right) * (1 + 1e-9))
    (folder / "summary.csv").write_text(summary.replace(f",{right},", f",{near},", 1))
    (folder / "results.csv").write_text("variant\n" + "x" * 200_000)
    told = sorted(verify(folder).differences)
    assert told.pop(-2).startswith("results.csv: cannot be read: field larger than field limit")
    assert told == sorted(
        [
            f"report.md:{digit}, {row[2:].split(' | ')[0]}, ELBO ↑ (nats/image): "
            f'found "{other.replace(chr(160), " ")}", the records give "{shown.replace(chr(160), " ")}"',
            f'report.md:{long}, data, how: found "{foreign}", the records give "{digest}"',
            f'report.md:{word}: found "9", the records give "8"',
            f'summary.csv, plain, elbo_mean: found "{near}", the records give "{right}"',
        ]
    )


def test_a_line_more_and_a_line_less(folder: Path) -> None:
    text = (folder / "report.md").read_text(encoding="utf-8")
    line = replace(folder / "report.md", "## Samples", "Bench is best.\n\n## Samples")
    assert verify(folder).differences == [
        f'report.md:{line}: found "Bench is best.", the records give nothing'
    ]
    row, _ = cell(folder, "raw", "epoch measured")
    (folder / "report.md").write_text(text.replace(f"{row}\n", "", 1), encoding="utf-8")
    (told,) = verify(folder).differences
    assert re.match(r'report\.md:\d+: found nothing, the records give "\| raw · \\\[x\\\][^|]* \| 3 ', told)


def compared(found: str, due: str) -> list[str]:
    findings = Findings()
    _csv(findings, "a.csv", found, due)
    return findings.differences


def test_rows_and_columns_of_a_csv() -> None:
    due = "variant,kl,elbo\na,1,2\nb,3,4\n"
    assert compared(due.replace("kl", "k").replace("a,1,2", "b,3,4"), due) == [
        "a.csv, column k: the records give none",
        "a.csv, column kl: missing",
        "a.csv, a: missing",
        "a.csv, b again: the records give none",
    ]
    assert compared("variant,kl,elbo\nb,3,4\na,1,2\n", due) == ["a.csv: the rows are in another order"]
    assert compared(due.replace("1,2", "1,2,7"), due) == [
        "a.csv, column 4, beyond the head: the records give none"
    ]
    assert compared("", due)[-1] == "a.csv, b: missing"


@pytest.mark.parametrize(
    ("column", "found", "due", "agree"),
    [
        ("x", "1.0", "1", True),
        ("x", "a", "b", False),
        ("x", "", "0", False),
        ("x", "0.1", "0.10000000000000003", False),
        ("x_high", "0.1", "0.10000000000000003", True),
        ("x_high", "0.1", "0.1000001", False),
    ],
)
def test_cells_agree_as_numbers(column: str, found: str, due: str, agree: bool) -> None:
    assert (compared(f"variant,{column}\na,{found}\n", f"variant,{column}\na,{due}\n") == []) is agree


def test_pictures_and_files_of_the_report(folder: Path) -> None:
    gone, changed, other = sorted((folder / "figures/runs").glob("*samples.png"))[:3]
    gone.unlink()
    right, wrong = records.digest(changed), records.digest(other)
    changed.write_bytes(other.read_bytes())
    drawn = folder / "figures/forest.png"
    drawn.write_bytes(drawn.read_bytes()[:-4000])
    (folder / "figures/mine.png").touch()
    (folder / "figures/contact-variants.png").write_bytes(other.read_bytes())
    (folder / "summary.csv").unlink()
    findings = verify(folder)
    assert findings.differences == [
        "figures/forest.png: damaged, it cannot be read",
        "figures/mine.png: the records give none",
        f"figures/runs/{gone.name}: missing",
        f'figures/runs/{changed.name}, sha256: found "{wrong}", the records give "{right}"',
        "summary.csv: missing",
    ]
    assert "contact-variants.png" in findings.unchecked[0]


# The runs


def test_files_of_a_run_that_are_changed_gone_or_too_many(folder: Path) -> None:
    run, name = run_path(folder, "squared", 1), run_id("squared", 1)
    weights = run / "weights.safetensors"
    right = records.digest(weights)
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    (run / "pictures/kl.png").unlink()
    for file in ("notes.txt", ".DS_Store", "checkpoint.safetensors"):
        (run / file).touch()
    foreign = {"../../report.md": "0" * 64, "\x1b[31m\n": ""}
    edit(run / "record.json", lambda r: r["artifacts"].update(foreign))
    assert verify(folder).differences == [
        f"{name}/\\x1b[31m\\n: missing",
        f"{name}/../../report.md: missing",
        f"{name}/notes.txt: the record does not list it",
        f"{name}/pictures/kl.png: missing",
        f'{name}/weights.safetensors, sha256: found "{records.digest(weights)}", the records give "{right}"',
    ]


def test_a_metric_of_a_record(folder: Path) -> None:
    edit(run_path(folder, "raw", 1) / "record.json", lambda r: r["metrics"].update(mse=0.123))
    told = verify(folder).differences
    for expected in (
        rf"{run_id('raw', 1)}: metrics\.gaussian_bits_per_dim: found ",
        r'results\.csv, raw, seed 1, mse: found "0\.\d+", the records give "0\.123"$',
        r"summary\.csv, raw, mse_mean: ",
        r"report\.md:\d+, raw · \\\[x\\\][^,]*, MSE ↓ \(per pixel\): found ",
    ):
        assert any(re.match(expected, line) for line in told), expected
    assert not any("plain, mse" in line or "seed 0" in line for line in told)


def test_what_cannot_be_checked_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.verify.runs.ENGINE", 2)
    new = {"variant": "plain", "seed": 2, "run": "0123456789abcdef-s2"}
    edit(folder / "experiment.json", lambda e: e["planned"].update({"plain-s2-01234567": new}))
    write_report(folder)
    findings = verify(folder)
    assert findings.differences == []
    told = "of engine 1, bench now has 2: it gives other numbers"
    assert [line.endswith(told) for line in findings.unchecked] == [True] * 8 + [False]
    assert findings.unchecked[-1] == "runs without a record, under way or to be done: 1"


def test_what_a_record_is_of_and_one_that_cannot_be_read(folder: Path) -> None:
    first, second, third = (run_id(*of) for of in (("plain", 0), ("plain", 1), ("raw", 0)))
    edit(run_path(folder, "plain", 0) / "record.json", lambda r: r["run"].update(batch_size=9))
    edit(run_path(folder, "plain", 1) / "record.json", lambda r: r["data"].update(digest="f" * 32))
    edit(run_path(folder, "raw") / "record.json", lambda r: r.update(id="small-s0-00000000", seed=7))
    edit(run_path(folder, "raw") / "record.json", lambda r: r["artifacts"].pop("weights.safetensors"))
    cut = run_path(folder, "squared") / "record.json"
    cut.write_text(cut.read_text()[:-20])
    told = verify(folder).differences
    assert told[0].startswith(f"{cut} is truncated or not JSON; remove its folder")
    for expected in (
        'results.csv, squared, seed 0, status: found "finished", the records give "unreadable"',
        f"{first}, hash of its run and data: found",
        "experiment.json, plain, batch_size: found 8, the records give 9",
        f"{second}, hash of its run and data: found",
        f'{second}, data: found "{"f" * 32}", baselines.json gives "{DATA.digest}"',
        f'{third}, id: found "small-s0-00000000"',
        f"{third}, seed: found 7, the records give 0",
        f"{third}: the record lists no weights.safetensors",
    ):
        assert any(line.startswith(expected) for line in told), expected


# The laws within a record


def off(*path: Any, by: float = 1.001) -> Edit:
    """Multiply a number of a record."""

    def change(found: dict[str, Any]) -> None:
        for step in path[:-1]:
            found = found[step]
        found[path[-1]] *= by

    return change


def broken(folder: Path, variant: str, change: Edit = lambda _: None) -> Findings:
    found = records.read(run_path(folder, variant))
    assert found is not None
    change(found)
    findings = Findings()
    _laws(findings, "it", found, run_of(variant))
    return findings


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_law_holds_whatever_the_parts(original: Path, variant: str) -> None:
    findings = broken(original, variant)
    assert findings.differences == findings.unchecked == []
    assert findings.counts["laws"] >= (1 if variant == "lost" else 15)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (off("beta_eff"), "beta_eff: found"),
        (off("curves", 0, "elbo", by=1 + 1e-8), "curves, epoch 1, elbo: found"),
        (off("curves", 0, "epoch", by=2), "curves, row 1, epoch: found 2"),
        (lambda r: r["curves"].pop(), "curves, rows: found 1, the number of epochs gives 2"),
        (off("metrics", "elbo"), "metrics.elbo: found"),
        (off("metrics", "test_loss"), "metrics.test_loss: found"),
        (off("metrics", "kl"), "the sum of kl_per_unit gives"),
        (off("kl_per_unit", 1), "the sum of kl_per_unit gives"),
        (off("metrics", "aggregate_kl"), "mutual_information + aggregate_kl gives"),
        (off("metrics", "mse"), "MSE, variance and KL gives"),
        (off("calibration", "variance", by=1.1), "MSE, variance and KL gives"),
        (off("metrics", "gaussian_bits_per_dim"), "metrics.gaussian_bits_per_dim: found"),
        (off("metrics", "train_seconds"), "the sum over epochs gives"),
        (lambda r: r.pop("kl_per_unit"), "not as bench writes it (KeyError: 'kl_per_unit')"),
        (lambda r: r.update(curves=3), "not as bench writes it (TypeError"),
    ],
)
def test_every_law_can_be_broken(original: Path, change: Edit, told: str) -> None:
    assert any(told in line for line in broken(original, "squared", change).differences)


# The weights


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The data, the classifier and the care with which the runs of this file were measured."""
    monkeypatch.setattr(weights, "data_of", lambda *_: DATA)
    monkeypatch.setattr(Reference, "of_data", lambda data: SHARED.reference)
    with quickly():
        yield


@pytest.mark.usefixtures("here")
def test_weights_give_the_numbers_again(folder: Path) -> None:
    before = snapshot(folder.parent)
    findings = verify(folder, deep=True)
    assert findings.differences == []
    assert findings.unchecked == [weights.OPEN]
    assert findings.counts["measurements"] > 6 * 20
    assert snapshot(folder.parent) == before


@pytest.mark.usefixtures("here")
def test_a_loss_without_nats_and_an_activation_of_torch_are_measured_again(tmp_path: Path) -> None:
    encoder = part("mlp", activation="LeakyReLU(negative_slope=0.2)")
    run = a_run(encoder=encoder, objective=part("warm-up", images=100, start=0.0, beta=1.0))
    execute(Job(run.identity(DATA.digest), run, tmp_path / "run", {"git": {}}), SHARED, lambda *_: None)
    findings = Findings()
    weights._run(findings, read_saved(tmp_path / "run"), "warm", DATA, SHARED.reference, samples=True)
    assert findings.differences == []
    assert findings.counts["measurements"] > 20


@pytest.mark.usefixtures("here")
def test_what_was_forged_alike_does_not_agree_with_the_weights(folder: Path) -> None:
    record = run_path(folder, "plain") / "record.json"
    forged = {"test_loss": 1.0001, "knn_accuracy": 0.9, "frechet_distance": 1.01, "parameters": 2}
    for name, factor in forged.items():
        edit(record, off("metrics", name, by=factor))
    edit(record, off("kl_per_unit", 2, by=1.01))
    edit(folder / "baselines.json", lambda b: b["rows"][0].update(mse=0.5))
    edit(folder / "baselines.json", lambda b: b["samples"]["floor"].update(recall=0.5))
    write_report(folder)
    told = verify(folder, deep=True).differences
    expected = [
        f"{run_id('plain')}, {place}" for place in (*(f"metrics.{m}" for m in forged), "kl_per_unit[2]")
    ]
    assert [line.partition(":")[0] for line in told if "its weights give" in line] == expected
    assert [line.partition(" 0.5, the data give ")[0] for line in told if "the data give" in line] == [
        "baselines.json, rows[0].mse: found",
        "baselines.json, samples.floor.recall: found",
    ]


@pytest.mark.usefixtures("here")
def test_a_record_that_holds_no_run_is_a_difference(folder: Path) -> None:
    record = json.loads((run_path(folder, "plain") / "record.json").read_text()) | {"run": None, "data": None}
    save(run_path(folder, "plain") / "record.json", record)
    findings = Findings()
    weights.measure_again(findings, ExperimentFolder(folder), {run_id("plain"): record}, None)
    [told] = findings.differences
    assert told.startswith(f"{run_id('plain')}: cannot be measured again: ")
    assert "is of another version of bench (run." in told


@pytest.mark.usefixtures("here")
def test_weights_of_a_model_that_is_not_finite_are_a_difference(folder: Path) -> None:
    path = run_path(folder, "plain")
    torn = load_file(path / "weights.safetensors")
    torn["encoder.mean.bias"][0] = math.nan
    save_file(torn, path / "weights.safetensors")
    digest = hashlib.sha256((path / "weights.safetensors").read_bytes()).hexdigest()
    edit(path / "record.json", lambda r: r["artifacts"].update({"weights.safetensors": digest}))
    write_report(folder)
    assert f"{run_id('plain')}: its weights give no finite numbers" in verify(folder, deep=True).differences


@pytest.mark.usefixtures("here")
def test_weights_that_are_gone_and_a_classifier_that_is_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_path(folder, "plain") / "weights.safetensors").unlink()
    another = changed(SHARED.reference, digest="another")
    monkeypatch.setattr(Reference, "of_data", lambda data: another)
    findings = verify(folder, deep=True)
    assert len(findings.differences) == 2
    assert findings.differences[1].startswith(f"{run_id('plain')}: cannot be measured again: cannot read ")
    assert findings.unchecked[1].startswith("sample metrics: the classifier here is another one")


# The command


def test_exit_codes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def bench(*words: object) -> tuple[object, str, str]:
        monkeypatch.setattr("sys.argv", ["bench", "verify", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capsys.readouterr()

    code, out, _ = bench("experiments/tiny.yaml", "--reports", folder.parent)
    assert (code, out.endswith(": all agree\n")) == (0, True)
    (folder / "results.csv").unlink()
    code, out, _ = bench(folder)
    assert (code, out.splitlines()[-2]) == (1, "results.csv: missing")
    assert out.endswith(": 1 difference\n")
    code, _, error = bench(folder / "figures")
    assert code == 2
    assert "holds no experiment.json; give a folder" in error
