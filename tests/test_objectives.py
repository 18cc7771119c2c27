"""The loss is what each document's script writes, and β_eff and the implied density follow from it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from factory import PIXELS, a_vae, bytes_of, normal
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional as F  # noqa: N812  torch's own habit

from bench.engine.own import own_terms
from bench.parts.likelihoods import Bernoulli, Gaussian, LearnedGaussian
from bench.parts.lookup import objective_of
from bench.parts.objectives import Elbo
from bench.parts.pixels import Grey, Normalised, Threshold
from bench.parts.posteriors import gaussian, gaussian_raw_sigma
from bench.parts.vae import VAE
from bench.spec.resolve import load

IMAGES, LATENT = 5, 3
DOCUMENTS = Path(__file__).parents[1] / "experiments" / "documents.yaml"


def outputs(model: VAE, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Heads and the decoder's output, one z an image."""
    mu, second = model.encoder(model.input(x))
    scale = second**2 if model.posterior is gaussian_raw_sigma else torch.exp(0.5 * second)
    return mu, second, model.decoder(mu + noise[0] * scale)


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL per image and latent as documents 001 to 004 write it."""
    return -0.5 * (1 + logvar - mu.pow(2) - logvar.exp())


def loss_000(x: Tensor, mu: Tensor, sigma: Tensor, output: Tensor) -> Tensor:
    eps, x_hat = 1e-20, torch.sigmoid(output)
    rce = torch.sum(x.mul(torch.log(x_hat + eps)) + (1 - x).mul(torch.log(1 - x_hat + eps)))
    kld = 0.5 * torch.sum(mu.pow(2) + sigma.pow(2) - torch.log(sigma.pow(2) + eps) - 1)
    return -(rce - kld)


def loss_001(x: Tensor, mu: Tensor, logvar: Tensor, output: Tensor) -> Tensor:
    target = (x > 0.5).to(x.dtype)
    bce = F.binary_cross_entropy(torch.sigmoid(output), target, reduction="sum")
    return bce + kl(mu, logvar).sum()


def loss_001_blob(x: Tensor, mu: Tensor, logvar: Tensor, output: Tensor) -> Tensor:
    bce = F.binary_cross_entropy(torch.sigmoid(output), (x > 0.5).to(x.dtype))
    return bce + kl(mu, logvar).sum()


def loss_002(x: Tensor, mu: Tensor, logvar: Tensor, output: Tensor) -> Tensor:
    return F.binary_cross_entropy(torch.sigmoid(output), x) + 0.1 * kl(mu, logvar).mean()


def loss_003(x: Tensor, mu: Tensor, logvar: Tensor, output: Tensor) -> Tensor:
    bce = F.binary_cross_entropy(torch.sigmoid(output), x, reduction="sum")
    return (bce + kl(mu, logvar).sum()) / len(x)


def loss_004(x: Tensor, mu: Tensor, logvar: Tensor, output: Tensor) -> Tensor:
    target = (x - 0.1307) / 0.3081
    return F.mse_loss(output, target, reduction="sum") / len(x) + 32 / 784 * kl(mu, logvar).sum(1).mean()


SUM = Elbo(reconstruction="sum", kl="sum")
EPS = Bernoulli(form="probabilities", eps=1e-20)
DOCUMENTED: list[tuple[Callable[..., Tensor], Elbo, VAE]] = [
    (loss_000, SUM, a_vae(likelihood=EPS, posterior=gaussian_raw_sigma)),
    (loss_001, SUM, a_vae(target_pixels=Threshold())),
    (loss_001_blob, Elbo(reconstruction="mean", kl="sum"), a_vae(target_pixels=Threshold())),
    (loss_002, Elbo(beta=0.1, reconstruction="mean", kl="mean"), a_vae()),
    (loss_003, Elbo(), a_vae()),
    (
        loss_004,
        Elbo(beta=32 / 784),
        a_vae(
            likelihood=Gaussian(mean="linear"),
            activation=["relu", "tanh"],
            input_pixels=Normalised(),
            target_pixels=Normalised(),
        ),
    ),
]


documented = pytest.mark.parametrize(
    ("script", "objective", "model"), DOCUMENTED, ids=[script.__name__ for script, _, _ in DOCUMENTED]
)


@documented
def test_losses_and_gradients_are_those_of_the_documents_scripts(
    script: Callable[..., Tensor], objective: Elbo, model: VAE
) -> None:
    model = copy.deepcopy(model).double()
    x, noise = bytes_of(IMAGES, PIXELS).double() / 255, normal(1, IMAGES, LATENT).double()
    terms = model(x, noise)
    ours = objective(terms, 0).mean()
    theirs = script(x, *outputs(model, x, noise))
    torch.testing.assert_close(ours, theirs)
    gradients = (torch.autograd.grad(loss, list(model.parameters())) for loss in (ours, theirs))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@documented
def test_beta_eff_is_the_ratio_of_what_the_two_terms_weigh(
    script: Callable[..., Tensor], objective: Elbo, model: VAE
) -> None:
    """From the loss alone: its gradients by the terms of one image."""
    terms = model(bytes_of(IMAGES, PIXELS) / 255, normal(1, IMAGES, LATENT))
    loss = objective(terms, 0).mean()
    by_reconstruction, by_kl = torch.autograd.grad(loss, [terms.reconstruction_loss, terms.charged_kl])
    ratio = (by_kl / by_reconstruction[0]).tolist()
    assert ratio == pytest.approx([objective.beta_eff(IMAGES, PIXELS, LATENT)] * IMAGES)


def test_the_experiments_resolve_to_the_documented_beta_eff() -> None:
    runs = [variant.run(0) for variant in load(DOCUMENTS).variants.values()]
    documents = {r.variant: objective_of(r).beta_eff(r.batch_size, 784, r.latent) for r in runs}
    assert documents.pop("002-conv-bn-16") == pytest.approx(4.9)
    assert documents.pop("004-mlp-100-100-32-beta-dz-dx") == pytest.approx(32 / 784)
    assert set(documents.values()) == {1.0}


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (Elbo(beta=0.5), 150.0 + 0.5 * 8),
        (SUM, 150.0 + 8),  # the unit stays one image: batches differ in size
        (Elbo(beta=0.1, reconstruction="mean", kl="mean"), 150 / PIXELS + 0.1 * 8 / LATENT),
        (Elbo(reconstruction="mean", kl="sum"), 150 / PIXELS + IMAGES * 8),
    ],
)
def test_losses_as_written(objective: Elbo, expected: float) -> None:
    assert objective.as_written(150.0, 8.0, IMAGES, PIXELS, LATENT) == pytest.approx(expected)


# Own terms


@torch.no_grad()
def by_hand(model: VAE, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Target, decoder's mean and KL per image, [N, D], [N, D] and [N], in double precision."""
    mu, second, output = outputs(model, images.float() / 255, noise)
    return model.target(images.float() / 255).double(), output.double(), kl(mu, second).sum(1).double()


