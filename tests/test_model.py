"""Networks and the VAE: shapes, gradients, and the layers and parameter counts that the documents state."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from factory import PIXELS, SHAPE, a_run, a_vae, bytes_of, normal, part, random
from torch import nn

from bench.engine.images import untrained
from bench.engine.stacked import DIAGONAL, stack
from bench.parts.likelihoods import LIKELIHOODS, ContinuousBernoulli
from bench.parts.networks import (
    ENCODERS,
    ConvDecoder,
    ConvEncoder,
    FoldedConvTranspose2d,
    MLPEncoder,
    flat,
    planes,
)
from bench.parts.objectives import Elbo
from bench.parts.pixels import PIXELS as TRANSFORMS
from bench.parts.posteriors import POSTERIORS
from bench.parts.vae import VAE, build, likelihood_class, parameter_count
from bench.spec.resolve import load

DOCUMENTS = Path(__file__).parents[1] / "experiments" / "documents.yaml"

# As document 002 prints its model, less the sigmoid, which is the likelihood's here
CONV_ENCODER = """
Conv2d(1, 16, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))
BatchNorm2d(16, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
ReLU()
Conv2d(16, 32, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))
BatchNorm2d(32, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
ReLU()
Conv2d(32, 32, kernel_size=(5, 5), stride=(2, 2))
BatchNorm2d(32, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
Flatten(start_dim=1, end_dim=-1)
"""
CONV_HEAD = """
Linear(in_features=128, out_features=64, bias=True)
ReLU()
Linear(in_features=64, out_features=16, bias=True)
"""
CONV_DECODER = """
Linear(in_features=16, out_features=64, bias=True)
ReLU()
Linear(in_features=64, out_features=128, bias=True)
Unflatten(dim=1, unflattened_size=(32, 2, 2))
ConvTranspose2d(32, 32, kernel_size=(5, 5), stride=(2, 2))
BatchNorm2d(32, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
ReLU()
ConvTranspose2d(32, 16, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))
BatchNorm2d(16, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
ReLU()
ConvTranspose2d(16, 1, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))
"""

COUNTS = {
    "000-mlp-512-256-2": 736_532,
    "001-mlp-512-512-20": 1_098_040,
    "001-mlp-512-512-10": 1_082_660,
    "001-mlp-512-512-2": 1_070_356,
    "002-conv-bn-16": 96_481,
    "003-linear-400-20": 652_824,
    "003-linear-400-10": 640_804,
    "003-linear-400-2": 631_188,
    "004-mlp-100-100-32-beta-1": 187_648,
    "004-mlp-100-100-32-beta-dz-dx": 187_648,
}


pytestmark = pytest.mark.usefixtures("double")


def check_gradients(model: VAE, x: torch.Tensor, noise: torch.Tensor) -> None:
    """The gradient of both terms together reaches every parameter, and is finite."""
    terms = model(x, noise)
    assert terms.reconstruction_loss.shape == (1, len(x))
    assert terms.charged_kl.shape == (len(x),)
    (terms.reconstruction_loss + terms.charged_kl).sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.abs().max() > 0, name


@pytest.mark.parametrize("target", TRANSFORMS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("posterior", DIAGONAL)
def test_distributions_pass_gradients_to_every_parameter(
    posterior: str, likelihood: str, target: str
) -> None:
    made = LIKELIHOODS[likelihood]()
    model = a_vae(posterior=POSTERIORS[posterior], likelihood=made, target_pixels=TRANSFORMS[target]())
    check_gradients(model, random(5, PIXELS), normal(1, 5, 3))
    assert likelihood_class(model) == f"{made.label}, {model.target.label}"


@pytest.mark.parametrize("name", TRANSFORMS)
def test_pixels_come_back_to_grey_and_stay_inside_it(name: str) -> None:
    pixels = TRANSFORMS[name]()
    x = random(5, 13)
    seen = pixels(x)
    assert seen.shape == x.shape
    assert seen.dtype == x.dtype
    expected = (x > 0.5).double() if name in ("threshold", "bernoulli") else x
    torch.testing.assert_close(pixels.to_grey(seen), expected)
    outside = pixels.to_grey(torch.tensor([-99.0, 99.0]))
    assert outside.tolist() == [0, 1]


@pytest.mark.parametrize("variant", COUNTS)
def test_documented_variants_have_the_documented_number_of_parameters(variant: str) -> None:
    assert parameter_count(build(load(DOCUMENTS).variants[variant].run(0), SHAPE)) == COUNTS[variant]


def test_the_convolutional_model_is_the_one_that_document_002_prints() -> None:
    def printed(layers: nn.Module) -> list[str]:
        # newer versions of torch print one more word for BatchNorm
        names = [str(layer).removeprefix("Folded") for layer in layers.children()]  # a way to compute it
        return [re.sub(r"(BatchNorm.*), bias=True", r"\1", name) for name in names]

    encoder, decoder = ConvEncoder(SHAPE, 16), ConvDecoder(SHAPE, 16)
    assert printed(encoder.trunk) == CONV_ENCODER.strip().splitlines()
    assert printed(encoder.mean) == printed(encoder.second) == CONV_HEAD.strip().splitlines()
    assert printed(decoder.trunk) == CONV_DECODER.strip().splitlines()


def test_activations_are_one_for_all_layers_or_one_a_layer() -> None:
    encoder = MLPEncoder((13,), 3, hidden=[11, 7], activation=["relu", "tanh"])
    assert [type(m).__name__ for m in encoder.trunk] == ["Linear", "ReLU", "Linear", "Tanh"]
    linear = ENCODERS["linear"]((13,), 3, hidden=11)
    x, y = random(2, 5, 13)
    for head in (0, 1):  # without activation the encoder is affine
        torch.testing.assert_close(
            linear(0.25 * x + 0.75 * y)[head], 0.25 * linear(x)[head] + 0.75 * linear(y)[head]
        )


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 activations for 2 hidden layers"):
        MLPEncoder((13,), 3, hidden=[11, 7], activation=["relu", "tanh", "relu"])
    for conv in (ConvEncoder, ConvDecoder):
        with pytest.raises(ValueError, match="images of 8 x 8 pixels or more, not 7 x 30 x 3; use mlp"):
            conv((7, 30, 3), 3)


@pytest.mark.parametrize("shape", [(20, 12), (8, 9), (32, 31, 3), (64, 13, 3)])
def test_convolutions_follow_the_shape_of_the_images(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    pixels = math.prod(shape)
    model = build(a_run(encoder="conv-bn", decoder="conv-bn", latent=3), shape)
    assert model.decode(normal(7, 5, 3)).shape == (7, 5, pixels)
    check_gradients(model, random(5, pixels), normal(1, 5, 3))
    # Pixels lie row by row, the channels of one beside each other; a corner sees its own neighbours only
    x = random(pixels).double().requires_grad_()
    first = model.double().encoder.trunk[0](planes(x.unsqueeze(0), shape))[0, 0]
    seen = torch.autograd.grad(first[0, 0], x)[0].view(*shape[:2], -1) != 0
    assert seen[:3, :3].all()
    assert int(seen.sum()) == 9 * seen.shape[2]
    torch.testing.assert_close(flat(planes(x, shape)), x)


def test_stacked_convolutions_of_colour_images_are_each_replicas_own() -> None:
    runs = [a_run(encoder="conv-bn", decoder="conv-bn", latent=3, seed=seed) for seed in (0, 1)]
    models = [untrained(run, (9, 14, 3)).eval() for run in runs]
    stacked = stack(models, Elbo()).eval()
    x, noise = random(5, 378), normal(1, 2, 5, 3)
    with torch.no_grad():
        together = stacked(x, noise).output[0]
        for r, model in enumerate(models):
            torch.testing.assert_close(together[r], model(x, noise[:, r]).output[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("noise", [(5, 3), (1, 3)])
def test_noise_without_the_axis_of_samples_is_refused(noise: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"lacks the axis of samples; give the model noise \[K, B, Z\]"):
        a_vae()(random(5, PIXELS), normal(*noise))


def test_building_draws_from_the_global_stream_alone() -> None:
    run = a_run(encoder=part("mlp", hidden=[11], activation="tanh"))
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build(run, SHAPE).state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not all(torch.equal(states[0][k], states[2][k]) for k in states[0])


def test_under_autocast_distributions_stay_in_full_precision() -> None:
    """Eight bits of mantissa cannot hold a sum of 784 terms: only the networks' products may be rounded."""
    torch.set_default_dtype(torch.float32)
    model = a_vae(likelihood=ContinuousBernoulli(), pixels=784, hidden=(31, 29))
    x, noise = bytes_of(9).float() / 255, normal(1, 9, 3)
    exact = model(x, noise)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(x, noise)
    assert rounded.reconstruction_loss.dtype == rounded.charged_kl.dtype == torch.float32
    torch.testing.assert_close(rounded.reconstruction_loss, exact.reconstruction_loss, rtol=0.01, atol=0.1)
    torch.testing.assert_close(rounded.charged_kl, exact.charged_kl, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folded_transposed_convolution_is_the_ordinary_one(channels: int) -> None:
    """Values and gradients, with sizes that differ in every way."""
    layer = FoldedConvTranspose2d(5, channels, kernel_size=(4, 3), stride=2, padding=1).double()
    x = torch.randn(2, 5, 7, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, channels, 14, 11, dtype=torch.float64)
    got, due = layer(x), nn.ConvTranspose2d.forward(layer, x)
    torch.testing.assert_close(got, due, rtol=1e-12, atol=1e-12)
    parameters = [x, *layer.parameters()]
    for a, b in zip(*(torch.autograd.grad((y * weight).sum(), parameters) for y in (got, due)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
