"""Every metric of the table on a small trained run, and some of them computed directly."""

from __future__ import annotations

import math

import pytest
import torch
from factory import a_dataset, a_run, part

from bench.engine.device import initialised, stream
from bench.engine.images import Images, Labels
from bench.engine.train import evaluation_noise, train
from bench.evaluation import measure as evaluate
from bench.evaluation.measure import Measured, encode, prior_means
from bench.evaluation.metrics import METRICS
from bench.evaluation.samples import FeatureNet, Reference
from bench.parts.vae import VAE, build
from bench.spec.experiment import Run

DATA = a_dataset()
IMAGES = Images(DATA.train_images.flatten(1), DATA.test_images.flatten(1))


def measured(run: Run) -> Measured:
    """A run trained and ready to be measured, in the features of an untrained classifier."""
    with initialised(run.seed):
        model = build(run)
    training = train(run, model, IMAGES, lambda row, model: None)
    with initialised(0):
        net = FeatureNet((28, 28), 10).eval()
    reference = Reference.of(net.features(IMAGES.test.float() / 255))
    return Measured(run, model, training, IMAGES, Labels(DATA.train_labels, DATA.test_labels), net, reference)


@pytest.fixture(scope="module")
def one() -> Measured:
    """The plainest run."""
    return measured(a_run(batch_size=32))


@pytest.mark.parametrize(
    "run",
    [
        a_run(batch_size=32),
        a_run(posterior="gaussian-raw-sigma", likelihood=part("bernoulli", form="probabilities", eps=1e-20)),
        a_run(
            encoder="conv-bn",
            decoder="conv-bn",
            drop_last=True,
            objective=part("elbo", beta=0.1, reconstruction="mean", kl="mean"),
        ),
        a_run(
            input="normalised",
            target="normalised",
            likelihood=part("gaussian", mean="linear"),
            objective=part("elbo", beta=32 / 784),
        ),
        a_run(likelihood="gaussian-learned", target="threshold", latent=1),
        a_run(likelihood="continuous-bernoulli", encoder="linear", latent=2),
    ],
    ids=["plain", "000", "002", "004", "learned", "continuous"],
)
def test_every_metric_is_finite(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "PRIOR_SAMPLES", 50)
    measure = measured(run)
    values = measure.metrics()
    assert list(values) == [metric.name for metric in METRICS]
    assert all(type(value) is float and math.isfinite(value) for value in values.values())
    kl_per_unit = measure.kl_per_unit()
    assert len(kl_per_unit) == run.latent
    assert sum(kl_per_unit) == pytest.approx(values["kl"], rel=1e-4)
    assert values["aggregate_kl"] + values["mutual_information"] == pytest.approx(values["kl"], rel=1e-4)
    assert -0.5 < values["mutual_information"] <= math.log(len(DATA.test_images)) + 1e-9
    assert all(0 <= values[name] <= 1 for name in ("precision", "recall", "coverage", "knn_accuracy"))


def test_own_terms_are_the_last_row_of_the_curves(one: Measured) -> None:
    values, last = one.metrics(), one.training.curves[-1]
    for name in ("test_loss", "test_loss_nats", "elbo", "reconstruction", "kl"):
        assert values[name] == pytest.approx(last[name])


@torch.no_grad()
def test_metrics_agree_with_direct_computation(one: Measured) -> None:
    model, q = one.model, one.q
    noise = torch.randn(8, len(DATA.test_images), 3, generator=stream(0, "expectation"))
    mean = model.grey_mean(model.decode(q.sample(noise)))
    values = one.metrics()
    assert values["mse"] == pytest.approx(float(((IMAGES.test / 255 - mean) ** 2).mean()), rel=1e-5)
    active = (model.encoder(IMAGES.test.float() / 255)[0].var(0) > 0.01).sum()
    assert values["active_units"] == int(active)
    assert values["parameters"] == sum(p.numel() for p in model.parameters())
    assert values["train_seconds"] == pytest.approx(one.training.seconds)


def test_calibration_looks_at_training_images_alone(one: Measured) -> None:
    first = one.calibration
    blank = Images(IMAGES.train, torch.zeros_like(IMAGES.test))
    labels = Labels(DATA.train_labels, DATA.test_labels)
    other = Measured(one.run, one.model, one.training, blank, labels, one.net, one.reference)
    assert other.calibration == first
    assert other.elbos.mse != one.elbos.mse


def test_each_group_is_timed_and_computed_once(one: Measured) -> None:
    one.metrics()
    seconds = dict(one.seconds)
    assert {"own", "calibration", "footing", "log_px", "mutual_information", "samples"} <= set(seconds)
    assert {"linear_probe", "knn"} <= set(seconds)
    one.metrics()
    assert one.seconds == seconds


def test_monte_carlo_errors_name_metrics_and_are_finite(one: Measured) -> None:
    errors = one.monte_carlo_error()
    assert set(errors) <= {metric.name for metric in METRICS}
    assert len(errors) == 4
    assert all(0 < error < 1 for error in errors.values())
    single = Measured(
        one.run.model_copy(update={"importance_samples": 1}),
        one.model,
        one.training,
        one.images,
        one.labels,
        one.net,
        one.reference,
    )
    assert set(single.monte_carlo_error()) == {"elbo_bernoulli", "elbo_gaussian"}


def test_the_same_model_measured_again_gives_the_same_numbers(one: Measured) -> None:
    again = Measured(
        one.run, one.model, one.training, one.images, one.labels, one.net, one.reference
    ).metrics()
    ours = one.metrics()
    for name in set(again) - {"peak_memory_mb"}:
        assert again[name] == ours[name], name


def test_the_binarisation_is_one_for_all_seeds_and_k_is_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, torch.Tensor]] = []
    true = evaluate.footing.log_px

    def spy(model: VAE, q: object, images: object, k: int, *rest: object) -> object:
        seen.append((k, rest[-1]))  # type: ignore[arg-type]
        return true(model, q, images, k, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluate.footing, "log_px", spy)
    for seed in (0, 1):
        assert measured(a_run(seed=seed, importance_samples=7)).log_px
    (k, binary), (_, other) = seen
    assert k == 7
    assert torch.equal(binary, other)
    grey = IMAGES.test / 255
    assert float((binary.float() - grey).mean()) == pytest.approx(0, abs=0.01)
    assert not binary[grey == 0].any()
    assert binary[grey == 1].all()


def test_speed_counts_the_images_that_were_trained_on() -> None:
    run = a_run(batch_size=64, drop_last=True)  # 128 of 130
    measure = measured(run)
    assert measure.images_per_second * measure.train_seconds == pytest.approx(2 * 128)


def test_posteriors_in_chunks(one: Measured) -> None:
    q = encode(one.model, IMAGES.test, chunk=7)
    for name in ("mean", "scale", "log_scale", "charged_kl"):
        torch.testing.assert_close(getattr(q, name), getattr(one.q, name))
    noise = evaluation_noise(0, 70, 3, torch.device("cpu"))
    assert q.sample(noise).shape == (70, 3)


def test_prior_means_share_z_over_variants_of_one_latent_size() -> None:
    def latents(run: Run) -> list[torch.Tensor]:
        model, seen = build(run).eval(), []
        model.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        means = prior_means(model, run.seed, 23, chunk=7)
        assert means.shape == (23, 784)
        assert 0 <= means.min() <= means.max() <= 1
        return seen

    first, second = (latents(a_run(decoder=d)) for d in (part("mlp", hidden=[5]), "conv-bn"))
    assert [len(z) for z in first] == [7, 7, 7, 2]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], latents(a_run(seed=1))[0])
