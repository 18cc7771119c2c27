"""Sample metrics on sets whose answer is known, and the classifier's cache."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from factory import a_dataset, random
from scipy.linalg import sqrtm

from bench.data.dataset import Dataset
from bench.data.datasets import load
from bench.engine.device import initialised
from bench.evaluation import samples
from bench.evaluation.samples import FeatureNet, Reference, frechet_distance, yardstick
from bench.runs.execute import SharedContext, environment

Array = np.ndarray
AS_THEY_ARE: Any = SimpleNamespace(features=lambda grey: grey, state_dict=dict)  # images are their features


def points(*values: float) -> Array:
    """Features on a line."""
    return np.stack([np.array(values), np.zeros(len(values))], 1)


def gaussians(count: int, features: int, seed: int) -> Array:
    """Features with a full covariance and a mean of their own."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((features, features))
    return rng.standard_normal((count, features)) @ mixing + rng.standard_normal(features)


def test_frechet_distance_with_full_covariances_by_a_matrix_square_root() -> None:
    a, b = gaussians(91, 7, 1), gaussians(53, 7, 2)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(sqrtm(cov_a @ cov_b))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected)
    assert frechet_distance(b, a) == pytest.approx(expected)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_where_a_covariance_is_singular() -> None:
    """Samples that are all alike, and features that no image excites."""
    a = gaussians(91, 7, 1)
    same = np.repeat(a[:1], 20, axis=0)
    expected = ((a.mean(0) - a[0]) ** 2).sum() + np.trace(np.cov(a, rowvar=False))
    assert frechet_distance(a, same) == pytest.approx(expected)
    dead = a.copy()
    dead[:, :3] = 0
    assert np.isfinite(frechet_distance(dead, a))


def test_density_recall_and_coverage_by_hand() -> None:
    """Seven points 0 to 6: radii to the fifth neighbour 5 4 3 3 3 4 5."""
    reference = Reference.of([AS_THEY_ARE], points(0, 1, 2, 3, 4, 5, 6))
    assert reference.radii[0].tolist() == pytest.approx([5, 4, 3, 3, 3, 4, 5])
    scores = reference.score(points(-3.5, -2.5, 8.5, 9.5))
    # −3.5 lies in the sphere of 0, −2.5 in those of 0 and 1, and so at the top: 6 of 5·4
    assert scores.density == pytest.approx(6 / 20)
    # Their own third neighbours: 13, 12, 12 and 13 away, which reaches everything
    assert scores.recall == 1
    assert scores.coverage == pytest.approx(4 / 7)


def test_samples_from_the_data_from_elsewhere_from_one_image_and_from_half_of_the_modes() -> None:
    real = gaussians(60, 3, 1)
    reference = Reference.of([AS_THEY_ARE], real)
    same, away = reference.score(real), reference.score(real + 1000)
    assert (same.recall, same.coverage) == (1, 1)
    assert same.frechet_distance == pytest.approx(0, abs=1e-6)
    assert (away.density, away.recall, away.coverage) == (0, 0, 0)
    assert away.frechet_distance == pytest.approx(3 * 1000**2, rel=1e-6)
    one = reference.score(np.repeat(real[:1] + 1e-9, 50, axis=0))  # one good image again and again
    assert one.recall <= 1 / 60
    assert one.coverage < 0.5
    left, right = gaussians(40, 3, 1), gaussians(40, 3, 2) + 500
    half = Reference.of([AS_THEY_ARE], np.concatenate([left, right])).score(left)
    assert (half.recall, half.coverage) == (0.5, 0.5)


def test_density_is_one_for_samples_of_the_same_distribution_in_any_order() -> None:
    rng = np.random.default_rng(0)
    found = [
        Reference.of([AS_THEY_ARE], rng.standard_normal((300, 3)))
        .score(rng.standard_normal((200, 3)))
        .density
        for _ in range(30)
    ]
    assert abs(np.mean(found) - 1) < 3 * np.std(found, ddof=1) / np.sqrt(30)
    a, b = gaussians(91, 3, 1), 0.7 * gaussians(53, 3, 1)
    assert astuple(Reference.of([AS_THEY_ARE], a[::-1]).score(b[::-1]))[:4] == pytest.approx(
        astuple(Reference.of([AS_THEY_ARE], a).score(b))[:4]
    )


def test_frechet_distance_is_the_geometric_mean_over_networks_and_shares_the_plain_one() -> None:
    """A network whose features are twice as large has four times the distance, and the same neighbours."""
    twice: Any = SimpleNamespace(features=lambda grey: 2 * grey, state_dict=dict)
    a, b = gaussians(91, 3, 1), 0.7 * gaussians(53, 3, 1)
    one, both = (Reference.of(nets, a).score(b) for nets in ([AS_THEY_ARE], [AS_THEY_ARE, twice]))
    assert both.frechet_distance == pytest.approx(2 * one.frechet_distance)
    assert both.errors["frechet_distance"] == pytest.approx(both.frechet_distance * np.log(2))
    assert (both.density, both.coverage, both.recall) == (one.density, one.coverage, one.recall)
    assert both.errors["density"] == both.errors["recall"] == 0