@pytest.mark.parametrize("beta", [1.0, 32 / 784, 2.5])
def test_squared_error_with_a_weight_beta_implies_a_gaussian_of_variance_half_beta(beta: float) -> None:
    model = a_vae(likelihood=Gaussian(mean="linear"), input_pixels=Normalised(), target_pixels=Normalised())
    images, noise = bytes_of(41, PIXELS), normal(1, 41, LATENT)
    target, mean, kls = by_hand(model, images, noise)
    own = own_terms(model, Elbo(beta=beta), images, noise, batch_size=8)
    density = Normal(mean, math.sqrt(beta / 2)).log_prob(target).sum(1) - PIXELS * math.log(0.3081)
    assert own.reconstruction == pytest.approx(-float(density.mean()), rel=1e-5)
    assert own.kl == pytest.approx(float(kls.mean()), rel=1e-5)
    assert own.elbo == pytest.approx(float((density - kls).mean()), rel=1e-5)
    loss = float((((mean - target) ** 2).sum(1) + beta * kls).mean())
    assert own.test_loss == pytest.approx(loss, rel=1e-5)
    assert own.test_loss_nats == pytest.approx(loss, rel=1e-5)
    # The loss is β times the negative ELBO, up to a constant: one optimum serves both
    constant = PIXELS * (0.5 * math.log(math.pi * beta) + math.log(0.3081))
    assert loss == pytest.approx(beta * (-own.elbo - constant), rel=1e-5)


