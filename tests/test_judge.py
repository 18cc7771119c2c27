"""`bench judge`: a model trained elsewhere has the numbers that its weights have in bench, and a row."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import plain_vae
import pytest
import synthetic
import torch
from factory import a_run, part
from safetensors.torch import save_file
from synthetic import settings
from test_bring_your_own import block
from test_groups import quickly
from typer.testing import CliRunner

from bench.cli import app
from bench.engine.images import divide
from bench.engine.loop import Training
from bench.errors import BenchError
from bench.evaluation.measure import Measured
from bench.evaluation.samples import FeatureNet, Reference
from bench.parts.vae import VAE, build
from bench.pictures import plots
from bench.report import write_report
from bench.report.results import load as results_of
from bench.runs import judge as judging
from bench.runs.execute import Job, SharedContext, execute
from bench.runs.judge import read_adapter, read_weights
from bench.runs.plan import Plan, make_plan
from bench.runs.request import Request
from bench.saved import load_model
from bench.spec.resolve import load
from bench.store.experiments import ExperimentFolder
from bench.verify import Findings
from bench.verify.join import join
from bench.verify.publish import publish
from bench.verify.runs import check_runs

WIDTH, LATENT = 16, 3
SPEC = """
question: How good is theirs?
dataset: digits
seeds: 1
evaluation: {importance_samples: 5}
defaults: {encoder: {name: mlp, hidden: [9]}, decoder: {name: mlp, hidden: [9]}, latent: 2, epochs: 1}
variants: {ours: {}}
"""
NAMES = {  # of a state_dict of the script in bench's own VAE
    "fc1": "encoder.trunk.0", "fc21": "encoder.mean", "fc22": "encoder.second",
    "fc3": "decoder.trunk.0", "fc4": "decoder.output",
}  # fmt: skip


@dataclass
class Workplace:
    """A folder with a report of one run, an adapter, and weights that a plain script has trained."""

    folder: Path
    plan: Plan
    shared: SharedContext

    @property
    def report(self) -> Path:
        return self.plan.folder

    def judge(self, *words: str) -> Any:
        given = ["judge", "adapter.py", *words, "--report", str(self.report), "--device", "cpu"]
        return CliRunner().invoke(
            app, [w if w[-3:] not in (".py", ".pt") else str(self.folder / w) for w in given]
        )

    def again(self) -> Plan:
        return make_plan(
            Request(load(self.folder / "small.yaml"), device="cpu", reports=self.folder / "reports")
        )

    def files(self) -> dict[str, bytes]:
        found = (
            f for f in (self.folder / "reports").rglob("*") if f.is_file() and not f.name.startswith(".")
        )
        return {str(file): file.read_bytes() for file in found}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    folder = tmp_path_factory.mktemp("judge")
    (folder / "small.yaml").write_text(SPEC)
    plan = make_plan(Request(load(folder / "small.yaml"), device="cpu", reports=folder / "reports"))
    with torch.random.fork_rng(), quickly(), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        net = FeatureNet(plan.data.shape, plan.data.classes).eval()
        reference = Reference.of([net], plan.data.test_images.flatten(1).float() / 255)
        patch.setattr(judging, "write_report", partial(write_report, figures=False))
        patch.setattr(plots, "tsne", lambda *_: None)
        patch.setattr(Reference, "of_data", lambda data: reference)
        made = Workplace(folder, plan, SharedContext(plan.data, torch.device("cpu"), reference))
        plan.folder.mkdir(parents=True)
        plan.write()
        [todo] = plan.todo
        about = {"experiment": "small", "git": {}, "command": "bench run"}
        record = execute(
            Job(todo.id, todo.run, plan.home.runs / todo.key, about), made.shared, lambda *_: None
        )
        assert record["status"] == "finished", record.get("traceback")
        (folder / "adapter.py").write_text(GOOD)
        plain_vae.main(plan.data.train_images.flatten(1) / 255, str(folder / "theirs.pt"), WIDTH, LATENT)
        done = made.judge("--weights", "theirs.pt", "--as", "theirs")
        assert done.exit_code == 0, done.exception
        assert done.stdout.startswith("theirs: 1 measured")
        yield made


def row(place: Workplace) -> Any:
    [found] = [v for v in results_of(place.report).variants if v.name == "theirs"]
    return found


def test_its_numbers_are_those_of_the_same_weights_in_a_vae_of_bench(place: Workplace) -> None:
    run = a_run(
        dataset="digits", latent=LATENT, importance_samples=5,
        encoder=part("mlp", hidden=[WIDTH]), decoder=part("mlp", hidden=[WIDTH]),
    )  # fmt: skip
    model = build(run, place.plan.data.shape)
    theirs = read_weights(place.folder / "theirs.pt")
    model.load_state_dict({f"{NAMES[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in theirs.items()})
    training = Training("none", curves=[{"train_seconds": 1.0, "images_per_second": 1.0}], chosen=1)
    images, labels = divide(run, place.plan.data, torch.device("cpu"))
    measured = Measured(run, model, training, images, labels, place.shared.reference)
    due, record = measured.metrics(), row(place).first.record
    cost = {"train_seconds", "images_per_second", "peak_memory_mb"}
    own = {"test_loss", "test_loss_nats", "elbo", "reconstruction"}
    assert record["metrics"].keys() == due.keys() - cost - own
    for name, value in record["metrics"].items():
        assert value == pytest.approx(due[name], rel=1e-5, abs=1e-6), name
    assert record["kl_per_unit"] == pytest.approx(measured.kl_per_unit(), rel=1e-5)
    assert record["monte_carlo_error"] == pytest.approx(measured.monte_carlo_error(), rel=1e-4)
    # Two epochs have taught it something
    assert (
        record["metrics"]["elbo_bernoulli"]
        > results_of(place.report).variants[0].estimate("elbo_bernoulli").mean
    )


def test_its_record_says_of_the_data_what_that_of_a_run_does(
    place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(place.folder / "reports", tmp_path / "reports")
    home = ExperimentFolder(tmp_path / "reports" / place.report.name)
    ours, theirs = (record["data"] for record in home.records().values())
    assert ours == theirs
    bare = replace(place.plan.data, train_labels=None, test_labels=None, split="every fifth")
    monkeypatch.setattr(judging, "data_of", lambda *_: bare)
    monkeypatch.setattr(Reference, "of_data", lambda data: None)
    weights = {name: value / 2 for name, value in read_weights(place.folder / "theirs.pt").items()}
    save_file(weights, tmp_path / "half.pt")
    adapter = read_adapter(place.folder / "adapter.py", None)
    assert judging.judge(adapter, [tmp_path / "half.pt"], "half", home.path, None, "cpu") == 1
    (half,) = (r for r in ExperimentFolder(home.path).records().values() if r["variant"] == "half")
    assert half["data"] == theirs | {"unlabelled": True, "split": "every fifth"}


def test_it_is_a_row_that_says_so_and_has_no_cost(place: Workplace) -> None:
    text = (place.report / "report.md").read_text()
    assert "| theirs (not trained here, n = 1" in text
    assert b"theirs,0,finished,,not trained here" in (place.report / "results.csv").read_bytes()
    cost = text.partition("### Cost")[2].partition("\n### ")[0]
    assert "ours" in cost
    assert "theirs" not in cost
    orders = results_of(place.report).rankings.values()
    assert not any("theirs" in order.members for order in orders)  # of one set of weights
    with pytest.raises(BenchError, match="trained elsewhere, and a record names no code"):
        load_model(place.plan.home.runs / row(place).first.run)


def test_judging_twice_changes_nothing_whatever_the_weights_come_as(place: Workplace) -> None:
    before = place.files()
    state = read_weights(place.folder / "theirs.pt")
    save_file(state, place.folder / "same.pt")
    torch.save(
        {"epoch": 2, "model_state_dict": state, "optimizer": {"lr": 0.1}}, place.folder / "checkpoint.pt"
    )
    for file in ("same.pt", "checkpoint.pt", "theirs.pt"):
        done = place.judge("--weights", file, "--as", "theirs")
        assert (done.exit_code, done.stdout.partition(",")[0]) == (0, "theirs: measured before")
    assert place.files() == before


def test_a_plan_keeps_it_and_verify_agrees(place: Workplace) -> None:
    before = (place.report / "experiment.json").read_bytes()
    again = place.again()
    assert {planned.run.variant for planned in again.runs} == {"ours"}
    assert not again.todo
    again.write()
    assert json.loads((place.report / "experiment.json").read_bytes()) == json.loads(before)
    findings = Findings()
    check_runs(findings, ExperimentFolder(place.report))
    assert findings.differences == []
    assert (findings.counts["records"], findings.unchecked) == (2, [])
    (place.folder / "small.yaml").write_text(SPEC.replace("ours", "theirs"))
    with pytest.raises(BenchError, match=r"variant theirs: a model judged in .* has that name; rename"):
        place.again()
    (place.folder / "small.yaml").write_text(SPEC)


def test_it_is_published_and_joined_as_other_runs_are(place: Workplace, tmp_path: Path) -> None:
    publish(place.report, tmp_path / "lab", by="A. Lab")
    mine = tmp_path / "reports" / "small"
    shutil.copytree(place.folder / "reports", mine.parent)
    spec = json.loads((mine / "experiment.json").read_text())
    (judged,) = (run_id for run_id, run in spec["planned"].items() if run["variant"] == "theirs")
    shutil.rmtree(mine.parent / "runs" / spec["planned"].pop(judged)["run"])
    del spec["variants"]["theirs"]
    (mine / "experiment.json").write_text(json.dumps(spec))
    assert join(mine, tmp_path / "lab").added == [judged]
    joined = {variant.name: variant for variant in results_of(mine).variants}
    assert joined["theirs"].first.origin == "A. Lab"
    ours = joined["theirs"].table.elbo_bernoulli.item(), row(place).table.elbo_bernoulli.item()
    assert ours[0] == ours[1]
    findings = Findings()
    check_runs(findings, ExperimentFolder(mine))
    assert findings.differences == []


GOOD = block("A model trained elsewhere").replace("= 20", f"= {LATENT}").replace("= 400", f"= {WIDTH}")
SECOND = GOOD.partition("import gaussian")[2].replace("Theirs", "Other")
REFUSED = {  # weights and name, what is told of them
    "theirs.pt ours": "--as ours: .* has another variant of that name",
    "other.pt theirs": "--as theirs: .* has another variant of that name",
    "theirs.pt Theirs": "--as 'Theirs'; allowed: a-z",
    "absent.pt new": "cannot read .*absent.pt: No such file",
    "whole.pt new": "a pickle of more than tensors, which could run code; allowed: safetensors, or",
    "list.pt new": "holds 0 mappings of names to tensors; allowed: one",
}
UNFIT = {  # an adapter, what is told of it
    GOOD.replace("= 16", "= 400"): "the weights do not fit .*size mismatch",
    GOOD.replace("latent = 3", "latent = None"): "states no latent size",
    "x = 1": "defines 0 classes with encode and decode; allowed: one",
    GOOD
    + SECOND: "defines 2 classes with encode and decode; allowed: one; say by --name which of Theirs, Other",
    GOOD.replace(
        "output.sigmoid()", "2 + output"
    ): r"Theirs: grey_mean\(\) gives .* due is 0 to 1; bench check",
    GOOD.replace("fc3(z)", "fc5(z)"): r"decode raises AttributeError: .* \(line 2\d\)",
    GOOD.replace("= 16", ""): "option width of Theirs has no default; give it one",
}


def refused(place: Workplace, adapter: str, given: str, told: str) -> None:
    """It is refused in one line, and nothing is written."""
    before, kept = place.files(), (place.folder / "adapter.py").read_text()
    weights, name = given.split()
    try:
        (place.folder / "adapter.py").write_text(adapter)
        done = place.judge("--weights", weights, "--as", name)
    finally:
        (place.folder / "adapter.py").write_text(kept)
    assert isinstance(done.exception, BenchError), done.exception
    assert str(done.exception).isprintable()
    assert re.search(told, str(done.exception))
    assert place.files() == before


@pytest.mark.parametrize("given", REFUSED)
def test_what_cannot_be_judged_is_one_line_and_enters_nothing(place: Workplace, given: str) -> None:
    state = read_weights(place.folder / "theirs.pt")
    torch.save({k: v + 1 for k, v in state.items()}, place.folder / "other.pt")
    torch.save(plain_vae.VAE(WIDTH, LATENT), place.folder / "whole.pt")
    torch.save([1, 2], place.folder / "list.pt")
    refused(place, GOOD, given, REFUSED[given])


ODD = {  # what a state_dict may hold, and what is told of it
    "meta": (lambda w: w.to("meta"), "torch.strided torch.float32; allowed: tensors of numbers"),
    "sparse": (torch.Tensor.to_sparse, "is torch.sparse_coo torch.float32; allowed"),
    "complex": (lambda w: w.to(torch.complex64), "torch.complex64; allowed: tensors of numbers"),
    "quantized": (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "torch.qint8; allowed"),
    "vast": (lambda w: torch.zeros(1).expand(10**12), r"have 4,000,\d{3},\d{3},\d{3} bytes; allowed"),
    "not finite": (lambda w: w * 1e30, "the model's KL or calibration is not finite; give"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore")  # of torch, at what it is given
def test_weights_that_hold_no_numbers_are_one_line_and_enter_nothing(place: Workplace, kind: str) -> None:
    state = read_weights(place.folder / "theirs.pt")
    make, told = ODD[kind]
    torch.save(state | {"fc21.weight": make(state["fc21.weight"])}, place.folder / "odd.pt")
    refused(place, GOOD, "odd.pt new", told)


def test_weights_that_unpack_to_more_than_is_read_are_refused(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(place.folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data/0", bytes(3_000_000))
    monkeypatch.setattr(judging, "WEIGHTS", 2_000_000)
    monkeypatch.setattr(torch, "load", None)
    refused(place, GOOD, "bomb.pt new", "bomb.pt is no file of weights")


@pytest.mark.parametrize("adapter", UNFIT, ids=range(len(UNFIT)))
def test_an_unfit_adapter_is_one_line_and_enters_nothing(place: Workplace, adapter: str) -> None:
    assert adapter != GOOD
    refused(place, adapter, "theirs.pt new", UNFIT[adapter])


def test_a_report_that_does_not_say_its_data_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "adapter.py").write_text(GOOD)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "experiment.json").write_text('{"variants": {}}')
    torch.save({"w": torch.zeros(1)}, tmp_path / "w.pt")
    adapter = read_adapter(tmp_path / "adapter.py", None)
    with pytest.raises(BenchError, match="no dataset is called 'None'"):
        judging.judge(adapter, [tmp_path / "w.pt"], "theirs", tmp_path / "report", None, "cpu")


def test_a_report_over_data_of_ones_own_takes_them_from_the_data_folder(tmp_path: Path) -> None:
    """By their content: others of the same name are refused."""
    (tmp_path / "adapter.py").write_text(GOOD)
    report = tmp_path / "report"
    report.mkdir()
    said = {"dataset": "mine.npz", "variants": {"ours": {"own_data": {"name": "npz"}}}}
    (report / "experiment.json").write_text(json.dumps(said))
    (report / "baselines.json").write_text('{"rows": [], "of": {"data": "another"}}')
    torch.save({"w": torch.zeros(1)}, tmp_path / "w.pt")
    adapter = read_adapter(tmp_path / "adapter.py", None)
    with pytest.raises(BenchError, match=r"mine.npz was not found in .*; give --data-dir"):
        judging.judge(adapter, [tmp_path / "w.pt"], "theirs", report, tmp_path, "cpu")
    np.savez(tmp_path / "mine.npz", images=np.zeros((40, 9, 12), np.uint8))
    with pytest.raises(BenchError, match=r"is of other data than this mine.npz \(another, not \w{12}\)"):
        judging.judge(adapter, [tmp_path / "w.pt"], "theirs", report, tmp_path, "cpu")


def test_weights_of_three_seeds_are_ranked(tmp_path: Path) -> None:
    variants = {"ours": settings(), "one": settings(origin="judged"), "three": settings(origin="judged")}

    def measure(name: str, _: object, seed: int) -> dict[str, float]:
        return {"elbo_bernoulli": -100.0 - 10 * [*variants].index(name) + 0.1 * seed}

    status = {("one", seed): "missing" for seed in (1, 2)}
    folder = synthetic.write(tmp_path / "small", variants, (0, 1, 2), measure=measure, status=status)
    order = results_of(folder).rankings["elbo_bernoulli"]
    assert (order.best, order.members.keys()) == ("ours", {"ours", "three"})


def test_the_adapter_of_pythae_fits_the_layout_that_pythae_saves(tmp_path: Path) -> None:
    sizes = {
        "decoder.layers.0.0": (512, 16), "decoder.layers.1.0": (784, 512), "encoder.layers.0.0": (512, 784),
        "encoder.embedding": (16, 512), "encoder.log_var": (16, 512),
    }  # fmt: skip
    state = {f"{name}.weight": 0.01 * torch.randn(size) for name, size in sizes.items()}
    state |= {f"{name}.bias": torch.zeros(size[0]) for name, size in sizes.items()}
    torch.save({"model_state_dict": state}, tmp_path / "model.pt")
    (tmp_path / "adapter.py").write_text(block("One of pythae"))
    adapter = read_adapter(tmp_path / "adapter.py", None)
    model = adapter.model(read_weights(tmp_path / "model.pt"), (28, 28))
    x, encoder, decoder = (
        torch.rand(2, 784),
        state["encoder.layers.0.0.weight"],
        state["decoder.layers.0.0.weight"],
    )
    hidden = (x @ encoder.T).relu()
    mean = hidden @ state["encoder.embedding.weight"].T
    torch.testing.assert_close(model.encode(x).mean, mean)
    due = torch.sigmoid((mean @ decoder.T).relu() @ state["decoder.layers.1.0.weight"].T)
    torch.testing.assert_close(model.grey_mean(model.decode(mean)), due)
    assert isinstance(model, VAE)
