"""YAML to runs: the grammar, what it refuses and where, the matrix, identity."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.spec.experiment import Experiment, Run, Variant
from bench.spec.resolve import load

NETWORKS = "encoder: {name: linear, hidden: 4}, decoder: {name: mlp, hidden: [5]}"
LINE = f"{NETWORKS}, latent: 2"


def loaded(folder: Path, text: str, name: str = "f.yaml") -> Experiment:
    (folder / name).write_text(text, encoding="utf-8")
    return load(folder / name)


def variant(folder: Path, extra: str = "") -> Variant:
    """The variant `a` of a small experiment, with `extra` settings such as `epochs: 3`."""
    text = f"question: Why?\nvariants:\n  a: {{{LINE}{', ' * bool(extra)}{extra}}}\n"
    return loaded(folder, text).variants["a"]


def changed(folder: Path, extra: str) -> Run:
    """The run of a variant `a` that extends that one by `extra`."""
    text = f"question: Why?\nvariants:\n  b: {{{LINE}}}\n  a: {{extends: b, {extra}}}\n"
    return loaded(folder, text).variants["a"].run(0)


def with_matrix(folder: Path, matrix: str, defaults: str = LINE) -> Experiment:
    return loaded(folder, f"question: Why?\ndefaults: {{{defaults}}}\nmatrix: {matrix}\n")


# What is not said


def test_defaults(tmp_path):
    made = variant(tmp_path)
    named = {kind: getattr(made, kind).name for kind in ("posterior", "input", "target", "likelihood")}
    assert named == {"posterior": "gaussian", "input": "grey", "target": "grey", "likelihood": "bernoulli"}
    assert made.objective.options == {"beta": 1.0, "reconstruction": "batchmean", "kl": "batchmean"}
    assert (made.optimizer.name, made.optimizer.options) == ("adam", {"lr": 1e-3})
    assert (made.batch_size, made.epochs, made.shuffle, made.drop_last) == (128, 20, True, False)
    assert (made.validation, made.precision, made.importance_samples) == (0, "fp32", 200)
    assert (made.label, made.axes, made.published, made.note, made.document) == ("a", {}, (), None, None)
    whole = loaded(tmp_path, f"question: Why?\nvariants: {{a: {{{LINE}}}}}")
    assert (whole.name, whole.dataset, whole.offline_fallback, whole.seeds) == (
        "f",
        "mnist",
        None,
        (0, 1, 2, 3, 4),
    )


# Parts: names, options, and what an override keeps


def test_an_option_alone_keeps_the_part_and_its_other_options(tmp_path):
    text = f"""
question: Why?
defaults: {{{LINE}, optimizer: {{name: adamw, lr: 0.1, weight_decay: 0.2}}}}
variants:
  same: {{optimizer: {{lr: 0.3}}}}
  named: {{optimizer: {{name: adamw, lr: 0.3}}}}
  other: {{optimizer: {{name: adam}}}}
  bare: {{optimizer: sgd, encoder: {{name: mlp, hidden: [7]}}}}
"""
    with pytest.raises(BenchError, match="optimizer sgd has no lr"):
        loaded(tmp_path, text)
    made = loaded(tmp_path, text.replace("optimizer: sgd, ", "")).variants
    assert made["same"].optimizer.options == {"lr": 0.3, "weight_decay": 0.2}
    assert made["named"].optimizer == made["same"].optimizer
    assert (made["other"].optimizer.name, made["other"].optimizer.options) == ("adam", {"lr": 1e-3})
    assert made["bare"].encoder.options == {"hidden": [7], "activation": "relu"}


def test_an_architecture_replaces_the_networks_and_own_settings_go_on_top(tmp_path):
    text = """
question: Why?
architectures:
  net: {encoder: {name: mlp, hidden: [3, 4]}, decoder: {name: mlp, hidden: [5]}, latent: 6}
defaults: {encoder: {name: mlp, hidden: [9], activation: tanh}, latent: 1}
variants:
  a: {architecture: net}
  b: {architecture: net, latent: 7, encoder: {activation: [relu, tanh]}}
