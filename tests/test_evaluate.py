"""Every metric of the table on small trained runs, and some of them computed directly."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from factory import SHAPE, a_dataset, a_run, part, train_one
from test_groups import quickly

from bench.engine.device import initialised, stream
from bench.engine.images import Images, Labels
from bench.evaluation import measure
from bench.evaluation.measure import Measured, prior_means
from bench.evaluation.metrics import METRICS
from bench.evaluation.posteriors import Encoded
from bench.evaluation.samples import SCORES, FeatureNet, Reference
from bench.parts.posteriors import Q
from bench.parts.vae import build
from bench.spec.experiment import Run

DATA = a_dataset()
IMAGES = Images(DATA.train_images.flatten(1), DATA.test_images.flatten(1))
LABELS = Labels(DATA.train_labels, DATA.test_labels)


def measured(run: Run) -> Measured:
    """A run trained and ready to be measured, in the features of an untrained classifier."""
    with initialised(run.seed):
        model = build(run, SHAPE)
    training = train_one(run, model, IMAGES)
    with initialised(0):
        net = FeatureNet(DATA.shape, DATA.classes).eval()
    reference = Reference.of([net], IMAGES.test.float() / 255)
    return Measured(run, model, training, IMAGES, LABELS, reference)


def again(one: Measured, images: Images = IMAGES, **changes: Any) -> Measured:
    """The same model, not measured yet, on these images and with changes to its run."""
    run = one.run.model_copy(update=changes)
    return Measured(run, one.model, one.training, images, LABELS, one.reference)


@pytest.fixture(autouse=True, scope="module")
def few() -> Iterator[None]:
    """What ln p(x) is worth is test_bound's to hold."""
    with quickly():
        yield


@pytest.fixture(scope="module")
def one() -> Measured:
    """The plainest run."""
    return measured(a_run(batch_size=32))


