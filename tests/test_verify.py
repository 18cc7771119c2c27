"""`bench verify`: silent on what agrees, and naming exactly what was changed."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from factory import a_dataset, a_run, part

from bench.cli import main
from bench.errors import BenchError
from bench.evaluation.baselines import baselines
from bench.evaluation.samples import FeatureNet, Reference, yardstick
from bench.report import figures, write_report
from bench.runs.execute import Job, SharedContext, execute
from bench.store import records
from bench.store.experiments import ExperimentFolder
from bench.verify import Findings, verify, weights
from bench.verify.compare import csv_file, markdown_file, same
from bench.verify.laws import laws
from bench.verify.weights import asdict

ROOT = Path(__file__).parents[1]
DATA = a_dataset()
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "thresholded": {
        "target": part("threshold"),
        "likelihood": part("continuous-bernoulli"),
        "drop_last": True,
    },
    "squared": {
        "target": part("normalised", mean=0.1307, std=0.3081),
        "likelihood": part("gaussian", mean="linear", variance=0.3),
        "objective": part("elbo", beta=0.3, reconstruction="mean", kl="mean"),
        "validation": 9000,
    },
    "learned": {"likelihood": "gaussian-learned", "objective": part("elbo", reconstruction="sum", kl="sum")},
    "raw": {"posterior": "gaussian-raw-sigma"},
    "unpaid": {"likelihood": "gaussian", "objective": part("elbo", beta=0.0)},
    "lost": {"optimizer": part("sgd", lr=1e25)},
}
Edit = Callable[[dict[str, Any]], Any]


def workshop() -> SharedContext:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = FeatureNet((28, 28), 10).eval()
    reference = Reference.of(net.features(DATA.test_images.flatten(1).float() / 255))
    return SharedContext(DATA, torch.device("cpu"), net, reference)


SHOP = workshop()


def published(folder: Path) -> Path:
    """The same report without what is not published."""
    shutil.rmtree(folder.parent / "runs")
    for name in ("experiment.json", "baselines.json"):
        (folder / name).unlink()
    return folder


def run_id(variant: str, seed: int = 0) -> str:
    return a_run(variant=variant, seed=seed, **full(variant)).identity(DATA.digest)


def run_path(folder: Path, variant: str, seed: int = 0) -> Path:
    return ExperimentFolder(folder).run(run_id(variant, seed)).path


def full(variant: str) -> dict[str, Any]:
    """The variant's settings with every option written out, as a resolved experiment has them."""
    given = {"objective": part("elbo", beta=1.0, reconstruction="batchmean", kl="batchmean")} | VARIANTS[
        variant
    ]
    if given["objective"].options.keys() != {"beta", "reconstruction", "kl"}:
        options = {"beta": 1.0, "reconstruction": "batchmean", "kl": "batchmean"}
        given["objective"] = part("elbo", **options | given["objective"].options)
    if given.get("likelihood") == "gaussian":
        given["likelihood"] = part("gaussian", variance=0.5, mean="sigmoid")
    return given


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of likelihood, target, reduction and posterior, two seeds, one variant that diverges."""
    folder = tmp_path_factory.mktemp("reports") / "tiny"
    folder.mkdir()
    runs = [a_run(variant=name, seed=seed, **full(name)) for seed in (0, 1) for name in VARIANTS]
    planned, variants = {}, {}
    for run in runs:
        name = run.identity(DATA.digest)
        planned[name] = {"variant": run.variant, "seed": run.seed, "run": run.key(DATA.digest)}
        settings = run.model_dump(mode="json", exclude={"variant", "seed"})
        variants[run.variant] = settings | {"label": f"{run.variant} · [x]", "axes": {}, "published": []}
        record = execute(
            Job(name, run, folder.parent / "runs" / run.key(DATA.digest), {"git": {}}), SHOP, lambda *_: None
        )
        assert record["status"] == ("diverged" if run.variant == "lost" else "finished"), record
    save(folder / "experiment.json", {"name": "tiny", "question": "What?", "dataset": "tiny", "seeds": [0, 1],
                                      "variants": variants, "planned": planned})  # fmt: skip
    scores = {name: asdict(s) for name, s in yardstick(DATA, SHOP.net, SHOP.reference).items()}
    of = {"data": DATA.digest, "latents": [3]}
    rest = {"of": of, "samples": scores, "classifier": {"accuracy": 0.5, "digest": "this one"}}
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


def save(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def edit(path: Path, change: Edit) -> None:
    content = json.loads(path.read_text())
    change(content)
    save(path, content)


def replace(path: Path, old: str, new: str) -> int:
    """Replace the first occurrence; returns its line's number."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return text[: text.index(old)].count("\n") + 1


