"""Samples judged in the features of three small classifiers of the data set.

Absolute values depend on those networks: trained on two machines, the same seeds gave Fréchet distances 2 %
apart. So those of MNIST and digits ship with bench, and of other data they are trained once, here. A record
says which networks scored it, and the report shows a floor and two noises beside the values.
Shapes: N real and M generated images, D pixels, F features.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from bench.data.dataset import Dataset
from bench.data.fetch import cache_dir
from bench.engine.device import initialised, stream
from bench.parts.networks import planes
from bench.store.whole import replacing

FEATURES = 64
SMALLEST = 16  # pixels a side that the two convolutions and poolings need
VERSION = 1  # of the classifier's design and training: part of its file's name
SHIPPED = Path(__file__).parent / "features"
NETWORKS = 3  # of seeds 0 to 2, which differ in their first weights and the order of their images
BATCH = 128  # images a step of training one
ROWS = 200  # images whose features are computed at a time: what the layers hold of more leaves the cache
NEIGHBOURS = 5  # whose distance is a test image's radius (Naeem et al. 2020, section 4)
NEIGHBOURHOOD = 5000  # images a side whose neighbours are searched: 25 million distances
TINY = 1e-12  # a Fréchet distance of equal sets is 0 but for rounding, and has a logarithm so
SCORES = ("frechet_distance", "density", "coverage", "recall")
Features = NDArray[np.float64]


@dataclass(frozen=True)
class SampleScores:
    """Say how close generated images are to the test images, as METRICS describes it.

    Each is the mean over the networks, of the Fréchet distance the geometric one, since networks differ in
    the scale of their features; `errors` are the standard errors that the choice of networks leaves.
    """

    frechet_distance: float
    density: float
    coverage: float
    recall: float
    errors: dict[str, float]


NOT_SCORED = SampleScores(*(math.nan,) * 4, errors={})  # without labels there are no feature networks


class FeatureNet(nn.Module):
    """A convolutional classifier of images [H, W] or [H, W, C]; its last hidden layer is the feature space.

    Images smaller than SMALLEST pixels a side are padded with black on their right and below.
    """

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        height, width = self.sides = [max(side, SMALLEST) for side in shape[:2]]
        self.body = nn.Sequential(
            nn.Conv2d(shape[2] if len(shape) > 2 else 1, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * _pooled(height) * _pooled(width), FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, classes)
        self.to(memory_format=torch.channels_last)  # features in less than half the time

    def forward(self, grey: Tensor) -> Tensor:
        """Give class logits [N, classes] of grey images [N, D] in [0, 1]."""
        return self.head(self._hidden(grey))  # type: ignore[no-any-return]

    @torch.no_grad()
    def features(self, grey: Tensor) -> Features:
        """Give the features [N, F] of grey images [N, D], in chunks, on the images' device."""
        self.to(grey.device)
        return torch.cat([self._hidden(x) for x in grey.split(ROWS)]).cpu().double().numpy()

    def _hidden(self, grey: Tensor) -> Tensor:
        height, width, *_ = self.shape
        rows, columns = self.sides
        images = pad(planes(grey, self.shape), (0, columns - width, 0, rows - height))
        return self.body(images)  # type: ignore[no-any-return]

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Give the share of uint8 images [N, D] whose label it names."""
        hits = sum(
            int((self(x.float() / 255).argmax(1) == y).sum().item())
            for x, y in zip(images.split(ROWS), labels.split(ROWS), strict=True)
        )
        return hits / len(images)


def _classifier(data: Dataset, seed: int, cache: Path) -> FeatureNet:
    """Load one classifier, or train it and put it into the cache."""
    net = FeatureNet(data.shape, data.classes)
    shipped, kept = _places(data, seed, cache)
    for path in (shipped, kept):
        # Absent, cut short, or of another design: train it anew
        with suppress(OSError, SafetensorError, RuntimeError):
            net.load_state_dict(load_file(path))
            return net.eval()
    net = _train(data, seed)
    with replacing(kept) as part:
        save_file({name: value.contiguous() for name, value in net.state_dict().items()}, part)
    return net.eval()


def _places(data: Dataset, seed: int, cache: Path) -> tuple[Path, Path]:
    """Say where one classifier may be: shipped, or in the cache."""
    name = f"{data.digest[:16]}-v{VERSION}" + (f"-s{seed}" if seed else "") + ".safetensors"
    return SHIPPED / name, cache / f"features-{name}"


def untrained_steps(data: Dataset) -> int:
    """Count the steps of training that classifiers of a data set with labels still need."""
    found = (any(map(Path.is_file, _places(data, seed, cache_dir()))) for seed in range(NETWORKS))
    return (NETWORKS - sum(found)) * math.prod(_lengths(len(data.train_images)))


def _lengths(images: int) -> tuple[int, int]:
    """Give the epochs of training a classifier, three or more, and the steps of one: 400 or more in all."""
    steps = -(-images // BATCH)
    return max(3, -(-400 // steps)), steps


def _pooled(side: int) -> int:
    """Give how many pixels remain of a side after both convolutions and poolings."""
    return ((side - 4) // 2 - 4) // 2


def _train(data: Dataset, seed: int = 0) -> FeatureNet:
    """Train by Adam with the one-cycle schedule (Smith 2018), for at least 400 steps and three epochs."""
    images, labels = data.train_images.flatten(1), data.train_labels
    assert labels is not None  # noqa: S101  `Reference.of_data` has asked
    epochs, steps = _lengths(len(images))
    with initialised(seed):
        net = FeatureNet(data.shape, data.classes)
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=epochs * steps)
    for epoch in range(epochs):
        for index in torch.randperm(len(images), generator=stream(seed, "classifier", epoch)).split(BATCH):
            loss = cross_entropy(net(images[index].float() / 255), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net


@dataclass(frozen=True)
class Reference:
    """Hold the classifiers and what they make of the test images, which generated images are held against."""

    nets: tuple[FeatureNet, ...]
    features: tuple[Features, ...]  # [N, F] in each network
    radii: tuple[NDArray[np.float64], ...]  # [N'], to the fifth neighbour, of the first NEIGHBOURHOOD images
    digest: str  # of the networks' weights, taken before they follow images to another device

    @classmethod
    def of_data(cls, data: Dataset, cache: Path | None = None) -> Reference | None:
        """Make the yardstick of a data set, on the CPU; None without labels to train classifiers on.

        These are trained unless they ship with bench or are in the cache.
        """
        if data.train_labels is None or data.test_labels is None:
            return None
        nets = [_classifier(data, seed, cache or cache_dir()) for seed in range(NETWORKS)]
        return cls.of(nets, data.test_images.flatten(1).float() / 255)

    @classmethod
    def of(cls, nets: Sequence[FeatureNet], grey: Tensor) -> Reference:
        """Search the neighbourhoods of grey images [N, D] in each classifier's features."""
        weights = b"".join(value.numpy().tobytes() for net in nets for value in net.state_dict().values())
        features = tuple(net.features(grey) for net in nets)
        # An image is its own nearest
        radii = tuple(_nearest(f[:NEIGHBOURHOOD], NEIGHBOURS + 1) for f in features)
        return cls(tuple(nets), features, radii, hashlib.sha256(weights).hexdigest()[:16])

    def accuracy(self, data: Dataset) -> float:
        """Give the classifiers' mean accuracy on the test images of a data set with labels."""
        assert data.test_labels is not None  # noqa: S101  `of_data` has asked
        test = data.test_images.flatten(1)
        return sum(net.accuracy(test, data.test_labels) for net in self.nets) / len(self.nets)

    def score(self, grey: Tensor) -> SampleScores:
        """Score generated grey images [M, D] against these."""
        pairs = zip(self.nets, self.features, self.radii, strict=True)
        rows = np.array([_scores(real, net.features(grey), radii) for net, real, radii in pairs])  # [nets, 4]
        rows[:, 0] = np.log(np.clip(rows[:, 0], TINY, None))
        mean = rows.mean(0)
        mean[0] = np.exp(mean[0])
        errors = {}
        if len(rows) > 1:
            spread = rows.std(0, ddof=1) / math.sqrt(len(rows)) * [mean[0], 1, 1, 1]  # of ln d, times d
            errors = dict(zip(SCORES, spread.tolist(), strict=True))
        return SampleScores(**dict(zip(SCORES, mean.tolist(), strict=True)), errors=errors)