RUNS: dict[str, dict[str, Any]] = {
    "plain": {"batch_size": 32},
    "000": {"posterior": "gaussian-raw-sigma",
            "likelihood": part("bernoulli", form="probabilities", eps=1e-20)},
    "002": {"encoder": "conv-bn", "decoder": "conv-bn", "drop_last": True,
            "objective": part("elbo", beta=0.1, reconstruction="mean", kl="mean")},
    "004": {"input": "normalised", "target": "normalised", "objective": part("elbo", beta=32 / 784),
            "likelihood": part("gaussian", mean="linear")},
    "learned": {"likelihood": "gaussian-learned", "target": "threshold", "latent": 1},
    "full": {"posterior": "gaussian-full", "latent": 2, "epochs": 1},
    "continuous": {"likelihood": "continuous-bernoulli", "encoder": "linear", "latent": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_every_metric_is_finite(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(**RUNS[name])
    monkeypatch.setattr(measure, "PRIOR_SAMPLES", 50)
    found = measured(run)
    values = found.metrics()
    absent = {"annealed_ess", "bdmc_gap"} if run.latent <= 2 else set()  # integrated, not annealed
    assert list(values) == [metric.name for metric in METRICS if metric.name not in absent]
    assert all(type(value) is float and math.isfinite(value) for value in values.values())
    assert len(found.kl_per_unit()) == run.latent
    assert sum(found.kl_per_unit()) == pytest.approx(values["kl"], rel=1e-4)
    assert values["aggregate_kl"] + values["mutual_information"] == pytest.approx(values["kl"], rel=1e-4)
    assert -0.5 < values["mutual_information"] <= math.log(len(DATA.test_images)) + 1e-9
    assert all(0 <= values[name] <= 1 for name in ("recall", "coverage", "knn_accuracy"))


@torch.no_grad()
def test_metrics_agree_with_direct_computation(one: Measured) -> None:
    model, values, last = one.model, one.metrics(), one.training.curves[-1]
    noise = torch.randn(8, len(DATA.test_images), 3, generator=stream(0, "expectation"))
    mean = model.grey_mean(model.decode(one.q.sample(noise)))
    assert values["mse"] == pytest.approx(float(((IMAGES.test / 255 - mean) ** 2).mean()), rel=1e-5)
    active = (model.encoder(IMAGES.test.float() / 255)[0].var(0) > 0.01).sum()
    assert values["active_units"] == int(active)
    assert values["parameters"] == sum(p.numel() for p in model.parameters())
    for name in ("test_loss", "test_loss_nats", "elbo", "reconstruction", "kl"):
        assert values[name] == pytest.approx(last[name])


def test_what_needs_labels_is_absent_without_them_and_all_else_the_same(one: Measured) -> None:
    without = Measured(one.run, one.model, one.training, IMAGES, None, None)
    assert Reference.of_data(replace(DATA, train_labels=None, test_labels=None)) is None
    ours, theirs = one.metrics() | {"peak_memory_mb": 0}, without.metrics() | {"peak_memory_mb": 0}
    needed = {"linear_probe_accuracy", "knn_accuracy", *SCORES}
    assert theirs == {name: value for name, value in ours.items() if name not in needed}
    assert without.monte_carlo_error().keys() == one.monte_carlo_error().keys() - set(SCORES)


def test_calibration_looks_at_training_images_alone(one: Measured) -> None:
    other = again(one, Images(IMAGES.train, torch.zeros_like(IMAGES.test)))
    assert other.calibration == one.calibration
    assert other.elbos.mse != one.elbos.mse


def test_what_is_slow_is_timed_and_computed_once_and_gives_the_same_numbers_again(one: Measured) -> None:
    ours, seconds = one.metrics(), dict(one.seconds)
    groups = "own calibration footing log_px log_px_threshold encoder_bound bdmc drift mutual_information"
    groups += " linear_probe knn samples"
    assert set(seconds) == {*groups.split()}
    assert one.metrics() | {"peak_memory_mb": 0} == ours | {"peak_memory_mb": 0}
    assert one.seconds == seconds
    assert again(one).metrics() | {"peak_memory_mb": 0} == ours | {"peak_memory_mb": 0}


def test_monte_carlo_errors_name_metrics_and_are_finite(one: Measured) -> None:
    errors = one.monte_carlo_error()
    assert set(errors) <= {metric.name for metric in METRICS}
    assert all(0 < error < 5 for error in errors.values())
    single = again(one, importance_samples=1)
    assert set(errors) - set(single.monte_carlo_error()) == {"iwae_bernoulli"}


def test_the_binarisation_is_one_for_all_seeds_and_k_is_the_runs(one: Measured) -> None:
    found = [again(one, seed=seed, importance_samples=k) for seed, k in ((0, 7), (1, 40))]
    binary, other = (each._binary for each in found)
    assert torch.equal(binary, other)
    grey = IMAGES.test / 255
    assert float((binary - grey).mean()) == pytest.approx(0, abs=0.01)
    assert not binary[grey == 0].any()
    assert binary[grey == 1].all()
    assert 1 <= found[0].encoder_bound.ess <= 7 + 1e-9
    assert found[0].encoder_bound.ess < found[1].encoder_bound.ess <= 40 + 1e-9


def test_speed_counts_the_images_that_were_trained_on() -> None:
    found = measured(a_run(batch_size=64, drop_last=True))  # 128 of 130
    assert found.train_seconds == found.training.seconds
    assert found.images_per_second * found.train_seconds == pytest.approx(2 * 128)


@pytest.mark.parametrize(("latent", "name", "posterior"), [(2, "mixture", "flow"), (3, "vamp", "gaussian")])
def test_under_a_learned_prior_what_is_about_the_standard_one_is_absent(
    latent: int, name: str, posterior: str
) -> None:
    if posterior == "flow":
        pytest.importorskip("zuko")
    run = a_run(latent=latent, prior=part(name, components=4), posterior=posterior,
                objective=part("iwae", samples=2), epochs=1)  # fmt: skip
    found = measured(run)
    values = found.metrics()
    absent = {"prior_divergence", "test_loss_nats", *({"annealed_ess", "bdmc_gap"} if latent == 2 else ())}
    assert {metric.name for metric in METRICS} - values.keys() == absent
    assert found.kl_per_unit() is None
    rate = values["aggregate_kl"] + values["mutual_information"]
    assert rate == pytest.approx(values["kl"], abs=0.5), "two estimates of the same KL"
    assert values["log_px_bernoulli"] > values["elbo_bernoulli"] - 1
    assert values["iwae_bernoulli"] > values["elbo_bernoulli"] - 1


class Sampled:
    """A posterior that can be sampled and has a density, and says no more of itself."""

    def __init__(self, q: Q) -> None:
        self.sample, self.log_prob = q.sample, q.log_prob


def test_a_posterior_is_measured_whatever_it_says_of_itself(one: Measured) -> None:
    """The diagonal Gaussian known by samples and density alone: its numbers are those in closed form."""
    model = copy.deepcopy(one.model)
    model.posterior = lambda *heads: Sampled(one.model.posterior(*heads))
    other = Measured(one.run, model, one.training, IMAGES, LABELS, one.reference)
    due, found, errors = one.metrics(), other.metrics(), other.monte_carlo_error()
    assert isinstance(other.q, Encoded)
    assert due.keys() == found.keys()
    assert other.kl_per_unit() is None
    torch.testing.assert_close(other.q.mean, one.q.mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(other.q.scale, one.q.scale, atol=0, rtol=0.2)
    within = {"log_px_bernoulli": 0.5, "log_px_threshold": 0.5, "gaussian_bits_per_dim": 0.01, "elbo": 0.5,
              "amortisation_gap": 1.0, "kl": 0.5, "aggregate_kl": 0.3, "prior_divergence": 0.02,
              "annealed_ess": 0.5, "bdmc_gap": 0.2, "peak_memory_mb": math.inf}  # fmt: skip
    for name, value in due.items():
        tolerance = max(6 * errors.get(name, 0) if name.startswith("elbo_") else 0, within.get(name, 1e-3))
        assert found[name] == pytest.approx(value, abs=tolerance, rel=1e-3), name


def test_prior_means_share_z_over_variants_of_one_latent_size() -> None:
    def latents(run: Run) -> list[torch.Tensor]:
        model, seen = build(run, SHAPE).eval(), []
        model.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        means = prior_means(model, run.seed, 23, chunk=7)
        assert means.shape == (23, 784)
        assert 0 <= means.min() <= means.max() <= 1
        return seen

    first, second = (latents(a_run(decoder=d)) for d in (part("mlp", hidden=[5]), "conv-bn"))
    assert [len(z) for z in first] == [7, 7, 7, 2]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], latents(a_run(seed=1))[0])
