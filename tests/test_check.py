"""`bench check`: the laws hold for bench's own parts, and each kind of mistake is told in one clear line."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from factory import REQUIRED
from typer.testing import CliRunner

from bench.cli import app
from bench.errors import BenchError
from bench.parts import laws
from bench.parts.check import LAWS, SIZED, Found, check_file
from bench.parts.lookup import REGISTRIES, sized

HEAD = """
import math
import torch
from torch import nn
from bench.parts.posteriors import gaussian
"""
NETWORK = """
class Net(nn.Module):
    def __init__(self, shape, latent):
        super().__init__()
        self.map = nn.Linear(math.prod(shape), 2 * latent)
    def forward(self, x):
        {}
"""
PIXELS = """
class Shifted:
    label, scale = "shifted", {}
    def __call__(self, grey): return 2 * grey
    def to_grey(self, mean): return {}
"""
LIKELIHOOD = """
class Squares:
    def log_prob(self, output, target): return -0.5 * (output - target).square().sum(-1) - {}
    def mean(self, output): return {}
"""
CONSTANT = "0.5 * math.log(2 * math.pi) * output.shape[-1]"
Q = """
class Q:
    def __init__(self, mean, second): self.mean, self.scale = mean, second.exp()
    def sample(self, noise): return {}
    def log_prob(self, z):
        return (-0.5 * ((z - self.mean) / self.scale) ** 2 - {}).sum(-1)