def cell(folder: Path, variant: str, column: str) -> tuple[str, str]:
    """A row of the headline table, and one of its cells."""
    lines = (folder / "report.md").read_text(encoding="utf-8").split("\n")
    head = lines.index("## Results") + 4
    row = next(line for line in lines[head:] if line.startswith(f"| {variant} "))
    return row, row.split(" | ")[lines[head].split(" | ").index(column)]


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in folder.rglob("*")}


# What agrees


def test_what_was_written_agrees_and_is_left_alone(original: Path) -> None:
    before = snapshot(original)
    findings = verify(original)
    assert findings.differences == []
    assert findings.unchecked == []
    assert snapshot(original) == before
    counts = findings.counts
    assert counts["records"] == 14
    assert counts["artifacts"] >= 12 * 9
    assert min(counts[kind] for kind in ("numbers", "pictures", "identities", "laws")) > 40
    assert findings.lines()[-1].endswith(": all agree")


def test_a_published_report_agrees_with_itself_and_says_what_is_open(folder: Path) -> None:
    findings = verify(published(folder))
    assert findings.differences == []
    assert findings.counts["numbers"] > 300
    assert findings.unchecked[0].startswith("the records, which are not here")
    with pytest.raises(BenchError, match="no records, so nothing can be measured again"):
        verify(folder, deep=True)


@pytest.mark.parametrize(
    "report", sorted(ROOT.glob("reports/mnist/*/results.csv")), ids=lambda p: p.parent.name
)
def test_the_reports_of_this_repository_agree(report: Path) -> None:
    assert verify(report.parent).differences == []


# One change, one line that names it


def test_a_digit_of_a_table(folder: Path) -> None:
    row, shown = cell(folder, "plain", "ELBO ↑")
    other = shown.replace(shown[1], "9" if shown[1] != "9" else "8", 1)
    line = replace(folder / "report.md", row, row.replace(shown, other, 1))
    assert verify(folder).differences == [
        f'report.md:{line}, {row[2:].split(" | ")[0]}, ELBO ↑: found "{other.replace(chr(160), " ")}", '
        f'the records give "{shown.replace(chr(160), " ")}"'
    ]
    findings = verify(published(folder))
    assert len(findings.differences) == 1
    assert findings.differences[0].startswith(f"report.md:{line}, plain · \\[x\\]")
    assert "results.csv gives" in findings.differences[0]


def test_a_digit_of_a_sentence(folder: Path) -> None:
    line = replace(folder / "report.md", "Covers 14 of 14 runs", "Covers 15 of 14 runs")
    assert verify(folder).differences == [f'report.md:{line}: found "15", the records give "14"']


def test_a_word_of_a_long_cell(folder: Path) -> None:
    line = replace(folder / "report.md", f"digest `{DATA.digest[:5]}", "digest `00000")
    place = f"report.md:{line}, data, how"
    changed = f"`00000{DATA.digest[5:]}`"
    expected = f'{place}: found "{changed}", the records give "`{DATA.digest}`"'
    assert verify(folder).differences == [expected]


def test_a_line_more_and_a_line_less(folder: Path) -> None:
    text = (folder / "report.md").read_text(encoding="utf-8")
    line = replace(folder / "report.md", "## Cost", "Bench is best.\n\n## Cost")
    assert (
        verify(folder).differences[0] == f'report.md:{line}: found "Bench is best.", the records give nothing'
    )
    row, _ = cell(folder, "raw", "KL")
    (folder / "report.md").write_text(text.replace(f"{row}\n", "", 1), encoding="utf-8")
    (told,) = verify(folder).differences
    assert re.match(r'report\.md:\d+: found nothing, the records give "raw · \\\[x\\\][^|]* \| 3 ', told)