"""
    made = loaded(tmp_path, text).variants
    assert made["a"].encoder.options == {"hidden": [3, 4], "activation": "relu"}
    assert (made["a"].latent, made["b"].latent) == (6, 7)
    assert made["b"].encoder.options == {"hidden": [3, 4], "activation": ["relu", "tanh"]}


# Numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [("32/784", 32 / 784), ("1/4", 0.25), ("4/2", 2.0), ("dz/dx", 2 / 784), ("1", 1.0), ("1.0e-3", 1e-3),
     ("'1/4'", 0.25), ("0.5 / 2", 0.25), ("+1/4", 0.25)],
)  # fmt: skip
def test_numbers_may_be_fractions(tmp_path, text, value):
    beta = variant(tmp_path, f"objective: {{beta: {text}}}").objective.options["beta"]
    assert beta == value
    assert isinstance(beta, float)


def test_a_whole_fraction_is_a_whole_number(tmp_path):
    assert variant(tmp_path, "epochs: 60/3").epochs == 20


def test_dz_dx_follows_the_latent_size_wherever_that_comes_from(tmp_path):
    made = with_matrix(tmp_path, "{latent: [1, 784], beta: [dz/dx]}", defaults=NETWORKS).variants
    assert [v.objective.options["beta"] for v in made.values()] == [1 / 784, 1.0]
    assert [v.axes for v in made.values()] == [
        {"latent": "1", "beta": "dz/dx"},
        {"latent": "784", "beta": "dz/dx"},
    ]


def test_dx_is_the_number_of_pixels_of_the_data_set(tmp_path, monkeypatch):
    shapes = {"mnist": (3, 5), "kmnist": (3, 5), "digits": (8, 8)}
    monkeypatch.setattr("bench.spec.registry.image_shape", shapes.__getitem__)
    monkeypatch.setattr("bench.spec.experiment.image_shape", shapes.__getitem__)
    made = with_matrix(tmp_path, "{beta: [dz/dx]}")
    assert made.variants["beta-dz-dx"].objective.options["beta"] == 2 / 15
    assert made.with_overrides(dataset="kmnist").dataset == "kmnist"
    with pytest.raises(BenchError, match="digits has images of another shape than mnist"):
        made.with_overrides(dataset="digits")


# Extending variants and files


def test_a_variant_extends_another_but_not_what_is_said_about_it(tmp_path):
    text = f"""
question: Why?
variants:
  b: {{extends: a, epochs: 3}}
  a: {{{LINE}, epochs: 2, batch_size: 9, document: 000, note: about a}}
  c: {{extends: b, batch_size: 8}}
"""
    made = loaded(tmp_path, text).variants
    assert list(made) == ["b", "a", "c"]
    assert [(v.epochs, v.batch_size) for v in made.values()] == [(3, 9), (2, 9), (3, 8)]
    assert [(v.document, v.note) for v in made.values()] == [(None, None), ("000", "about a"), (None, None)]


def test_a_file_extends_another(tmp_path):
    parent = f"""
question: Parent's?
dataset: {{name: kmnist, offline_fallback: digits}}
seeds: [3, 5]
evaluation: {{importance_samples: 7}}
defaults: {{batch_size: 11}}
architectures: {{net: {{{LINE}}}}}
variants:
  a: {{architecture: net}}
  b: {{architecture: net, optimizer: {{lr: 0.5}}}}
"""
    child = """
question: Child's?
extends: sub/parent.yaml
defaults: {epochs: 4}
variants:
  b: {note: changed, optimizer: {lr: 0.25}}
  c: {extends: a, latent: 3}
  d: {architecture: net}
