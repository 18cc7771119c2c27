"""The shipped experiments: each loads; documents.yaml says what the documented code does."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.spec.experiment import ABOUT, SETTINGS, Experiment, Published, Run, Variant
from bench.spec.grammar import BLOCKS, HEAD
from bench.spec.resolve import load

FOLDER = Path(__file__).parent.parent / "experiments"
FILES = sorted(FOLDER.glob("*.yaml"))


def shipped(name: str) -> Experiment:
    return load(FOLDER / f"{name}.yaml")


def documented(name: str) -> Variant:
    return shipped("documents").variants[name]


def reductions(variant: Variant) -> tuple[object, object, object]:
    options = variant.objective.options
    return options["reconstruction"], options["kl"], options["beta"]


def test_all_are_shipped():
    assert [path.stem for path in FILES] == [
        "all", "beta", "bf16", "convergence", "documents", "encoder", "latent", "likelihood", "objectives",
        "peers", "rate", "reduction", "stability",
    ]  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_experiment_asks_a_question_and_says_where_published_numbers_were_printed(path):
    experiment = load(path)
    assert experiment.question.endswith("?")
    assert (experiment.dataset, experiment.offline_fallback) == ("mnist", "digits")
    assert experiment.seeds == ((0, 1, 2) if path.stem == "peers" else (0, 1, 2, 3, 4))
    runs = list(experiment.runs())
    expected = len(experiment.seeds) * len(experiment.variants)
    assert len({run.identity("digest") for run in runs}) == len(runs) == expected
    for variant in experiment.variants.values():
        for row in variant.published:
            assert row.source
            assert 90 < row.value * row.to_nats < 200  # an MNIST VAE's loss, in whatever unit it was printed
            assert row.epoch is None or row.epoch <= variant.epochs


def test_every_published_record_is_of_a_run_that_an_experiment_still_asks_for():
    """The same YAML still resolves to the same settings, and these still have the same hash."""
    paths = list((FOLDER.parent / "reports").glob("mnist/runs/*/record.json"))
    records = {path.parent: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    (digest,) = {record["data"]["digest"] for record in records.values()}
    asked = {run.identity(digest) for path in FILES for run in load(path).runs()}
    for folder, record in records.items():
        identity = Run.model_validate(record["run"]).identity(digest)
        assert identity in asked
        assert identity[-8:] in folder.name


# What the documents' code does: latent size, batch size, epochs; reductions of the terms, and β
TWO = {"hidden": [100, 100], "activation": ["relu", "tanh"]}
DOCUMENTED = {
    "000-mlp-512-256-2": (2, 100, 20, ("sum", "sum", 1.0), {"hidden": [512, 256], "activation": "relu"}),
    "001-mlp-512-512-20": (20, 64, 20, ("sum", "sum", 1.0), {"hidden": [512, 512], "activation": "relu"}),
    "001-mlp-512-512-10": (10, 64, 20, ("sum", "sum", 1.0), {"hidden": [512, 512], "activation": "relu"}),
    "001-mlp-512-512-2": (2, 64, 150, ("sum", "sum", 1.0), {"hidden": [512, 512], "activation": "relu"}),
    "002-conv-bn-16": (16, 128, 90, ("mean", "mean", 0.1), {}),
    "003-linear-400-20": (20, 128, 20, ("batchmean", "batchmean", 1.0), {"hidden": 400}),
    "003-linear-400-10": (10, 128, 20, ("batchmean", "batchmean", 1.0), {"hidden": 400}),
    "003-linear-400-2": (2, 128, 20, ("batchmean", "batchmean", 1.0), {"hidden": 400}),
    "004-mlp-100-100-32-beta-1": (32, 128, 20, ("batchmean", "batchmean", 1.0), TWO),
    "004-mlp-100-100-32-beta-dz-dx": (32, 128, 20, ("batchmean", "batchmean", 32 / 784), TWO),
}
PRINTED = {
    "000-mlp-512-256-2": [(1, 170.4045), (2, 162.1281), (3, 157.918), (14, 147.6945), (20, 141.545)],
    "001-mlp-512-512-10": [(1, 144.5), (20, 92.3)],
    "001-mlp-512-512-2": [(1, 176.7), (150, 133.1)],
    "002-conv-bn-16": [(1, 188.8), (10, 156.3), (30, 152.4), (60, 150.7), (90, 150.3)],
    "003-linear-400-20": [(1, 123.65), (20, 108.33)],
    "003-linear-400-10": [(1, 130.09), (20, 115.35)],
    "003-linear-400-2": [(1, 175.53), (20, 165.77)],
}


def test_documents_yaml_says_what_the_documented_code_does():
    made = shipped("documents").variants
    assert list(made) == list(DOCUMENTED)
    for name, v in made.items():
        said = (v.latent, v.batch_size, v.epochs, reductions(v), v.encoder.options)
        assert (v.document, said) == (name[:3], DOCUMENTED[name])
        printed = [(row.epoch, row.value * row.to_nats) for row in v.published]
        expected = PRINTED.get(name, [])
        assert printed == [(epoch, pytest.approx(value, abs=0.05)) for epoch, value in expected], name
    zero, one, two, three, four = (documented(list(made)[i]) for i in (0, 1, 4, 5, 8))
    assert (zero.posterior.name, zero.decoder.options["hidden"]) == ("gaussian-raw-sigma", [256])
    assert zero.likelihood.options == {"form": "probabilities", "eps": 1e-20}
    assert "unstated" in zero.published[-1].source
    assert (one.input.name, one.target.name, one.shuffle) == ("grey", "threshold", False)
    assert (one.target.options, one.decoder.options["hidden"]) == ({"at": 0.5}, [512])
    off_a_plot = documented("001-mlp-512-512-2").published
    assert {(row.metric, row.uncertainty) for row in off_a_plot} == {("train_loss", 10.0)}
    assert (two.encoder.name, two.decoder.name) == ("conv-bn", "conv-bn")
    assert (two.validation, two.drop_last, two.shuffle) == (6000, True, True)
    assert (two.schedule.name, two.schedule.options) == ("step", {"every": 30, "gamma": 0.1})
    assert {row.metric for row in two.published} == {"validation_loss"}
    assert (three.encoder.name, three.decoder.options["hidden"]) == ("linear", [400])
    assert {row.metric for row in three.published} == {"test_loss"}
    assert (four.decoder.options, four.input, four.input.options) == (
        TWO, four.target, {"mean": 0.1307, "std": 0.3081},
    )  # fmt: skip
    assert four.likelihood.options == {"variance": 0.5, "mean": "linear"}
    assert (four.optimizer.name, four.optimizer.options) == ("adamw", {"lr": 1e-3, "weight_decay": 0.01})


# What docs/yaml.md says

PAGE = (FOLDER.parent / "docs/yaml.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
(OWN_PART,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TRAPS = re.findall(r"^\| `(.*?)` \| .* \| `(.*?)` \|$", PAGE.partition("## Traps")[2], re.MULTILINE)


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_of_the_page_loads(tmp_path, text):
    shutil.copy(FOLDER / "documents.yaml", tmp_path)
    (tmp_path / "my_parts.py").write_text(OWN_PART, encoding="utf-8")
    (tmp_path / "example.yaml").write_text(text, encoding="utf-8")
    assert load(tmp_path / "example.yaml").variants


def test_the_first_example_is_four_variants(tmp_path):
    (tmp_path / "example.yaml").write_text(EXAMPLES[0], encoding="utf-8")
    assert list(load(tmp_path / "example.yaml").variants) == [
        "pytorch-example", "linear-400-beta-1", "linear-400-beta-dz-dx", "relu-400-beta-1",
    ]  # fmt: skip


@pytest.mark.parametrize(("trap", "remedy"), TRAPS)
def test_every_trap_of_the_page_is_caught_and_its_remedy_works(tmp_path, trap, remedy):
    path = tmp_path / "trap.yaml"
    start = "question: Why?\nvariants:\n  a:\n    encoder: conv-bn\n    decoder: conv-bn\n    latent: 2\n"
    path.write_text(start + "".join(f"    {line}\n" for line in trap.split(", ")), encoding="utf-8")
    with pytest.raises(BenchError, match=r"trap\.yaml:[78]:\d+: "):
        load(path)
    path.write_text(f"{start}    {remedy}\n", encoding="utf-8")
    assert list(load(path).variants) == ["a"]


def test_the_page_names_every_key():
    assert len(TRAPS) == 12
    for key in (*HEAD, *BLOCKS, *SETTINGS, *ABOUT, "extends", "architecture", *Published.model_fields):
        assert f"`{key}`" in PAGE, key
