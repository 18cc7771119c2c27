"""Objectives of the literature obey their laws: identities, inequalities, brute force, closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from factory import LATENT, PIXELS, a_dataset, a_run, a_vae, normal, part, random, train_one
from torch import Tensor
from torch.distributions import Normal

from bench.engine.images import divide, untrained
from bench.engine.own import own_noise, own_terms
from bench.parts.bounds import importance_weighted_bound
from bench.parts.lookup import objective_of
from bench.parts.objectives import OBJECTIVES, BetaTCVAE, Elbo, FreeBits, Iwae, Mmd, WarmUp, mmd_to_normal
from bench.parts.protocols import LossTerms, TwoTermObjective

IMAGES = 5


pytestmark = pytest.mark.usefixtures("double")


def terms_of(samples: int = 1, images: int = IMAGES) -> LossTerms:
    """A pass over random images."""
    terms: LossTerms = a_vae()(random(images, PIXELS), normal(samples, images, LATENT))
    return terms


def each_mean(values: Tensor, size: int) -> Tensor:
    """The bound of every subset of so many samples of ln w [K, B], averaged over subsets: [B]."""
    subsets = itertools.combinations(range(len(values)), size)
    return torch.stack([importance_weighted_bound(values[list(s)]) for s in subsets]).mean(0)


# Importance weights


def test_iwae_of_one_sample_is_the_negative_elbo_of_that_sample() -> None:
    terms = terms_of()
    expected = terms.log_qz - terms.log_pz - terms.log_px
    torch.testing.assert_close(Iwae(samples=1)(terms, 0), expected[0])
    many = terms_of(20_000)
    single = -(many.log_px + many.log_pz - many.log_qz)
    error = single.std(0) / math.sqrt(len(single))
    assert ((single.mean(0) - Elbo()(many, 0)).abs() < 4 * error).all()


def test_the_importance_weighted_bound_grows_with_its_samples() -> None:
    """Theorem 1 of Burda et al. holds for the subsets of any samples, not only in expectation."""
    terms = terms_of(samples=6)
    log_weights = terms.log_px + terms.log_pz - terms.log_qz
    bounds = torch.stack([each_mean(log_weights, size) for size in range(1, 7)])  # [6, B]
    assert (bounds.diff(dim=0) > 0).all()
    torch.testing.assert_close(-Iwae(samples=6)(terms, 0), bounds[-1])
    torch.testing.assert_close(bounds[-1], log_weights.exp().mean(0).log())


def test_the_importance_weighted_bound_is_ln_px_where_the_posterior_is_exact() -> None:
    model = a_vae()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()  # q(z|x) is the prior, and the decoder ignores z
    terms = model(random(IMAGES, PIXELS), normal(3, IMAGES, LATENT))
    expected = torch.full((IMAGES,), PIXELS * math.log(2))
    torch.testing.assert_close(Iwae(samples=3)(terms, 0), expected)


# Weights on the KL


def test_a_warm_up_goes_linearly_from_its_start_to_the_constant() -> None:
    terms, warm = terms_of(), WarmUp(images=400, start=0.5, beta=2.0)
    for seen, beta in ((0, 0.5), (100, 0.875), (400, 2.0), (10_000, 2.0)):
        assert torch.equal(warm(terms, seen), Elbo(beta=beta)(terms, seen))
    assert not isinstance(warm, TwoTermObjective)  # its weight is not one number


def test_free_bits_charge_each_latent_its_kl_but_never_less_than_the_floor() -> None:
    terms = terms_of()
    assert terms.kl is not None
    by_latent = terms.kl.detach().mean(0)
    floor = float(by_latent.sort().values[1])  # one latent lies below, one on it
    torch.testing.assert_close(FreeBits(nats=0.0)(terms, 0).mean(), Elbo()(terms, 0).mean())
    charged = FreeBits(nats=floor)(terms, 0) - terms.reconstruction_loss[0]
    torch.testing.assert_close(charged[0], sum(max(floor, float(kl)) for kl in by_latent) * torch.ones(()))
    dear = FreeBits(nats=1e3)(terms, 0)
    torch.testing.assert_close(dear, terms.reconstruction_loss[0] + 1e3 * LATENT)
    assert not torch.autograd.grad(dear.sum(), terms.kl, allow_unused=True)[0].any()


# The three parts of the KL


def test_the_three_parts_are_those_of_loops_and_add_up_to_the_kl() -> None:
    terms, objective = terms_of(), BetaTCVAE(beta=6.0, alpha=0.5, gamma=2.0, images=70)
    z, q = terms.z[0], terms.q
    information, correlation, single = objective.parts_of_kl(terms)
    torch.testing.assert_close(information + correlation + single, terms.log_qz[0] - terms.log_pz[0])
    for i in range(IMAGES):
        under = [[Normal(q.mean[j, d], q.scale[j, d]).log_prob(z[i, d]).exp() for d in range(LATENT)]
                 for j in range(IMAGES)]  # fmt: skip
        joint = sum(math.prod(row) for row in under) / (IMAGES * 70)
        alone = [sum(row[d] for row in under) / (IMAGES * 70) for d in range(LATENT)]
        torch.testing.assert_close(information[i], terms.log_qz[0, i] - joint.log())
        torch.testing.assert_close(correlation[i], joint.log() - math.prod(alone).log())
        torch.testing.assert_close(single[i], math.prod(alone).log() - terms.log_pz[0, i])
    expected = terms.reconstruction_loss[0] + 0.5 * information + 6 * correlation + 2 * single
    torch.testing.assert_close(objective(terms, 0), expected)


def test_beta_tcvae_with_equal_weights_is_the_elbo_and_its_training_set_changes_no_gradient() -> None:
    terms = terms_of()
    torch.testing.assert_close(BetaTCVAE(beta=1.0)(terms, 0), Iwae(samples=1)(terms, 0))
    losses = [BetaTCVAE(beta=4.0, images=images)(terms, 0).mean() for images in (5, 60_000)]
    few, many = (torch.autograd.grad(loss, terms.z, retain_graph=True)[0] for loss in losses)
    torch.testing.assert_close(few, many)
    assert losses[0].item() != pytest.approx(losses[1].item())


# Maximum mean discrepancy


def kernel(a: Tensor, b: Tensor, bandwidth: float) -> Tensor:
    """exp(−‖a − b‖²/(2Z·h²)) of all pairs."""
    squares = (a.unsqueeze(1) - b.unsqueeze(0)).square().sum(-1)
    return torch.exp(-squares / (2 * a.shape[-1] * bandwidth**2))


def test_mmd_is_that_of_the_kernel_with_draws_from_the_prior() -> None:
    z, draws, bandwidth = 0.7 * normal(6, LATENT) + 0.4, normal(4000, LATENT, seed=1), 0.8
    within, among = kernel(z, z, bandwidth), kernel(draws, draws, bandwidth)
    pairs = (within.sum() - 6) / 30 + (among.sum() - 4000) / (4000 * 3999)
    by_draws = pairs - 2 * kernel(z, draws, bandwidth).mean()
    assert float(mmd_to_normal(z, bandwidth)) == pytest.approx(float(by_draws), abs=0.01)


def test_mmd_of_draws_from_the_prior_is_zero_in_expectation() -> None:
    found = torch.stack([mmd_to_normal(z, 1.0) for z in normal(4000, 7, LATENT)])
    assert abs(float(found.mean())) < 4 * float(found.std()) / math.sqrt(4000)
    assert float(found.std()) > 0
    shifted = torch.stack([mmd_to_normal(z + 1, 1.0) for z in normal(100, 7, LATENT)])
    assert float(shifted.mean()) > 0.1
    assert float(mmd_to_normal(normal(1, LATENT), 1.0)) == 0


def test_mmd_weighs_what_it_says() -> None:
    terms = terms_of()
    divergence = mmd_to_normal(terms.z[0], 1.5)
    expected = terms.reconstruction_loss[0] + 0.25 * terms.rate + 40 * divergence
    torch.testing.assert_close(Mmd(mmd=40.0, kl=0.25, bandwidth=1.5)(terms, 0), expected)


# All of them


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_and_is_judged_in_batches_as_it_is_trained(name: str) -> None:
    torch.set_default_dtype(torch.float32)
    run = a_run(objective=part(name), epochs=3, batch_size=16)
    model, images = untrained(run, (28, 28)), divide(run, a_dataset(), torch.device("cpu"))[0]
    curves = train_one(run, model, images).curves
    assert curves[-1]["train_loss"] < curves[0]["train_loss"]
    objective = objective_of(run)
    noise = own_noise(run, objective, 70, torch.device("cpu"))
    own = own_terms(model, objective, images.test, noise, run.batch_size, 3 * 130)
    assert curves[-1]["test_loss"] == own.test_loss
    grey, starts = images.test / 255, range(0, 70, 16)
    with torch.no_grad():
        batches = [objective(model(grey[i : i + 16], noise[:, i : i + 16]), 390) for i in starts]
    assert own.test_loss == pytest.approx(float(torch.cat(batches).mean()), rel=1e-5)