@pytest.mark.parametrize(("file", "column"), [("results.csv", "elbo"), ("summary.csv", "elbo_mean")])
def test_a_cell_of_a_csv(folder: Path, file: str, column: str) -> None:
    lines = (folder / file).read_text().split("\n")
    words = lines[1].split(",")
    at = len(words) - len(lines[0].split(",")) + lines[0].split(",").index(column)  # a class has a comma
    right = float(words[at])
    words[at] = repr(math.nextafter(right, 0))  # the very last bit
    (folder / file).write_text("\n".join([lines[0], ",".join(words), *lines[2:]]))
    place = f"{file}, plain seed 0, elbo" if file == "results.csv" else f"{file}, plain, elbo_mean"
    assert verify(folder).differences == [f"{place}: found {words[at]}, the records give {right!r}"]


def test_rows_and_columns_of_a_csv(folder: Path) -> None:
    lines = (folder / "summary.csv").read_text().split("\n")
    (folder / "summary.csv").write_text(
        "\n".join([lines[0].replace(",kl_mean", ",k_mean"), lines[2], *lines[2:]])
    )
    assert verify(folder).differences == [
        "summary.csv, column k_mean: the records give none",
        "summary.csv, column kl_mean: missing",
        "summary.csv, plain: missing",
        "summary.csv, thresholded (row 2 of it): the records give none",
    ]
    (folder / "summary.csv").write_text("\n".join([lines[0], lines[2], lines[1], *lines[3:]]))
    assert verify(folder).differences == ["summary.csv: the rows are in another order"]
    (folder / "summary.csv").unlink()
    assert verify(folder).differences == ["summary.csv: missing"]


def test_a_byte_of_the_weights(folder: Path) -> None:
    file = run_path(folder, "plain") / records.WEIGHTS
    content, right = bytearray(file.read_bytes()), records.digest(file)
    content[-1] ^= 1
    file.write_bytes(content)
    (told,) = verify(folder).differences
    place = f"{run_id('plain')}/weights.safetensors, sha256"
    assert told == f'{place}: found "{records.digest(file)}", the records give "{right}"'


def test_files_of_a_run_that_are_gone_or_too_many(folder: Path) -> None:
    run = run_path(folder, "squared", 1)
    (run / "pictures/kl.png").unlink()
    (run / "notes.txt").touch()
    for allowed in (".DS_Store", "checkpoint.safetensors"):
        (run / allowed).touch()
    assert verify(folder).differences == [
        f"{run_id('squared', 1)}/pictures/kl.png: missing",
        f"{run_id('squared', 1)}/notes.txt: the record does not list it",
    ]


def test_a_record_that_lists_a_file_outside(folder: Path) -> None:
    run = run_path(folder, "plain")
    outside = {"../../report.md": "0" * 64, "\x1b[31m\n": "0" * 64}
    edit(run / "record.json", lambda r: r["artifacts"].update(outside))
    assert verify(folder).differences == [
        f"{run_id('plain')}: the record names ../../report.md, outside its folder",
        f"{run_id('plain')}/\\x1b[31m\\n: missing",
    ]


def test_pictures_of_the_report(folder: Path) -> None:
    runs = sorted((folder / "figures/runs").glob("*samples.png"))
    runs[0].unlink()
    runs[1].write_bytes(runs[2].read_bytes())
    drawn = folder / "figures/forest.png"
    drawn.write_bytes(drawn.read_bytes()[:-40])
    (folder / "figures/mine.png").touch()
    other = folder / "figures/contact-samples.png"
    other.write_bytes(runs[2].read_bytes())
    findings = verify(folder)
    assert sorted(findings.differences) == sorted(
        [
            "figures/forest.png: damaged, it cannot be read",
            "figures/mine.png: the records give none",
            f"figures/runs/{runs[0].name}: missing",
            f"figures/runs/{runs[1].name}: differs from the picture in its run's folder",
        ]
    )
    assert "contact-samples.png" in findings.unchecked[0]
    assert len(verify(published(folder)).differences) == 3  # whether a copy is right, only its run tells


def test_a_metric_of_a_record(folder: Path) -> None:
    name = run_id("raw", 1)
    edit(ExperimentFolder(folder).run(name).record, lambda r: r["metrics"].update(mse=0.123))
    told = verify(folder).differences
    assert any(line.startswith(f"{name}: metrics.elbo_gaussian: found ") for line in told)
    assert any(
        re.match(r"results\.csv, raw seed 1, mse: found 0\.\d+, the records give 0\.123$", s) for s in told
    )
    assert any(line.startswith("summary.csv, raw, mse_mean: ") for line in told)
    assert any(
        re.match(r"report\.md:\d+, raw · \\\[x\\\][^,]*, MSE ↓ \(per pixel\): found ", line) for line in told
    )
    assert not any("plain, mse" in line or "seed 0" in line for line in told)


