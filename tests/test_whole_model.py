"""A whole model of the user's own trains and is measured as one that bench composes; its file's mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from factory import trained
from test_check import checked
from test_groups import shared

from bench.engine.device import initialised
from bench.errors import BenchError
from bench.evaluation.metrics import METRICS, NEED_DENSITY
from bench.parts.vae import build
from bench.report.results import load as results_of
from bench.report.tables import cell
from bench.runs.execute import Job, SharedContext, execute
from bench.spec.experiment import Run, Variant
from bench.spec.resolve import load
from bench.store.records import write_json_atomic
from bench.verify.runs import laws

__all__ = ["shared"]  # a fixture
MINE = """
class Mine(nn.Module):
    def __init__(self, shape, latent, *, width: int = 9):
        super().__init__()
        pixels = math.prod(shape)
        self.body = nn.Sequential(nn.Linear(pixels, width), nn.ReLU())
        self.mean, self.second = nn.Linear(width, latent), nn.Linear(width, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, width), nn.ReLU(), nn.Linear(width, pixels))
    def encode(self, x):
        h = self.body(x)
        return gaussian(self.mean(h), self.second(h))
    def decode(self, z): return self.decoder(z)
    def grey_mean(self, output): return output.sigmoid()
"""
HEAD = """
import math
import torch
from torch import nn
from bench.parts.posteriors import gaussian
"""
SPEC = """
question: Why?
dataset: digits
defaults: {model: {file: mine.py, name: Mine}, latent: 3, epochs: 2, batch_size: 16}
architectures: {small: {encoder: {name: mlp, hidden: [9]}, decoder: {name: mlp, hidden: [9]}}}
variants:
  whole: {}
  wide: {model: {width: 11}}
  composed: {architecture: small}
  back: {extends: composed, model: {file: mine.py, name: Mine}}
"""


def variants(folder: Path, text: str = SPEC) -> dict[str, Variant]:
    (folder / "mine.py").write_text(HEAD + MINE)
    (folder / "own.yaml").write_text(text)
    return load(folder / "own.yaml").variants


def test_it_trains_to_what_the_same_model_composed_of_parts_comes_to(
    tmp_path: Path, shared: SharedContext
) -> None:
    made = variants(tmp_path)
    whole, composed = (trained(made[name].run(0), tmp_path / name, shared) for name in ("whole", "composed"))
    assert whole["environment"]["engine_note"] == "reference: model Mine has no written-out gradient"
    assert whole["likelihood_class"] == composed["likelihood_class"]
    assert whole["metrics"].keys() == composed["metrics"].keys()
    # Both draw their weights in one order, and are given the same images and noise
    for name in ("elbo", "kl", "log_px_bernoulli", "mse", "aggregate_kl", "knn_accuracy"):
        assert whole["metrics"][name] == pytest.approx(composed["metrics"][name], rel=1e-4)


def test_it_replaces_the_parts_of_a_model_and_they_replace_it(tmp_path: Path) -> None:
    made = variants(tmp_path)
    assert made["wide"].model.options == {"width": 11}
    assert made["composed"].model is None
    assert made["composed"].posterior.name == "gaussian"
    for name in ("whole", "wide", "back"):
        assert made[name].encoder is made[name].posterior is None
    run = made["whole"].run(0)
    assert run.key("d") == made["back"].run(0).key("d") != made["wide"].run(0).key("d")
    assert {"encoder", "decoder", "posterior"}.isdisjoint(run.model_dump())
    assert "model" not in made["composed"].run(0).model_dump()
    assert Run.model_validate(run.model_dump(mode="json")).key("d") == run.key("d")


def test_its_own_prior_is_the_prior(tmp_path: Path) -> None:
    wide = "        self.prior = Wide()\n    def encode"
    (tmp_path / "own.yaml").write_text(SPEC)
    (tmp_path / "mine.py").write_text(
        HEAD + "class Wide:\n    def sample(self, noise): return 2 * noise\n"
        "    def log_prob(self, z): return torch.distributions.Normal(0, 2).log_prob(z).sum(-1)\n"
        + MINE.replace("    def encode", wide)
    )
    with initialised(0):
        model = build(load(tmp_path / "own.yaml").variants["whole"].run(0), (4, 4))
    assert torch.equal(model.prior.sample(torch.ones(3)), torch.full((3,), 2.0))


SAMPLED = """
class Draws:
    def __init__(self, mean): self.mean = mean
    def sample(self, noise): return self.mean + 0.1 * noise

class Plain:
    def __call__(self, terms, seen): return terms.reconstruction_loss.mean(0)
