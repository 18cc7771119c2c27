"""Priors are the distributions that they say, are learned, and are measured against."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from factory import PIXELS, a_run, a_vae, normal, part, random
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from bench.engine.images import untrained
from bench.engine.loop import make_step
from bench.parts.lookup import objective_of
from bench.parts.objectives import Elbo
from bench.parts.posteriors import gaussian, log_prob_pairs
from bench.parts.priors import PRIORS, Mixture, StandardNormal, Vamp, choose
from bench.parts.protocols import LossTerms
from bench.parts.vae import VAE


def a_mixture(components: int = 4, latent: int = 2) -> Mixture:
    """Components of different weights, means and scales."""
    prior = Mixture(latent, components=components)
    with torch.no_grad():
        for i, p in enumerate(prior.parameters()):
            p.copy_(0.7 * normal(*p.shape, seed=i))
    return prior


def a_vamp(components: int = 5) -> VAE:
    """A small VAE whose prior is of so many pseudo-inputs."""
    torch.manual_seed(0)
    vae = a_vae()
    return VAE(vae.encoder, vae.decoder, gaussian, vae.likelihood, vae.input, vae.target, vae.latent,
               Vamp((PIXELS,), components=components))  # fmt: skip


@torch.no_grad()
def test_the_density_of_a_mixture_is_torchs() -> None:
    prior, z = a_mixture(), normal(7, 5, 2)
    parts = Independent(Normal(prior.means, prior.log_scales.exp()), 1)
    due = MixtureSameFamily(Categorical(logits=prior.logits), parts)
    torch.testing.assert_close(prior.log_prob(z), due.log_prob(z))


@torch.no_grad()
def test_a_mixture_of_one_standard_component_is_the_standard_prior() -> None:
    prior, z = Mixture(3, components=1), normal(7, 5, 3)
    for p in prior.parameters():
        p.zero_()
    torch.testing.assert_close(prior.log_prob(z), StandardNormal().log_prob(z))
    torch.testing.assert_close(prior.sample(z), z)


def test_noise_chooses_components_by_their_weights_and_is_standard_normal_afterwards() -> None:
    logits = torch.tensor([0.0, 2.0, -1.0])
    index, fresh = choose(normal(60_000, 2, seed=3), logits)
    found = torch.bincount(index, minlength=3) / 60_000
    torch.testing.assert_close(found, logits.softmax(0), atol=0.01, rtol=0)
    for chosen in range(3):
        noise = fresh[index == chosen]
        assert noise.mean(0).tolist() == pytest.approx([0, 0], abs=0.06)
        assert noise.std(0).tolist() == pytest.approx([1, 1], abs=0.06)
    assert fresh[:, 0].isfinite().all()
    few, _ = choose(torch.tensor([[-40.0], [40.0]]), logits)
    assert few.tolist() == [0, 2]


@torch.no_grad()
def test_a_vamp_prior_with_its_pseudo_inputs_at_the_data_is_the_aggregate_posterior() -> None:
    model, images = a_vamp(), random(5, PIXELS, seed=4)
    model.prior.inputs.copy_(torch.logit(images))
    z = normal(7, 11, 3)
    q = model.encode(images)
    due = q.log_prob(z.unsqueeze(-2)).logsumexp(-1) - math.log(5)
    for mode in (True, False):
        torch.testing.assert_close(model.train(mode).prior.log_prob(z), due)
    drawn = model.prior.sample(normal(40_000, 3, seed=5))
    torch.testing.assert_close(drawn.mean(0), q.mean.mean(0), atol=0.02, rtol=0)
    spread = (q.scale**2).mean(0) + q.mean.var(0, correction=0)
    torch.testing.assert_close(drawn.var(0), spread, atol=0.03, rtol=0.03)


def test_pairs_by_a_matrix_product_are_the_density() -> None:
    q, z = gaussian(normal(5, 3), normal(5, 3, seed=1) - 4), normal(7, 2, 3, seed=2)
    torch.testing.assert_close(log_prob_pairs(q, z, 5), q.log_prob(z.unsqueeze(-2)))


@pytest.mark.parametrize("name", ["mixture", "vamp"])
@pytest.mark.parametrize("objective", ["elbo", "warm-up", "iwae", "beta-tcvae", "mmd"])
def test_a_learned_prior_trains_by_the_reference_step_and_every_parameter_moves(
    name: str, objective: str
) -> None:
    run = a_run(prior=part(name, components=6), objective=part(objective), likelihood="gaussian-learned")
    model = untrained(run, (28, 28))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    step = make_step(run, model)
    assert step.note == f"reference: prior {PRIORS[name].__name__} has no written-out gradient"
    step(random(8, 784), normal(getattr(step.objective, "samples", 1), 8, 3), 1_000_000)
    still = {key for key, value in model.state_dict().items() if torch.equal(value, before[key])}
    # A draw cannot say how a component's weight should change, and MMD has draws alone
    assert still == ({"prior.logits"} if (name, objective) == ("mixture", "mmd") else set())


def test_under_a_learned_prior_the_kl_is_that_of_the_samples() -> None:
    model, x = a_vamp(), random(5, PIXELS)
    terms = model(x, normal(7, 5, 3))
    assert (terms.kl, terms.standard) == (None, False)
    torch.testing.assert_close(terms.charged_kl, (terms.log_qz - terms.log_pz).mean(0))
    loss = Elbo()(terms, 0).mean().float()
    torch.testing.assert_close(loss, -(terms.log_px - terms.log_qz + terms.log_pz).mean())
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.encoder.mean.bias += 1
    assert not torch.equal(twin.prior.log_prob(x[:, :3]), model.prior.log_prob(x[:, :3])), "its own encoder"


def test_mmd_against_a_learned_prior_vanishes_at_it_and_is_the_closed_form_at_the_standard_one() -> None:
    mmd, at = objective_of(a_run(objective=part("mmd", mmd=1.0))), a_mixture(1, 3)
    with torch.no_grad():
        for p in at.parameters():
            p.zero_()

    def divergence(prior: object, shift: float) -> float:
        found = []
        for seed in range(60):
            z = normal(1, 200, 3, seed=seed) + shift
            terms = LossTerms(None, z, z, z[0], _Nothing(), prior)  # type: ignore[arg-type]
            found.append(float(mmd(terms, seed * 200).mean().detach()))
        return sum(found) / len(found)

    assert divergence(at, 0.0) == pytest.approx(0, abs=1e-3)
    assert divergence(at, 1.0) == pytest.approx(divergence(StandardNormal(), 1.0), abs=3e-3)


class _Nothing:
    """A likelihood that costs nothing."""

    def log_prob(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return 0 * output.sum(-1)