def test_neighbours_by_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "NEIGHBOURHOOD", 37)
    all_real, all_fake = gaussians(60, 3, 1), 0.7 * gaussians(45, 3, 1)
    scores = Reference.of([AS_THEY_ARE], all_real).score(all_fake)
    real, fake = all_real[:37], all_fake[:37]

    def inside(x: Array, centres: Array, k: int) -> int:
        """Count the spheres, each to its centre's k-th neighbour, that x is in; the nearest is itself."""
        radii = [sorted(np.linalg.norm(centres - c, axis=1))[k] for c in centres]
        return int(sum(np.linalg.norm(x - c) <= r for c, r in zip(centres, radii, strict=True)))

    assert scores.density == pytest.approx(np.mean([inside(x, real, 5) for x in fake]) / 5)
    assert scores.recall == pytest.approx(np.mean([inside(x, fake, 3) > 0 for x in real]))
    radii = [sorted(np.linalg.norm(real - x, axis=1))[5] for x in real]
    covered = [min(np.linalg.norm(fake - x, axis=1)) <= r for x, r in zip(real, radii, strict=True)]
    assert scores.coverage == pytest.approx(np.mean(covered))


# The classifier


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The data sets that a classifier was trained for, by a training of no steps."""
    seen: list[str] = []

    def untrained(data: Dataset, seed: int) -> FeatureNet:
        seen.append(f"{data.digest} {seed}")
        with initialised(seed):
            return FeatureNet(data.shape, data.classes)

    monkeypatch.setattr(samples, "_train", untrained)
    return seen


def made(data: Dataset, cache: Path) -> Reference:
    """The yardstick of data with labels."""
    reference = Reference.of_data(data, cache)
    assert reference
    return reference


@pytest.mark.parametrize(
    ("shape", "classes"), [((5, 19), 3), ((16, 16), 10), ((28, 28), 10), ((41, 33), 1), ((9, 32, 3), 2)]
)
def test_the_classifier_takes_images_of_any_size_and_any_number_of_classes(
    shape: tuple[int, ...], classes: int
) -> None:
    net = FeatureNet(shape, classes)
    images = random(11, *shape).flatten(1)
    assert net(images).shape == (11, classes)
    features = net.features(images)
    assert features.shape == (11, samples.FEATURES)
    assert features.dtype == np.float64


def test_the_classifiers_are_trained_once_for_each_data_set(tmp_path: Path, trainings: list[str]) -> None:
    data, other = a_dataset(), a_dataset(seed=5)
    first, again = made(data, tmp_path), made(data, tmp_path)
    assert trainings == [f"{data.digest} {seed}" for seed in range(3)]
    assert (first.digest, first.accuracy(data)) == (again.digest, again.accuracy(data))
    assert all(torch.equal(a.head.weight, b.head.weight) for a, b in zip(first.nets, again.nets, strict=True))
    assert not torch.equal(first.nets[0].head.weight, first.nets[1].head.weight)
    assert not any(net.training for net in first.nets)
    made(other, tmp_path)
    assert len(trainings) == 6
    assert len(list(tmp_path.iterdir())) == 6  # and no half-written file


def test_the_classifiers_of_digits_ship(tmp_path: Path, trainings: list[str]) -> None:
    """Other weights are another yardstick, and every Fréchet distance measured so far of an older one."""
    digits = load("digits")
    reference = made(digits, tmp_path)
    assert not trainings
    assert not [*tmp_path.iterdir()]
    assert reference.accuracy(digits) > 0.97
    assert reference.digest == "5f33e24a11b035d1"


@pytest.mark.parametrize("damage", ["cut short", "rubbish", "another design"])
def test_a_damaged_cache_is_trained_anew(tmp_path: Path, trainings: list[str], damage: str) -> None:
    data = a_dataset()
    digest = made(data, tmp_path).digest
    path = min(tmp_path.iterdir())
    if damage == "another design":
        samples.save_file({"head.weight": torch.zeros(3)}, path)
    else:
        path.write_bytes(path.read_bytes()[:1000] if damage == "cut short" else b"\xff" * 99)
    for _ in range(2):
        assert made(data, tmp_path).digest == digest
        assert len(trainings) == 4


def test_the_classifiers_follow_images_to_their_device_and_keep_their_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The device without memory stands in for an accelerator; what comes back from one is a stand-in too."""
    data = a_dataset()
    grey = data.test_images.flatten(1).float() / 255
    net = FeatureNet(data.shape, data.classes).eval()
    reference = Reference.of([net], grey)
    shared = SharedContext(data, torch.device("cpu"), reference)
    name = environment(shared)["feature_networks"]
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "cpu", lambda there: torch.zeros(there.shape))
        assert net.features(grey.to("meta")).shape == (len(grey), samples.FEATURES)
    assert {value.device.type for value in net.state_dict().values()} == {"meta"}
    assert environment(shared)["feature_networks"] == name == reference.digest


def test_training_learns_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = a_dataset()
    monkeypatch.setattr(samples, "BATCH", 10)
    net = samples._train(data)
    assert net.accuracy(data.test_images.flatten(1), data.test_labels) > 0.95


def test_the_floor_is_below_both_noises() -> None:
    """Training images are nearer to test images than either noise is."""
    data = a_dataset()
    with initialised(0):
        net = FeatureNet(data.shape, data.classes).eval()
    reference = Reference.of([net], data.test_images.flatten(1).float() / 255)
    found = yardstick(data, reference)
    assert set(found) == {"floor", "ceiling", "grey"}
    for noise in (found["ceiling"], found["grey"]):
        assert found["floor"].frechet_distance < noise.frechet_distance
        assert found["floor"].coverage > noise.coverage