matrix: {architecture: [net], beta: [2]}
"""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/parent.yaml").write_text(parent)
    made = loaded(tmp_path, child, "child.yaml")
    assert (made.name, made.question, made.dataset, made.seeds) == ("child", "Child's?", "kmnist", (3, 5))
    assert list(made.variants) == ["a", "b", "c", "d", "net-beta-2"]
    assert [v.batch_size for v in made.variants.values()] == [11] * 5
    assert [v.epochs for v in made.variants.values()] == [20, 20, 20, 4, 4]
    assert [v.latent for v in made.variants.values()] == [2, 2, 3, 2, 2]
    assert (made.variants["b"].note, made.variants["b"].optimizer.options) == ("changed", {"lr": 0.25})
    assert {v.importance_samples for v in made.variants.values()} == {7}


def test_an_error_in_an_extended_file_is_placed_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("parent.yaml").write_text(f"variants:\n  a: {{{LINE}}}\n  b: {{latent: 0}}\n")
    Path("child.yaml").write_text("question: Why?\nextends: parent.yaml\n")
    with pytest.raises(BenchError, match=r"^parent\.yaml:3:15: variant b: latent is 0;"):
        load(Path("child.yaml"))


def test_files_that_extend_each_other_are_refused(tmp_path):
    (tmp_path / "g.yaml").write_text("extends: ./f.yaml")
    with pytest.raises(BenchError, match=r"g\.yaml:1:10: .*extends this file"):
        loaded(tmp_path, "question: Why?\nextends: g.yaml")


def test_a_long_chain_of_variants_is_refused_not_overflown(tmp_path):
    chain = "".join(f"  v{i}: {{extends: v{i + 1}}}\n" for i in range(1000))
    with pytest.raises(BenchError, match="more than 32 variants"):
        loaded(tmp_path, f"question: Why?\nvariants:\n{chain}  v1000: {{{LINE}}}\n")


# The matrix


def test_the_matrix_is_every_combination_less_exclude(tmp_path):
    made = with_matrix(
        tmp_path,
        "{likelihood: [bernoulli, {name: gaussian, variance: 1/2}],"
        " beta: [1, 32/784], batch_size: [8, 16, 32],"
        " exclude: [{likelihood: gaussian, batch_size: 8}, {beta: 1, batch_size: 32}]}",
    )
    assert len(made.variants) == 2 * 2 * 3 - 2 - 2
    assert list(made.variants)[:3] == [
        "bernoulli-beta-1-batch-size-8",
        "bernoulli-beta-1-batch-size-16",
        "bernoulli-beta-32-784-batch-size-8",
    ]
    last = made.variants["gaussian-variance-1-2-beta-32-784-batch-size-32"]
    assert last.label == "gaussian variance=1/2 · β=32/784 · batch_size=32"
    assert last.axes == {"likelihood": "gaussian variance=1/2", "beta": "32/784", "batch_size": "32"}
    assert (last.likelihood.options["variance"], last.objective.options["beta"]) == (0.5, 32 / 784)


def test_dotted_axes_set_options_on_top_of_parts_in_whatever_order(tmp_path):
    made = with_matrix(
        tmp_path, "{optimizer.lr: [0.1, 0.2], objective.reconstruction: [sum], optimizer: [adam, adamw]}"
    ).variants
    assert list(made)[:2] == ["lr-0.1-reconstruction-sum-adam", "lr-0.1-reconstruction-sum-adamw"]
    assert [(v.optimizer.name, v.optimizer.options["lr"]) for v in made.values()] == [
        ("adam", 0.1), ("adamw", 0.1), ("adam", 0.2), ("adamw", 0.2),
    ]  # fmt: skip
    assert {v.objective.options["reconstruction"] for v in made.values()} == {"sum"}


def test_axes_of_whole_parts_and_of_parts_of_parts(tmp_path):
    encoders = "encoder: [{name: mlp, hidden: [6, 7]}, {name: linear, hidden: 8}]"
    axes = f"{{{encoders}, objective: [{{beta: 4}}], latent: [2]}}"
    made = with_matrix(tmp_path, axes, defaults="decoder: {name: mlp, hidden: [5]}").variants
    assert list(made) == ["mlp-6-7-beta-4-z-2", "linear-8-beta-4-z-2"]
    assert made["mlp-6-7-beta-4-z-2"].label == "mlp 6-7 · beta=4 · z=2"


# Refusals: every one on one line, with the place

BAD_VARIANT = {
    "latents: 3": "unknown key 'latents' in variant a; did you mean 'latent'?",
    "epochs: 0": "variant a: epochs is 0; allowed: a whole number from 1 to 100000",
    "epochs: 20.0": "epochs is 20.0; allowed: a whole number",
    "epochs: '20'": "epochs is '20'; allowed: a whole number from 1 to 100000; remove the quotes",
    "epochs:": "epochs is nothing",
    "shuffle: 1": "shuffle is 1; allowed: true or false",
    "precision: fp16": "precision is 'fp16'; allowed: fp32 or bf16; did you mean",
    "objective: {beta: -1}": "objective elbo: beta is -1; allowed: a number of at least 0",
    "objective: {beta: 1.0e+999}": "write a finite number",
    "objective: {beta: 1/0}": "'1/0' divides by zero",
    "objective: {beta: dx/dz}": "beta is 'dx/dz'; allowed: a number",
    "objective: {bta: 1}": "unknown key 'bta' in objective elbo; did you mean 'beta'?",
    "objective: {kl: summed}": "kl is 'summed'; allowed: sum, batchmean or mean; did you mean 'sum'?",
    "likelihood: ": "likelihood is nothing; allowed: a name",
    "target: normalised": "a normalised target under likelihood bernoulli; allowed: a target in [0, 1]",
    "schedule: {name: step, every: 3}": "schedule step has no gamma; allowed: a number above 0",
    "schedule: MultiStepLR": "schedule MultiStepLR has no milestones; allowed: a list of 1 to 100 whole",
    "schedule: {name: StepLR, step_size: 0}": "step_size is 0; allowed: a whole number of at least 1",
    "optimizer: {name: RMSprop, rho: 0.9}": "unknown key 'rho' in optimizer RMSprop",
    "optimizer: {name: RMSprop, alpha: 1}": "alpha is 1; allowed: a number of at least 0 below 1",
    "optimizer: {name: Adam, betas: [0.9]}": "betas is a list; allowed: a list of 2 to 2 numbers",
    "optimizer: {name: SGD, nesterov: true}": "nesterov with momentum 0.0 and dampening 0.0; allowed: with a",
    "optimizer: {name: LBFGS}": "unknown optimizer 'LBFGS'",
    "objective: {name: free-bits, nats: 1}\n    prior: vamp": "free-bits under prior vamp; allowed: a",
    "clip_norm: -1": "clip_norm is -1; allowed: a number of at least 0",
    "document: [0]": "document is a list; allowed: text",
    "architecture: net": "unknown architecture 'net'; none is known here",
    "extends: a": "variant a extends a",
    "extends: b": "unknown variant 'b'; known: a",
    "published: {value: 1}": "published is a mapping; allowed: a list of rows",
    "published: [{value: 1, source: x}]": "published has no metric; allowed: text",
    "published: [{value: 1, metric: test_los, source: x}]": "did you mean 'test_loss'?",
    "published: [{value: 1, metric: test_loss, source: x, epoc: 1}]": "did you mean 'epoch'?",
}


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(BenchError) as caught:
        loaded(folder, text)
    message = str(caught.value)
    assert re.match(r".*f\.yaml:\d+:\d+: ", message), message
    assert message.isprintable()
    return message


@pytest.mark.parametrize("extra", BAD_VARIANT)
def test_a_bad_setting_is_refused_where_it_stands(tmp_path, extra):
    lines = LINE.replace("}, ", "}\n    ")
    text = f"question: Why?\nvariants:\n  a:\n    {lines}\n    {extra}\n"
    message = refusal(tmp_path, text)
    assert BAD_VARIANT[extra] in message
    assert "f.yaml:7:" in message


@pytest.mark.parametrize(
    ("latent", "told"),
    [("latent: 0", "latent is 0; allowed: a whole number from 1 to 4096"),
     ("latent: 4097", "latent is 4097"), ("latent: dz/dx", "dz/dx; allowed: in a variant"),
     ("epochs: 1", "has no latent; allowed: a whole number from 1 to 4096; add `latent: ...`")],
)  # fmt: skip
def test_a_bad_latent_size_is_refused(tmp_path, latent, told):
    assert told in refusal(tmp_path, f"question: Why?\nvariants:\n  a: {{{NETWORKS}, {latent}}}\n")


BAD_ENCODER = {
    "mlp": "encoder mlp has no hidden; allowed: a list of 1 to 16 whole numbers from 1 to 16384",
    "mpl": "unknown encoder 'mpl'; did you mean 'mlp'?",
    "{name: mlp, hiden: [4]}": "unknown key 'hiden' in encoder mlp; did you mean 'hidden'?",
    "{name: mlp, hidden: 4}": "hidden is 4; allowed: a list",
    "{name: mlp, hidden: [4, 0]}": "f.yaml:3:40: encoder mlp: hidden holds 0",
    "{name: mlp, hidden: [4], activation: rely}": "LeakyReLU, negative_slope: 0.2}, or a list of these; did",
    "{name: mlp, hidden: [4], activation: [relu, tanh]}": "2 activations for 1 hidden layers; allowed",
    "{name: mlp, hidden: [4], activation: LeakyRelu}": "relu, tanh, identity or one of torch.nn such as",
    "{name: mlp, hidden: [4], activation: LeakyRElu}": "did you mean 'LeakyReLU'?",
    "{name: mlp, hidden: [4], activation: {name: LeakyReLU, slope: 1}}": "with the unknown option 'slope'",
    "{name: mlp, hidden: [4], activation: {name: ELU, alpha: soft}}": "with 'alpha', which is no number",
    "{name: mlp, hidden: [4], activation: [{name: relu, alpha: 1}]}": "a mapping with options of 'relu'",
    "{name: mlp, hidden: [4], activation: LeakyReLU(0.2)}": "activation is 'LeakyReLU",
    "{name: mlp, hidden: [4], activation: Transformer}": "activation is 'Transformer'",
    "{name: mlp, hidden: [4], dropout: 1}": "dropout is 1; allowed: a number of at least 0 below 1",
    "{name: mlp, hidden: [4], init: xavier}": "init is 'xavier'; allowed: torch, xavier-uniform, ",
    "{name: linear, hidden: [4]}": "hidden is a list; allowed: a whole number from 1 to 16384",
}


@pytest.mark.parametrize("encoder", BAD_ENCODER)
def test_a_bad_encoder_is_refused(tmp_path, encoder):
    text = f"question: Why?\nvariants:\n  a: {{encoder: {encoder}, decoder: conv-bn, latent: 2}}\n"
    assert BAD_ENCODER[encoder] in refusal(tmp_path, text)


GOOD = f"question: Why?\nvariants:\n  a: {{{LINE}}}\n"
BAD_FILE = {
    f"variants: {{a: {{{LINE}}}}}": "f.yaml:1:1: the experiment has no question",
    "question: Why?": "the experiment has no variants",
    "question: Why?\nvariants: [a]": "variants is a list; allowed: a mapping",
    "question: Why?\nvariants: {a: {latent: 2}}": "variant a has no encoder; allowed: mlp, linear, conv-bn",
    "question: Why?\nvariants: {b: {extends: c}, c: {extends: b}}": "variant c extends b, which extends c",
    GOOD.replace("Why?", "[Why]"): "question is a list; allowed: text",
    GOOD.replace("a:", "../a:"): "f.yaml:3:3: variant named '../a'; allowed: a-z, 0-9, dot and hyphen",
    GOOD.replace("a:", "x" * 81 + ":"): "at most 80",
    GOOD + "seed: 3": "f.yaml:4:1: unknown key 'seed' in an experiment; did you mean 'seeds'?",
    GOOD + "seeds: 0": "seeds is 0; allowed: a whole number from 1 to 1000, or a list of 1 to 1000 whole",
    GOOD + "seeds: [1, 2, 1]": "f.yaml:4:15: seeds: 1 again",
    GOOD + "seeds: [-1]": "f.yaml:4:9: the experiment: seeds holds -1; allowed",
    GOOD + "dataset: mnits": "unknown dataset 'mnits'; did you mean 'mnist'?",
    GOOD + "dataset: {offline_fallback: digits}": "dataset has no name; allowed: mnist",
    GOOD + "evaluation: {importance_samples: 0}": "importance_samples is 0; allowed: a whole number from 1",
    GOOD + "defaults: {published: []}": "unknown key 'published' in defaults",
    GOOD + "architectures: {net: {encoder: mlp, epochs: 3}}": "unknown key 'epochs' in architecture net",
    GOOD + "architectures: {net: {latent: -1}}": "architecture net: latent is -1",
    GOOD + "exclude: []": "f.yaml:4:1: exclude at the top level; allowed: inside `matrix`",
    GOOD + "extends: absent.yaml": "which is no file; allowed: a YAML file (.yaml, .yml), relative to this",
    GOOD + "extends: f.yaml": "which extends this file",
    GOOD + "extends: " + "x" * 300: "which is no file",
}  # fmt: skip


@pytest.mark.parametrize("text", BAD_FILE)
def test_a_bad_file_is_refused(tmp_path, text):
    assert BAD_FILE[text] in refusal(tmp_path, text).replace(str(tmp_path) + "/", "")


BAD_MATRIX = {
    "{}": "matrix has no axis",
    "{beta: 1}": "axis beta is 1; allowed: a list of values",
    "{betta: [1]}": "unknown axis 'betta'; did you mean 'beta'?",
    "{optimizer.rate: [1]}": "f.yaml:3:10: unknown key 'rate' in optimizer adam; known: lr",
    "{beta: [1], objective.beta: [2]}": "axes beta and objective.beta are the same",
    "{beta: [1, 2, -1]}": "f.yaml:3:23: objective elbo: beta is -1",
    "{architecture: [net]}": "unknown architecture 'net'",
    "{likelihood.variance: [1]}": "unknown key 'variance' in likelihood bernoulli",
    "{beta: [1, 1]}": "the matrix gives variant beta-1, which",
    "{beta: [1, 1.0]}": "variants beta-1 and beta-1.0 have the same settings",
    "{beta: [1, 2], exclude: {beta: 1}}": "exclude is a mapping; allowed: a list",
    "{beta: [1, 2], exclude: [1]}": "an exclude is 1; allowed: {axis: value}",
    "{beta: [1, 2], exclude: [{bta: 1}]}": "unknown axis 'bta' in exclude; did you mean 'beta'?",
    "{beta: [1, 2], exclude: [{beta: 3}]}": "3 is no value of axis beta; known: 1, 2",
    "{beta: [1, 2], exclude: [{beta: 1}, {beta: 1}]}": "this exclude matches no combination that is left",
    "{beta: [1], exclude: [{beta: 1}]}": "every combination is excluded",
    "{beta: [1, 2], epochs: [" + "9, " * 1001 + "]}": "matrix of 2002 variants; allowed: at most 2000",
}  # fmt: skip


@pytest.mark.parametrize("matrix", BAD_MATRIX, ids=lambda m: m[:40])
def test_a_bad_matrix_is_refused(tmp_path, matrix):
    text = f"question: Why?\ndefaults: {{{LINE}}}\nmatrix: {matrix}\n"
    assert BAD_MATRIX[matrix] in refusal(tmp_path, text)


# Runs and their identity


def test_runs_are_seed_major(tmp_path):
    text = f"question: Why?\nseeds: [4, 2]\nvariants:\n  a: {{{LINE}}}\n  b: {{{LINE}, epochs: 3}}\n"
    runs = list(loaded(tmp_path, text).runs())
    assert [(run.variant, run.seed) for run in runs] == [("a", 4), ("b", 4), ("a", 2), ("b", 2)]


def test_identity_is_the_variant_the_seed_and_a_hash_that_a_record_keeps(tmp_path):
    settings = f"{LINE}, likelihood: {{name: gaussian, variance: 1/3}}"
    matrix = "{beta: [1, dz/dx], optimizer.lr: [0.5, 1], decoder.hidden: [[3], [4, 5]]}"
    for run in with_matrix(tmp_path, matrix, defaults=settings).runs():
        assert re.fullmatch(rf"{run.variant}-s{run.seed}-[0-9a-f]{{8}}", run.identity("digest"))
        again = Run.model_validate(json.loads(run.model_dump_json()))
        assert again == run
        assert again.identity("digest") == run.identity("digest")


@pytest.mark.parametrize(
    "extra", ["optimizer: {lr: 2.0e-3}", "epochs: 21", "objective: {beta: 1/2}", "likelihood: gaussian",
              "latent: 3",
              "shuffle: false", "encoder: {hidden: 6}", "validation: 5", "precision: bf16", "clip_norm: 5",
              "decoder: {batch_norm: true}", "decoder: {dropout: 0.1}", "decoder: {init: xavier-normal}",
              "prior: vamp", "prior: {name: vamp, components: 3}"]
)  # fmt: skip
def test_what_determines_the_result_changes_the_hash(tmp_path, extra):
    assert changed(tmp_path, extra).identity("d") != variant(tmp_path).run(0).identity("d")


def test_data_seed_and_samples_change_the_hash_too(tmp_path):
    run = variant(tmp_path).run(0)
    others = [run.model_copy(update={"seed": 1}), run.model_copy(update={"importance_samples": 9})]
    hashes = {r.identity("d")[-8:] for r in (run, *others)} | {run.identity("other")[-8:]}
    assert len(hashes) == 4


@pytest.mark.parametrize(
    "extra", ["document: 000", "note: words", "optimizer: adam", "optimizer: {lr: 1.0e-3}",
              "objective: {beta: 1}",
              "objective: {beta: 1.0}", "objective: {beta: 2/2}", "likelihood: {form: logits}",
              "published: [{value: 1, metric: test_loss, source: x}]", "clip_norm: 0", "prior: standard",
              "decoder: {batch_norm: false, dropout: 0, init: torch}", "patience: 0"]
)  # fmt: skip
def test_what_does_not_determine_the_result_leaves_the_hash(tmp_path, extra):
    assert changed(tmp_path, extra).identity("d") == variant(tmp_path).run(0).identity("d")


def test_the_same_settings_under_another_name_or_way_of_writing_hash_the_same(tmp_path):
    by_matrix = with_matrix(tmp_path, "{beta: [1], likelihood: [bernoulli]}").variants["beta-1-bernoulli"]
    assert by_matrix.run(0).identity("d")[-8:] == variant(tmp_path).run(0).identity("d")[-8:]


# Selecting and overriding


def test_select_takes_globs_and_refuses_one_that_matches_nothing(tmp_path):
    made = with_matrix(tmp_path, "{beta: [1, 2], epochs: [3, 4]}")
    assert list(made.select(["*epochs-3"]).variants) == ["beta-1-epochs-3", "beta-2-epochs-3"]
    two = made.select(["beta-2-epochs-4", "beta-1-epochs-4"])
    assert list(two.variants) == ["beta-1-epochs-4", "beta-2-epochs-4"]
    with pytest.raises(BenchError, match=r"'beta-3-epochs-3' matches no variant of .*did you mean"):
        made.select(["*", "beta-3-epochs-3"])


def test_overrides_reach_every_run(tmp_path):
    made = loaded(tmp_path, GOOD + "dataset: {name: mnist, offline_fallback: digits}")
    other = made.with_overrides(seeds=(7,), epochs=1, dataset="kmnist")
    assert [(r.seed, r.epochs, r.dataset) for r in other.runs()] == [(7, 1, "kmnist")]
    assert (other.dataset, other.offline_fallback) == ("kmnist", None)
    assert made.with_overrides() == made


@pytest.mark.parametrize(
    "override",
    [
        {"precision": "fp16"},
        {"seeds": ()},
        {"seeds": (1, 1)},
        {"seeds": (-1,)},
        {"epochs": 0},
        {"dataset": "mnits"},
    ],
)
def test_bad_overrides_are_refused(tmp_path, override):
    (name,) = override
    with pytest.raises(BenchError, match=f"{name}.*(allowed|did you mean)"):
        loaded(tmp_path, GOOD).with_overrides(**override)


def test_text_is_on_one_line(tmp_path):
    assert loaded(tmp_path, GOOD.replace("Why?", ">\n  Why\n  not?")).question == "Why not?"


def test_a_file_name_that_cannot_be_a_folder_is_refused(tmp_path):
    with pytest.raises(BenchError, match="rename the file"):
        loaded(tmp_path, GOOD, "a b.yaml")