def test_the_elbo_does_not_depend_on_the_unit_of_pixels() -> None:
    """One mean in two units: the densities differ by the Jacobian, and that is taken off."""
    images, noise, scale, shift = bytes_of(41, PIXELS), normal(1, 41, LATENT), 0.3081, 0.1307
    grey = a_vae(likelihood=Gaussian(variance=0.03, mean="linear"))
    normalised = a_vae(
        likelihood=Gaussian(variance=0.03 / scale**2, mean="linear"),
        target_pixels=Normalised(mean=shift, std=scale),
    )
    with torch.no_grad():
        output = normalised.decoder.output
        output.weight /= scale
        output.bias -= shift
        output.bias /= scale
    a, b = (own_terms(m, Elbo(beta=0.7), images, noise, batch_size=8) for m in (grey, normalised))
    assert a.elbo == pytest.approx(b.elbo, rel=1e-5)
    assert a.reconstruction == pytest.approx(b.reconstruction, rel=1e-5)


def test_the_honest_kl_of_document_000_is_in_its_elbo_not_in_its_loss() -> None:
    model = a_vae(likelihood=EPS, posterior=gaussian_raw_sigma)
    images, noise = bytes_of(41, PIXELS), normal(1, 41, LATENT)
    own = own_terms(model, SUM, images, noise, batch_size=8)
    with torch.no_grad():
        mu, sigma, output = outputs(model, images.float() / 255, noise)
        loss = float(loss_000(images.float() / 255, mu, sigma, output)) / len(images)
    honest = 0.5 * (mu**2 + sigma**4 - torch.log(sigma**4) - 1).sum(1).mean()
    assert own.test_loss == pytest.approx(loss, rel=1e-5)
    assert own.kl == pytest.approx(float(honest), rel=1e-5)
    assert own.elbo == pytest.approx(-(own.reconstruction + own.kl))
    assert own.loss_kl != pytest.approx(own.kl)


def test_own_terms_are_averages_over_images_in_eval_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_vae(likelihood=LearnedGaussian())
    model.encoder.trunk.append(torch.nn.BatchNorm1d(7))
    images, noise = bytes_of(41, PIXELS), normal(1, 41, LATENT)
    model.train()
    whole = own_terms(model, Elbo(), images, noise, batch_size=8)
    assert model.training
    monkeypatch.setattr("bench.engine.own.CHUNK", 7)  # the last chunk is smaller
    for model_ in (model.train(), model.eval()):
        chunked = own_terms(model_, Elbo(), images, noise, batch_size=8)
        assert vars(chunked) == pytest.approx(vars(whole), rel=1e-5)
    assert not model.training


@pytest.mark.parametrize("pixels", [Grey(), Threshold()])
def test_a_silent_decoder_is_worth_784_ln_2(pixels: Grey | Threshold) -> None:
    model = a_vae(pixels=784, target_pixels=pixels, posterior=gaussian)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    own = own_terms(model, SUM, bytes_of(5), normal(1, 5, LATENT), batch_size=8)
    assert own.elbo == pytest.approx(-784 * math.log(2), rel=1e-6)
    assert own.test_loss == pytest.approx(784 * math.log(2), rel=1e-6)
    assert own.kl == 0