def posterior(mean, second): return Q(mean, second)
"""
NORMAL = "self.mean + self.scale * noise"
WHOLE = "(self.scale.log() + 0.5 * math.log(2 * math.pi))"

MISTAKES = {
    NETWORK.format("return self.map(x)"): "it gives a Tensor; due is a tuple of heads",
    NETWORK.format("return self.map(x), 1"): "a tuple of other things than tensors",
    NETWORK.format("return self.map(x).chunk(3, -1)"): "head 1 has the shape [5, 2]; due is [5, 3]",
    NETWORK.format("return (self.map(x).chunk(2, -1)[0],)"): "it gives 1 heads; bench's posteriors take two",
    NETWORK.format("return self.map(x).double().chunk(2, -1)"): "head 1 is of type torch.float64; due is",
    NETWORK.format("return (self.map(x) / 0).chunk(2, -1)"): "head 1 is not finite: 15 of 15 numbers",
    NETWORK.format("return self.map(x).detach().chunk(2, -1)"): "its output is not differentiable",
    NETWORK.format("return x[:, :3] * self.map.bias[0], x[:, :3]"): "reaches its parameter map.weight",
    NETWORK.format("return (self.map(x) - self.map(x).mean(0)).chunk(2, -1)"): "depends on the other images",
    NETWORK.format("return (self.map(x) + torch.rand(1)).chunk(2, -1)"): "gives other numbers for the same",
    NETWORK.format("x += 1; return self.map(x).chunk(2, -1)"): "it changes the images that it is given",
    NETWORK.format("return self.mpa(x)"): "forward raises AttributeError: 'Net' object has no",
    NETWORK.replace("(nn.Module)", "").replace("super().__init__()", "pass").replace("forward", "__call__")
    .format("return self.map(x).chunk(2, -1)"): "it is no torch.nn.Module",
    NETWORK.replace("latent)", "latent, depth)").format("pass"): "missing 1 required positional argument",
    LIKELIHOOD.format(0, "output"): "log_prob() is not normalised: one pixel adds up to",
    LIKELIHOOD.format(CONSTANT, "output + 1"): "mean() is -0.7 where the pixel's mean by log_prob() is -1.7",
    LIKELIHOOD.format(CONSTANT, "output.sum(-1)"): "mean() has the shape [2, 5]; due is [2, 5, 784]",
    LIKELIHOOD.format(CONSTANT, "output + 0 / (1 + output.exp())"): "100, and its gradient is not",
    PIXELS.format(1.0, "mean / 2"): "scale is 1; one unit of its pixels is 0.5 grey levels",
    PIXELS.format(0.5, "mean"): "to_grey() gives 0.02",
    Q.format(NORMAL, "self.scale.log()"): "log_prob() is not normalised: its density adds up to 15",
    Q.format("self.mean + self.scale ** 2 * noise", WHOLE): "draw from log_prob(): the var",
    Q.format(NORMAL.replace("mean", "mean.detach()").replace("le *", "le.detach() *"), "0"):
        "sample() is not differentiable",
    "class Loss:\n    def __call__(self, terms, seen): return terms.kl.mean()": "the shape []; due is [5]",
    "class Loss:\n    def __call__(self, terms, seen): return terms.nats": "no attribute 'nats'",
    "class Loss:\n    def __call__(self, terms, seen): return 0 * terms.rate": "its gradient is zero",
    "def climb(parameters): return torch.optim.SGD(parameters, lr=0.1, maximize=True)": "do not lower a sum",
    "def none(parameters): return None": "it gives a NoneType; due is a torch.optim.Optimizer",
    "def none(optimizer): return optimizer": "it gives a SGD; due is a torch.optim.lr_scheduler",
    "def depth(model, images): return images.mean(1)": "it gives a tensor [5]; due is one number",
    "def depth(model, images): return 'deep'": "it gives a str; due is one number",
    "def depth(model, images): return float('nan')": "it gives nan; due is a finite number, or None",
    "def depth(model, images): return images.mul_(0).sum()": "it changes the model or the images",
    "class Depth:\n    direction = 'up'\n    def __call__(self, model, images): ...": "direction is \"'up'\"",
    "def needs(parameters, *, lr: float): ...": "its option lr has no default to check it with",
    "def needs(parameters, *, lr=1): ...": "option lr of needs: no annotation; allowed: int",
}  # fmt: skip


def checked(folder: Path, source: str, **asked: Any) -> list[Found]:
    (folder / "mine.py").write_text(HEAD + source)
    return check_file(folder / "mine.py", **asked)


@pytest.mark.parametrize("kind", REGISTRIES)
def test_the_laws_hold_for_every_part_of_bench(kind: str) -> None:
    torch.manual_seed(0)
    for name, made in REGISTRIES[kind].items():
        if name == "flow":
            pytest.importorskip("zuko")
        sizes = sized(made, shape=laws.SHAPE, latent=laws.LATENT) if kind in SIZED else []
        make = partial(made, *sizes, **REQUIRED.get(name, {}))
        if kind == "posterior":
            asks = made.second_head(3) if hasattr(made, "second_head") else 3
            laws.posterior(
                make() if isinstance(made, type) else make, [torch.randn(5, 3), torch.randn(5, asks)]
            )
        else:
            (LAWS.get(kind) or getattr(laws, kind))(make)


@pytest.mark.parametrize("source", MISTAKES)
def test_a_mistake_is_one_clear_line(tmp_path: Path, source: str) -> None:
    [found] = checked(tmp_path, source)
    assert MISTAKES[source] in found.fault
    assert found.fault.isprintable()
    assert len(found.fault) < 350


def test_parts_are_told_apart_by_their_methods_and_helpers_are_left_alone(tmp_path: Path) -> None:
    good = (NETWORK.format("return self.map(x).chunk(2, -1)"), LIKELIHOOD.format(CONSTANT, "output"))
    rest = PIXELS.format(0.5, "mean / 2"), Q.format(NORMAL, WHOLE)
    others = "class Layer(nn.Linear): ...\ndef _hidden(mean, second): ...\nclass Loss:\n    " \
        "def __call__(self, terms, seen): return terms.rate\n" \
        "def depth(model, images): return images.mean()\n"  # fmt: skip
    found = checked(tmp_path, "".join((*good, *rest, others)))
    assert {part.name: part.kind for part in found} == {
        "Net": "encoder", "Squares": "likelihood", "Shifted": "target", "posterior": "posterior",
        "Loss": "objective", "depth": "metric",
    }  # fmt: skip
    assert [part.fault for part in found] == [""] * 6


def test_a_posterior_of_other_heads_is_checked_with_its_encoder(tmp_path: Path) -> None:
    wide = NETWORK.replace("2 * latent", "5").format("return (self.map(x),)")
    q = "def shared(all):\n    return gaussian(all[:, :3], all[:, 3:].mean(-1, keepdim=True).expand(-1, 3))"
    assert [part.fault for part in checked(tmp_path, wide + q)] == ["", ""]


@pytest.mark.parametrize(
    ("source", "asked", "told"),
    [
        ("1 / 0\nclass Net: ...", {}, r"mine\.py:6: cannot be imported \(ZeroDivisionError"),
        ("def (", {}, "mine.py:6: is not Python"),
        ("x = 1", {}, "nothing in it is like a part"),
        ("class Net: ...", {"name": "Nte"}, "defines no 'Nte'; did you mean 'Net'?"),
        ("class Net: ...", {"kind": "encodre"}, "unknown kind of part 'encodre'; did you mean 'encoder'?"),
    ],
)
def test_a_file_without_parts_is_one_line(tmp_path: Path, source: str, asked: Any, told: str) -> None:
    with pytest.raises(BenchError, match=told) as caught:
        checked(tmp_path, source, **asked)
    assert str(caught.value).isprintable()


def test_the_command_says_what_it_runs_and_what_came_of_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HEAD + NETWORK.format("return self.map(x).chunk(2, -1)"))
    done = CliRunner().invoke(app, ["check", str(tmp_path / "mine.py")])
    assert (done.exit_code, done.stdout.splitlines()[1:]) == (0, ["Net: good as encoder"])
    assert "mine.py, run with your rights" in done.stdout
    done = CliRunner().invoke(app, ["check", str(tmp_path / "mine.py"), "--kind", "objective"])
    assert re.match("1 of 1 parts of .*mine.py would not work", str(done.exception))
    assert "Net: it cannot be used as its protocol says (TypeError" in done.stdout