def test_a_record_that_cannot_be_read(folder: Path) -> None:
    file = run_path(folder, "plain") / "record.json"
    file.write_text(file.read_text()[:-20])
    told = verify(folder).differences
    assert told[0].startswith(f"{file} is truncated or not JSON; remove its folder")
    assert 'results.csv, plain seed 0, status: found "finished", the records give "unreadable"' in told


def test_a_run_that_is_under_way(folder: Path) -> None:
    new = {"variant": "plain", "seed": 9, "run": "0123456701234567-s9"}
    edit(folder / "experiment.json", lambda e: e["planned"].update({"plain-s9-01234567": new}))
    write_report(folder)
    findings = verify(folder)
    assert findings.differences == []
    assert findings.unchecked == ["runs without a record, under way or to be done: 1"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r: r["run"].update(batch_size=9), "{id}, identity of its run and data: found"),
        (lambda r: r["data"].update(digest="f" * 32), "{id}, identity of its run and data: found"),
        (lambda r: r["data"].update(digest="f" * 32), "records: of different data, digests"),
        (lambda r: r.update(seed=7), "{id}, seed: found 7, the records give 0"),
        (
            lambda r: r["artifacts"].pop("weights.safetensors"),
            "{id}: the record lists no weights.safetensors",
        ),
    ],
)
def test_what_a_record_is_of(folder: Path, change: Edit, expected: str) -> None:
    name = run_id("plain")
    edit(ExperimentFolder(folder).run(name).record, change)
    assert any(line.startswith(expected.format(id=name)) for line in verify(folder).differences)


def test_an_experiment_that_says_other_than_its_runs(folder: Path) -> None:
    edit(folder / "experiment.json", lambda e: e["variants"]["plain"].update(batch_size=64))
    expected = "experiment.json, plain, batch_size: found 64, the records give 8"
    assert verify(folder).differences == [expected, expected]  # of two seeds


def test_a_record_of_an_older_engine_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.verify.evidence.ENGINE", 2)
    findings = verify(folder)
    assert findings.differences == []
    assert len(findings.unchecked) == 14
    assert findings.unchecked[0].endswith("of engine 1, bench now has 2: it gives other numbers")


# The laws within a record


def record(folder: Path, variant: str) -> dict[str, Any]:
    found = records.read(run_path(folder, variant))
    assert found is not None
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_law_holds_whatever_the_parts(original: Path, variant: str) -> None:
    told = list(laws(record(original, variant)))
    assert [law.told for law in told if not law.holds] == []
    assert len(told) >= (1 if variant == "lost" else 40)


def test_a_loss_is_tied_to_its_density_by_every_likelihood(original: Path) -> None:
    tied = [
        v for v in VARIANTS if any("the implied density" in law.told for law in laws(record(original, v)))
    ]
    assert tied == ["plain", "thresholded", "squared", "learned", "unpaid"]  # 000's posterior pays another KL


