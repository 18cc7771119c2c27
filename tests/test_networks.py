"""Fully connected networks: activations of torch's names, BatchNorm, dropout and initialisation."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from factory import LATENT, a_dataset, a_run, normal, part, random, train_one
from test_spec import changed
from torch import nn

from bench.engine.images import divide, untrained
from bench.parts.networks import MLPDecoder, MLPEncoder
from bench.spec.options import ACTIVATIONS, SHORT_ACTIVATIONS, activation_parts, activation_text

PIXELS = (13,)
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_have_torchs_options_and_act_on_single_numbers(name: str) -> None:
    theirs = inspect.signature(getattr(nn, name)).parameters.items()
    ignored = ("inplace", "approximate", "min_value", "max_value", "args", "kwargs")
    assert {key: p.default for key, p in theirs if key not in ignored} == ACTIVATIONS[name]
    assert activation_parts(activation_text(name)) == (name, ACTIVATIONS[name])
    made = MLPEncoder(PIXELS, LATENT, hidden=[7], activation=activation_text(name)).trunk[1]
    x = normal(5, 4)
    assert type(made) is getattr(nn, name)
    torch.testing.assert_close(made(x), torch.stack([made(v) for v in x.flatten()]).view_as(x))


@pytest.mark.parametrize("name", SHORT_ACTIVATIONS)
def test_short_names_stay(name: str) -> None:
    assert activation_text(name) == activation_text({"name": name}) == name


def test_an_activation_is_a_name_or_a_mapping_with_torchs_defaults(tmp_path: Path) -> None:
    steep = changed(tmp_path, "decoder: {activation: {name: LeakyReLU, negative_slope: 0.2}}")
    assert steep.decoder.options["activation"] == "LeakyReLU(negative_slope=0.2)"
    assert untrained(steep, (28, 28)).decoder.trunk[1].negative_slope == 0.2
    again = changed(tmp_path, "decoder: {activation: LeakyReLU(negative_slope=0.2)}")  # as a record has it
    assert again.key("digest") == steep.key("digest")
    named = changed(tmp_path, "decoder: {activation: [LeakyReLU]}").decoder.options["activation"]
    assert named == ["LeakyReLU(negative_slope=0.01)"]


def test_layers_come_in_their_order_and_take_any_leading_axes() -> None:
    torch.manual_seed(0)
    decoder = MLPDecoder(PIXELS, LATENT, hidden=[7, 5], batch_norm=True, dropout=0.5).double()
    kinds = [type(layer).__name__ for layer in decoder.trunk]
    assert kinds == ["Linear", "BatchNorm", "ReLU", "Dropout"] * 2
    decoder.trunk[3].p = decoder.trunk[7].p = 0.0
    z = normal(2, 6, LATENT).double()
    torch.testing.assert_close(decoder(z), decoder(z.flatten(0, 1)).view(2, 6, 13))
    before, after = decoder.trunk[0](z).flatten(0, 1), decoder.trunk[:2](z).flatten(0, 1)
    spread = (before.var(0, correction=0) + decoder.trunk[1].eps).sqrt()
    torch.testing.assert_close(after, (before - before.mean(0)) / spread)


@pytest.mark.parametrize(
    ("init", "spread"),
    [("xavier-uniform", math.sqrt(2 / (784 + 300))), ("xavier-normal", math.sqrt(2 / (784 + 300))),
     ("kaiming-uniform", math.sqrt(2 / 784)), ("kaiming-normal", math.sqrt(2 / 784))],
)  # fmt: skip
def test_initialisations_have_the_spread_of_their_papers_and_zero_biases(init: Any, spread: float) -> None:
    torch.manual_seed(0)
    encoder = MLPEncoder((784,), LATENT, hidden=[300], init=init)
    weight = encoder.trunk[0].weight.detach()
    assert float(weight.std()) == pytest.approx(spread, rel=0.01)
    if init.endswith("uniform"):
        assert float(weight.abs().max()) == pytest.approx(math.sqrt(3) * spread, rel=1e-3)
    assert not any(p.any() for name, p in encoder.named_parameters() if name.endswith("bias"))


def test_dropout_draws_from_the_seed_and_leaves_the_global_stream_alone() -> None:
    run = a_run(encoder=part("mlp", dropout=0.5, batch_norm=True), epochs=2, batch_size=16)
    images, finals = divide(run, a_dataset(), CPU)[0], []
    for before in (1, 2):
        torch.manual_seed(before)
        due = torch.rand(3, generator=torch.Generator().manual_seed(before))
        model = untrained(run, (28, 28))
        training = train_one(run, model, images)
        assert training.note == "reference: encoder BatchNorm has no written-out gradient"
        torch.testing.assert_close(torch.rand(3), due)
        finals.append(model.eval()(random(5, 784), normal(1, 5, LATENT)).output)
    assert torch.equal(*finals)