def _scores(real: Features, fake: Features, radii: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Give Fréchet distance, density, coverage and recall of features [M, F] against those of test images."""
    distance = frechet_distance(real, fake)
    real, fake = real[:NEIGHBOURHOOD], fake[:NEIGHBOURHOOD]
    across = _distances(real, fake).numpy()  # [N', M']
    inside = across <= radii[:, None]
    own = _nearest(fake, 4)
    density = inside.sum() / (NEIGHBOURS * len(fake))
    return distance, float(density), float(inside.any(1).mean()), float((across <= own).any(1).mean())


def _nearest(features: Features, k: int) -> NDArray[np.float64]:
    """Give the distance of each of features [M, F] to the k-th nearest of them, itself the first: [M]."""
    near = _distances(features, features).fill_diagonal_(0).topk(k, largest=False).values
    return near[:, -1].numpy()


def _distances(a: Features, b: Features) -> Tensor:
    """Compute the distances of features [N, F] to others [M, F]: [N, M]."""
    one, other = (torch.from_numpy(np.ascontiguousarray(each)) for each in (a, b))
    return torch.cdist(one, other)


def frechet_distance(a: Features, b: Features) -> float:
    """Give ‖μ_a − μ_b‖² + Tr(Σ_a + Σ_b − 2(Σ_a Σ_b)^½) of features [N, F] and [M, F] (Heusel et al. 2017)."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The trace of (Σ_a Σ_b)^½ is the sum of the roots of the product's eigenvalues: real, not negative
    root = np.sqrt(np.clip(np.linalg.eigvals(cov_a @ cov_b).real, 0, None)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root)


def yardstick(data: Dataset, reference: Reference) -> dict[str, SampleScores]:
    """Score training images (the floor) and two noises: pixel means drawn black or white, and as grey."""
    count = len(data.test_images)
    train = data.train_images.flatten(1).float() / 255
    pick = torch.randperm(len(train), generator=stream(0, "floor"))[:count]
    noise = torch.rand(count, train.shape[1], generator=stream(0, "ceiling"))
    mean = train.mean(0)
    return {
        "floor": reference.score(train[pick]),
        "ceiling": reference.score((noise < mean).float()),
        "grey": reference.score(mean.expand(count, -1)),
    }