def off(*path: Any, by: float = 1.001) -> Edit:
    """Multiply a number of a record."""

    def change(found: dict[str, Any]) -> None:
        for step in path[:-1]:
            found = found[step]
        found[path[-1]] *= by

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (off("beta_eff"), "beta_eff: found"),
        (off("curves", 0, "elbo", by=1 + 1e-8), "curves, epoch 1, elbo: found"),
        (off("curves", 0, "train_loss", by=1 + 1e-8), "curves, epoch 1, train_loss: found"),
        (off("curves", 1, "validation_loss", by=1 + 1e-8), "curves, epoch 2, validation_loss: found"),
        (off("curves", 0, "epoch", by=2), "curves: found the epochs 2, 2, due are 1 to 2"),
        (lambda r: r["curves"].pop(), "curves: found the epochs 1, due are 1 to 2"),
        (lambda r: r["curves"][0].update(validation_loss=None), "curves: found 1 with or without"),
        (off("metrics", "elbo"), "metrics.elbo: found"),
        (off("metrics", "test_loss"), "metrics.test_loss: found"),
        (off("metrics", "test_loss_nats"), "the implied density gives"),
        (off("metrics", "kl"), "the sum of kl_per_unit gives"),
        (off("kl_per_unit", 1), "the sum of kl_per_unit gives"),
        (lambda r: r["kl_per_unit"].append(0.0), "kl_per_unit: found 4 units, the model has 3"),
        (off("kl_per_unit", 0, by=-1), "a KL is not negative"),
        (off("metrics", "aggregate_kl"), "mutual_information + aggregate_kl gives"),
        (lambda r: r["metrics"].update(mutual_information=math.log(70) + 0.1), "at most ln N"),
        (lambda r: r["metrics"].update(active_units=4), "metrics.active_units: found 4, outside 0 to 3"),
        (off("metrics", "mse"), "MSE, variance and KL gives"),
        (off("calibration", "variance", by=1.1), "MSE, variance and KL gives"),
        (off("calibration", "epsilon", by=1e-9), "calibration.epsilon: found"),
        (off("metrics", "elbo_gaussian"), "metrics.elbo_gaussian: found"),
        (off("metrics", "log_px_gaussian", by=1.2), "metrics.log_px_gaussian, negated: found"),
        (off("metrics", "log_px_bernoulli", by=2), "metrics.log_px_bernoulli: found"),
        (off("metrics", "elbo_bernoulli", by=1e-4), "at most −KL"),
        (lambda r: r["metrics"].update(knn_accuracy=0.1234), "a whole number of 70 images gives"),
        (lambda r: r["metrics"].update(precision=0.12345), "a whole number of 1000 images gives"),
        (lambda r: r["metrics"].update(recall=71 / 70), "metrics.recall: found"),
        (off("metrics", "train_seconds"), "the sum over epochs gives"),
        (off("metrics", "images_per_second"), "images over seconds gives"),
        (off("curves", 1, "images_per_second"), "epoch 2, images_per_second × train_seconds: found"),
        (
            lambda r: r["data"].update(validation=19, train=111),
            "data.validation: found 19, the split gives 20",
        ),
        (lambda r: r["data"].update(name="mnist"), "data: found mnist, the run says tiny"),
        (lambda r: r["environment"].update(precision="bf16"), "environment.precision: found bf16"),
        (lambda r: r["metrics"].update(mse=math.nan), "metrics.mse is nan, not a finite number"),
        (lambda r: r["curves"][1].update(kl=math.inf), "curves[1].kl is inf, not a finite number"),
        (lambda r: r.pop("kl_per_unit"), "kl_per_unit is absent: KL is the sum of its units"),
        (lambda r: r.update(curves=None), "not as bench writes it"),
    ],
)
def test_every_law_can_be_broken(original: Path, change: Edit, told: str) -> None:
    found = record(original, "squared")
    assert all(law.holds for law in laws(found))
    change(found)
    assert any(told in law.told for law in laws(found) if law.holds is False)


def test_a_metric_without_a_finite_value_breaks_no_law(original: Path) -> None:
    found = record(original, "plain")
    del found["metrics"]["mse"]
    assert [law.told for law in laws(found) if not law.holds] == [
        "mse is absent: The Gaussian code length follows from MSE, calibrated variance and KL, in closed form"
    ]
    assert None in [law.holds for law in laws(found)]


def test_the_epochs_of_a_diverged_run(original: Path) -> None:
    found = record(original, "lost")
    found["diverged"]["epoch"] += 1
    assert [law.told for law in laws(found) if not law.holds] == [
        f"curves: found the epochs none, due are 1 to {found['diverged']['epoch'] - 1}"
    ]


