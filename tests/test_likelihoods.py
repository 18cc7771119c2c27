"""Every likelihood is a normalised density with the mean that it says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from factory import normal, random
from scipy.integrate import quad

from bench.parts.likelihoods import LIKELIHOODS, Bernoulli, ContinuousBernoulli, Gaussian, LearnedGaussian
from bench.parts.protocols import Likelihood

CASES: list[Any] = [
    Bernoulli(),
    Bernoulli(form="probabilities"),
    Bernoulli(form="probabilities", eps=1e-20),
    Gaussian(),
    Gaussian(variance=0.07, mean="linear"),
    LearnedGaussian(variance=0.3),
    LearnedGaussian(variance=0.02, mean="linear"),
    ContinuousBernoulli(),
]
CASES = [likelihood.double() for likelihood in CASES]
OUTPUTS = [-3.7, -0.6, -0.05, 0.0, 0.08, 1.3, 2.9]  # the decoder's output for one pixel
NAMES = [f"{type(case).__name__}-{i}" for i, case in enumerate(CASES)]


pytestmark = pytest.mark.usefixtures("double")


def moment(likelihood: Likelihood, output: float, power: int) -> float:
    """∫ x^power p(x|output) dx over the support of one pixel."""

    def density(x: float) -> float:
        log_prob = likelihood.log_prob(torch.tensor([output]), torch.tensor([x]))
        return math.exp(float(log_prob)) * x**power

    if isinstance(likelihood, Bernoulli):
        return density(0.0) + density(1.0)
    if isinstance(likelihood, ContinuousBernoulli):
        return float(quad(density, 0, 1)[0])
    centre = float(likelihood.mean(torch.tensor(output)).detach())
    return float(quad(density, centre - 8, centre + 8, points=[centre])[0])


def test_every_likelihood_is_tested_here() -> None:
    assert {type(case) for case in CASES} == set(LIKELIHOODS.values())


@pytest.mark.parametrize("likelihood", CASES, ids=NAMES)
@torch.no_grad()
def test_likelihoods_normalise_and_have_the_mean_they_say(likelihood: Likelihood) -> None:
    for output in OUTPUTS:
        assert moment(likelihood, output, 0) == pytest.approx(1, abs=1e-8)
        mean = float(likelihood.mean(torch.tensor(output)))
        assert moment(likelihood, output, 1) == pytest.approx(mean, abs=1e-8)


@pytest.mark.parametrize("likelihood", CASES, ids=NAMES)
@torch.no_grad()
def test_pixels_are_independent_given_z(likelihood: Likelihood) -> None:
    output, target = normal(3, 5, 13), random(5, 13)
    whole = likelihood.log_prob(output, target)
    apart = likelihood.log_prob(output.unsqueeze(-1), target.unsqueeze(-1)).sum(-1)
    assert whole.shape == (3, 5)
    torch.testing.assert_close(whole, apart)


@pytest.mark.parametrize("variance", [0.5, 0.07])
def test_squared_error_is_the_gaussian_up_to_a_constant(variance: float) -> None:
    output, target = normal(5, 13), random(5, 13)
    likelihood = Gaussian(variance=variance, mean="linear")
    loss = likelihood.reconstruction_loss(output, target)
    torch.testing.assert_close(loss, ((output - target) ** 2).sum(-1) / (2 * variance))
    constants = loss + likelihood.log_prob(output, target)
    assert constants.max() - constants.min() < 1e-10


def test_a_saturated_sigmoid_is_nan_then_stuck_then_sound() -> None:
    """Document 000: 0·log 0 without eps; no gradient with it; from logits both are right."""
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float32)

    def loss_and_gradient(likelihood: Bernoulli, sign: float) -> tuple[float, torch.Tensor]:
        output = torch.tensor([[sign * 200.0, -sign * 200.0]], dtype=torch.float32, requires_grad=True)
        loss = -likelihood.log_prob(output, x).sum()
        loss.backward()
        assert output.grad is not None
        return float(loss.detach()), output.grad

    assert math.isnan(loss_and_gradient(Bernoulli(form="probabilities"), 1.0)[0])
    with_eps = Bernoulli(form="probabilities", eps=1e-20)
    assert loss_and_gradient(with_eps, 1.0)[0] == 0
    wrong, stuck = loss_and_gradient(with_eps, -1.0)
    assert wrong == pytest.approx(-2 * math.log(1e-20))
    assert (stuck == 0).all()
    loss, gradient = loss_and_gradient(Bernoulli(), -1.0)
    assert loss == pytest.approx(400)
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, 1.0]], dtype=torch.float32))


@torch.no_grad()
def test_the_continuous_bernoulli_joins_its_series() -> None:
    likelihood, pixel = ContinuousBernoulli(), torch.tensor([0.3])
    for sign in (-1, 1):
        inside, outside = (torch.tensor([sign * o]) for o in (0.1 - 1e-10, 0.1 + 1e-10))
        for function in (likelihood.mean, lambda o: likelihood.log_prob(o, pixel)):
            torch.testing.assert_close(function(inside), function(outside), rtol=0, atol=2e-9)
    assert float(likelihood.mean(torch.zeros(1))) == 0.5
    assert float(likelihood.log_prob(torch.zeros(1), pixel)) == pytest.approx(0, abs=1e-15)  # uniform


@pytest.mark.parametrize("logit", [-50.0, -1e3, -1e5])
def test_the_continuous_bernoulli_grows_without_bound_at_a_black_pixel(logit: float) -> None:
    black = ContinuousBernoulli().log_prob(torch.tensor([logit]), torch.tensor([0.0]))
    assert float(black) == pytest.approx(math.log(-logit), rel=1e-6)


def test_the_continuous_bernoulli_differentiates_everywhere() -> None:
    likelihood = ContinuousBernoulli()
    output = torch.tensor([0.0, 1e-9, -0.05, 0.099, 0.101, -0.101, 1.0, -7.0, 40.0], requires_grad=True)
    pixel = random(9)
    assert torch.autograd.gradcheck(lambda o: likelihood.log_prob(o, pixel), output)
    assert torch.autograd.gradcheck(likelihood.mean, output)
    extreme = torch.tensor([-3e4, 3e4, 0.0], dtype=torch.float32, requires_grad=True)
    value = likelihood.log_prob(extreme, torch.tensor([0.0, 1.0, 0.5], dtype=torch.float32))
    value.backward()
    assert extreme.grad is not None
    assert value.isfinite()
    assert extreme.grad.isfinite().all()
    (slope,) = torch.autograd.grad(likelihood.mean(extreme).sum(), extreme)
    torch.testing.assert_close(slope, torch.tensor([1 / 9e8, 1 / 9e8, 1 / 12], dtype=torch.float32))


def test_a_learned_variance_settles_at_the_mean_squared_error() -> None:
    """∂/∂ ln σ² of ln p vanishes at σ² = SSE/D, and nowhere else."""
    output, target = normal(5, 13), random(5, 13)
    error = float(((target - output) ** 2).mean())
    for factor, sign in ((1.0, 0), (0.5, -1), (2.0, 1)):
        likelihood = LearnedGaussian(variance=factor * error, mean="linear").double()
        (-likelihood.log_prob(output, target)).sum().backward()
        slope = float(likelihood.log_variance.grad)  # type: ignore[arg-type]
        assert abs(slope) < 1e-5 if sign == 0 else slope * sign > 0.1


def test_a_fixed_gaussian_absorbs_a_weight_on_the_kl() -> None:
    likelihood = Gaussian(variance=0.07, mean="linear")
    implied = likelihood.tempered(0.3)
    assert (implied.variance, implied.link) == (pytest.approx(0.3 * 0.07), "linear")
    assert likelihood.tempered(0.0) is likelihood  # an autoencoder implies no density