"""


def test_what_needs_a_density_is_not_defined_where_q_has_samples_alone(
    tmp_path: Path, shared: SharedContext
) -> None:
    encode = "return gaussian(self.mean(h), self.second(h))"
    (tmp_path / "mine.py").write_text(HEAD + SAMPLED + MINE.replace(encode, "return Draws(self.mean(h))"))
    (tmp_path / "own.yaml").write_text(
        SPEC.partition("architectures")[0]
        + "variants: {plain: {objective: {file: mine.py, name: Plain}}, elbo: {}}\n"
    )
    made = load(tmp_path / "own.yaml").variants
    folder = tmp_path / "runs" / f"{'0' * 16}-s0"
    run = made["plain"].run(0)
    record = trained(run, folder, shared)
    assert record["undefined"] == sorted(NEED_DENSITY)
    assert NEED_DENSITY.isdisjoint(record["metrics"])
    assert record["metrics"].keys() >= {"mse", "log_px_bernoulli", "prior_mmd", "knn_accuracy", "test_loss"}
    assert record["curves"][0]["kl"] is record["curves"][0]["elbo"] is record["kl_per_unit"] is None
    for place, value, _, due, tolerance in laws(record, run):
        assert value == pytest.approx(due, rel=max(tolerance, 1e-12)), place
    # A report's cell says so
    planned = {"plain-s0": {"variant": "plain", "seed": 0, "run": folder.name}}
    spec = {"variants": {"plain": {"latent": 3}}, "planned": planned}
    write_json_atomic(tmp_path / "own" / "experiment.json", spec)
    results = results_of(tmp_path / "own")
    shown = {m.name: cell(results.variants[0], m).text for m in METRICS}
    assert {name for name, text in shown.items() if text == "not defined"} == NEED_DENSITY
    # An objective that asks for it cannot be trained, and says why
    record = execute(Job("elbo-s0", made["elbo"].run(0), tmp_path / "elbo", {}), shared, lambda *_: None)
    assert record["status"] == "failed"
    assert "q(z|x) has no log_prob, so its KL is not defined" in record["reason"]


REFUSED = {
    "{model: Other}": "model without a file; allowed: one of your own",
    "{model: {file: mine.py, name: Mine, depth: 3}}": "unknown key 'depth' in model Mine",
    "{model: {file: mine.py, name: Mien}}": "unknown model in mine.py 'Mien'; did you mean 'Mine'",
    "{model: {width: 9}, encoder: {name: mlp, hidden: [9]}}": "encoder beside model; allowed: a whole",
    "{encoder: {name: mlp, hidden: [9]}}": "variant a has no decoder",
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_does_not_go_together_is_refused_at_its_place(tmp_path: Path, said: str) -> None:
    with pytest.raises(BenchError, match=r"own\.yaml:") as caught:
        variants(tmp_path, SPEC.partition("variants:")[0] + f"variants: {{a: {said}}}")
    assert REFUSED[said] in str(caught.value)


MISTAKES = {
    ("(nn.Module)", ""): "it is no torch.nn.Module",
    ("gaussian(self.mean(h), self.second(h))", "self.mean(h)"): "encode() gives a Tensor; due is q(z|x)",
    ("gaussian(self.mean(h), self.second(h))", "torch.distributions.Normal(self.mean(h), 1)"):
        "encode() gives a Normal; due is q(z|x) with sample(noise), such as bench.parts.posteriors.gaussian",
    ("output.sigmoid()", "output"): "grey_mean() gives -",
    ("output.sigmoid()", "output.sigmoid().mean(-1)"): "grey_mean() has the shape [2, 5]; due is [2, 5, 784]",
    ("self.decoder(z)", "self.decoder(z.flatten(1))"): "decode raises RuntimeError: ",
    ("self.decoder(z)", "self.decoder(z).detach()"): "its output is not differentiable",
    ("self.body(x)", "self.body(x - x.mean(0))"): "an image's result depends on the other images",
    ("self.body(x)", "self.body(x.mul_(2))"): "it changes the images",
    ("def grey_mean", "def gray_mean"): "has no attribute 'grey_mean'",
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda pair: pair[1] or "-")
def test_a_mistake_in_it_is_one_clear_line(tmp_path: Path, mistake: tuple[str, str]) -> None:
    assert mistake[0] in MINE
    [found] = checked(tmp_path, MINE.replace(*mistake))
    assert found.kind == "model"
    assert MISTAKES[mistake] in found.fault
    assert found.fault.isprintable()


def test_a_good_one_is_good(tmp_path: Path) -> None:
    assert [part.fault for part in checked(tmp_path, MINE)] == [""]