# The weights


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data and the classifier that the runs of this file saw."""
    monkeypatch.setattr(weights, "load", lambda name, data_dir: DATA)
    monkeypatch.setattr(weights, "classifier", lambda data: (SHOP.net, 0.5, "this one"))


@pytest.mark.usefixtures("here")
def test_weights_give_the_numbers_again(folder: Path) -> None:
    before = snapshot(folder)
    findings = verify(folder, deep=True)
    assert findings.differences == []
    assert findings.unchecked == [weights.OPEN]
    assert findings.counts["measurements"] > 12 * 20
    assert snapshot(folder) == before


@pytest.mark.usefixtures("here")
def test_a_record_and_report_forged_alike_do_not_agree_with_the_weights(folder: Path) -> None:
    forged = {"test_loss": 1.0001, "knn_accuracy": 0.9, "frechet_distance": 1.01, "parameters": 2}
    for name, factor in forged.items():
        edit(run_path(folder, "plain") / "record.json", off("metrics", name, by=factor))
    write_report(folder)
    told = [line for line in verify(folder, deep=True).differences if "its weights give" in line]
    assert [line.partition(":")[0] for line in told] == [f"{run_id('plain')}, metrics.{m}" for m in forged]


@pytest.mark.usefixtures("here")
def test_baselines_and_units_are_measured_again(folder: Path) -> None:
    edit(run_path(folder, "plain") / "record.json", off("kl_per_unit", 2, by=1.01))
    edit(folder / "baselines.json", lambda b: b["rows"][0].update(mse=0.5))
    edit(folder / "baselines.json", lambda b: b["samples"]["floor"].update(recall=0.5))
    told = verify(folder, deep=True).differences
    assert any(
        line.startswith("baselines.json, PCA, 3 latents, mse: found 0.5, the data gives ") for line in told
    )
    assert any(line.startswith("baselines.json, floor, recall: found 0.5, the data gives ") for line in told)
    assert any(line.startswith(f"{run_id('plain')}, kl_per_unit[2]: found ") for line in told)


@pytest.mark.usefixtures("here")
def test_weights_that_are_gone_and_a_classifier_that_is_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_path(folder, "plain") / "weights.safetensors").unlink()
    monkeypatch.setattr(weights, "classifier", lambda data: (SHOP.net, 0.7, "another"))
    findings = verify(folder, deep=True)
    assert len(findings.differences) == 2
    assert findings.differences[1].startswith(f"{run_id('plain')}: cannot be measured again: cannot read ")
    assert findings.unchecked[1].startswith("sample metrics: the classifier here is another one")


# A report without records


def test_a_value_of_a_published_csv_is_held_against_both(folder: Path) -> None:
    lines = (published(folder) / "results.csv").read_text().split("\n")
    at = lines[0].split(",").index("elbo_bernoulli") - len(lines[0].split(","))
    words = lines[1].split(",")
    words[at] = "-1.5"
    (folder / "results.csv").write_text("\n".join([lines[0], ",".join(words), *lines[2:]]))
    told = verify(folder).differences
    assert any(line.startswith("summary.csv, plain, elbo_bernoulli_mean: found -") for line in told)
    assert any(re.match(r"report\.md:\d+, .*ELBO, binarised ↑ \(nats/image\): found ", line) for line in told)
    assert not any("elbo_gaussian" in line or "Gaussian" in line for line in told)


def test_a_row_that_is_missing_in_a_published_table(folder: Path) -> None:
    row, _ = cell(published(folder), "raw", "KL")
    replace(folder / "report.md", f"{row}\n", "")
    assert verify(folder).differences == ["report.md, Results: 6 variants, results.csv has 7"]


# The pieces


@pytest.mark.parametrize(
    ("a", "b", "agree"),
    [
        ("1.0", "1", True),
        ("", "", True),
        ("a", "b", False),
        ("", "0", False),
        ("1.0", "1.0000000000000002", False),
    ],
)
def test_cells_agree_as_numbers(a: str, b: str, agree: bool) -> None:
    assert same(a, b) is agree


def test_a_half_width_may_differ_in_its_last_digits(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("variant,x_half_width,x\na,0.1,0.1\n")
    for due, differences in (
        ("0.10000000000000003,0.1", 0),
        ("0.1000001,0.1", 1),
        ("0.1,0.10000000000000003", 1),
    ):
        findings = Findings()
        csv_file(findings, path, f"variant,x_half_width,x\na,{due}\n".encode(), ("variant",))
        assert len(findings.differences) == differences


def test_a_foreign_text_stays_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("one \x1b[31m" + "x" * 200 + "\n", encoding="utf-8")
    findings = Findings()
    markdown_file(findings, path, "one two\n")
    (told,) = findings.differences
    assert told.isprintable()
    assert len(told) < 130


# The command


def bench(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["bench", "verify", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_exit_codes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(monkeypatch, folder) == 0
    assert capsys.readouterr().out.endswith(": all agree\n")
    assert bench(monkeypatch, "experiments/tiny.yaml", "--reports", folder.parent) == 0
    (folder / "results.csv").unlink()
    assert bench(monkeypatch, folder) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[-2] == "results.csv: missing"
    assert out[-1].endswith(": 1 difference")
    assert bench(monkeypatch, folder / "figures") == 2
    assert "holds no experiment.json or results.csv; give a folder" in capsys.readouterr().err
