"""Posteriors are the distributions that they say, and their KL is the one that Monte Carlo finds."""

from __future__ import annotations

import re
import sys

import pytest
import torch
from factory import a_run, normal, part
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from bench.engine.images import untrained
from bench.engine.loop import make_step
from bench.engine.stacked import DIAGONAL, stack
from bench.errors import BenchError
from bench.parts.lookup import REGISTRIES, objective_of
from bench.parts.posteriors import POSTERIORS, Flow, FullGaussian, FullQ, Q, gaussian, gaussian_raw_sigma
from bench.parts.priors import StandardNormal

PRIOR = StandardNormal()


pytestmark = pytest.mark.usefixtures("double")


def heads(images: int = 5, latent: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """What an encoder might give."""
    return normal(images, latent, seed=1), 0.8 * normal(images, latent, seed=2)


def as_torch(q: Q) -> Normal:
    """The same distribution by torch."""
    return Normal(q.mean, q.scale)


@pytest.mark.parametrize("name", DIAGONAL)
def test_density_kl_and_samples_are_those_of_one_gaussian(name: str) -> None:
    q = POSTERIORS[name](*heads())
    assert q.mean.shape == q.scale.shape == q.kl().shape == (5, 3)
    assert (q.scale > 0).all()
    torch.testing.assert_close(q.log_scale, q.scale.log())
    noise = normal(7, 5, 3)
    z = q.sample(noise)
    torch.testing.assert_close(z, q.mean + q.scale * noise)
    torch.testing.assert_close(q.log_prob(z), as_torch(q).log_prob(z).sum(-1))
    torch.testing.assert_close(PRIOR.log_prob(z), Normal(0, 1).log_prob(z).sum(-1))
    prior = Normal(torch.zeros(3), torch.ones(3))
    torch.testing.assert_close(q.kl(), kl_divergence(as_torch(q), prior))
    assert (q.kl() >= 0).all()


def test_heads_mean_what_their_names_say() -> None:
    mean, second = heads()
    scales = {
        "gaussian": (second / 2).exp(), "gaussian-log-sigma": second.exp(),
        "gaussian-softplus": (1 + second.exp()).log(), "gaussian-raw-sigma": second**2,
    }  # fmt: skip
    assert scales.keys() == DIAGONAL.keys()
    for name, scale in scales.items():
        q = POSTERIORS[name](mean, second)
        torch.testing.assert_close(q.scale, scale)
        torch.testing.assert_close(q.log_prob_each(normal(5, 3)), as_torch(q).log_prob(normal(5, 3)))
        assert (q.charged_kl is None) == (name != "gaussian-raw-sigma")  # document 000 charges another's


def test_the_kl_vanishes_at_the_prior_alone() -> None:
    zero = torch.zeros(2, 3)
    assert gaussian(zero, zero).kl().abs().max() == 0
    assert gaussian_raw_sigma(zero, zero - 1).charged_kl.abs().max() < 1e-15  # σ = −1 is as good as 1


# Beyond the diagonal


def full(images: int = 5, latent: int = 3) -> FullQ:
    """A Gaussian of full covariance for each image."""
    below = 0.6 * normal(images, latent * (latent - 1) // 2, seed=4)
    return FullGaussian()(heads(images, latent)[0], torch.cat([heads(images, latent)[1], below], 1))


def test_a_full_covariance_is_torchs_in_density_samples_and_kl() -> None:
    q, noise = full(), normal(7, 2, 5, 3)
    due = MultivariateNormal(q.mean, scale_tril=q.factor)
    z = q.sample(noise)
    torch.testing.assert_close(z, q.mean + (q.factor @ noise.unsqueeze(-1)).squeeze(-1))
    for each in (z, z[0], z[0, 0]):
        torch.testing.assert_close(q.log_prob(each), due.log_prob(each))
    torch.testing.assert_close(q.stddev, due.stddev)
    standard = MultivariateNormal(torch.zeros(3), torch.eye(3))
    torch.testing.assert_close(q.kl().sum(-1), kl_divergence(due, standard))
    assert (q.kl() >= 0).all(), "each by the chain rule a KL of its own"


def test_a_full_covariance_with_a_diagonal_factor_is_the_diagonal_gaussian() -> None:
    mean, second = heads()
    q, due = FullGaussian()(mean, torch.cat([second, torch.zeros(5, 3)], 1)), gaussian(mean, second)
    z = normal(7, 5, 3)
    torch.testing.assert_close(q.sample(z), due.sample(z))
    torch.testing.assert_close(q.log_prob(z), due.log_prob(z))
    torch.testing.assert_close(q.kl(), due.kl())
    torch.testing.assert_close(q.stddev, due.scale)


@pytest.mark.parametrize(("latent", "layers"), [(1, 3), (3, 0), (3, 1), (4, 3)])
def test_a_flow_is_its_density_and_without_layers_its_base(latent: int, layers: int) -> None:
    pytest.importorskip("zuko")
    flow, base = Flow(latent, layers=layers, hidden=[7]), gaussian(*heads(5, latent))
    q, noise = flow(*heads(5, latent)), normal(2, 5, latent)
    z = q.sample(noise)
    if not layers:
        assert torch.equal(z, base.sample(noise))
        assert torch.equal(q.log_prob(z), base.log_prob(z))
        return
    assert not torch.allclose(z, base.sample(noise))
    # By the change of variables, of the whole map's own Jacobian
    slope = torch.autograd.functional.jacobian(lambda e: q.sample(e).sum((0, 1)), noise)  # [Z, 2, 5, Z]
    volume = torch.linalg.slogdet(slope.permute(1, 2, 0, 3)).logabsdet
    torch.testing.assert_close(q.log_prob(z), Normal(0, 1).log_prob(noise).sum(-1) - volume)


def test_a_flow_without_zuko_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zuko.nn", None)
    with pytest.raises(BenchError, match=r"needs the package zuko, .*; run: pip install"):
        Flow(3)


@pytest.mark.parametrize("name", ["gaussian-full", "flow"])
@pytest.mark.parametrize("encoder", ["mlp", "linear", "conv-bn"])
def test_a_posterior_beyond_the_diagonal_trains_by_the_reference_step(name: str, encoder: str) -> None:
    if name == "flow":
        pytest.importorskip("zuko")
    torch.set_default_dtype(torch.float32)
    run = a_run(posterior=name, encoder=encoder)
    model = untrained(run, (28, 28))
    twin = untrained(run.model_copy(update={"posterior": part("gaussian")}), (28, 28))
    assert torch.equal(next(model.encoder.parameters()), next(twin.encoder.parameters()))  # type: ignore[operator]
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    step = make_step(run, model)
    assert re.match("reference: (posterior|encoder) .* has no written-out gradient", str(step.note))
    for _ in range(2):  # the first leaves biases before a BatchNorm, at most
        step(normal(8, 784).sigmoid(), normal(1, 8, 3))
    assert all(not torch.equal(value, before[key]) for key, value in model.named_parameters())
    with pytest.raises(TypeError, match="has no stacked form"):
        stack([model], objective_of(run))


def test_an_encoder_without_such_a_head_is_told_so() -> None:
    def narrow(shape: object, latent: int) -> None: ...

    run = a_run(posterior="gaussian-full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRIES, "encoder", {"mlp": narrow})
        with pytest.raises(ValueError, match="gaussian-full asks for 6 numbers in the second head; enc"):
            untrained(run, (28, 28))
