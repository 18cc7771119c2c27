"""Samples judged in the features of one small classifier, trained once for each data set by bench itself.

Absolute values depend on that network, so the report shows the floor (training images against test images)
and a ceiling (samples of the pixel-mean model) beside them. Shapes: N real and M generated images, F
features.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sklearn.metrics import pairwise_distances
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.data.datasets import Dataset, cache_dir
from bench.engine.device import initialised, stream

FEATURES = 64
VERSION = 1  # of the classifier's design and training: part of its cache's name
NEIGHBOURHOOD = 5000  # images a side whose neighbours are searched: 25 million distances
Features = NDArray[np.float64]


@dataclass(frozen=True)
class SampleScores:
    """How a set of generated images stands to the test images."""

    frechet_distance: float
    precision: float
    recall: float
    coverage: float


class FeatureNet(nn.Module):
    """A convolutional digit classifier; its last hidden layer is the feature space."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(512, FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, 10)

    def forward(self, grey: Tensor) -> Tensor:
        """Class logits [N, 10] of grey images [N, D] in [0, 1]."""
        return self.head(self.body(grey.view(-1, 1, 28, 28)))  # type: ignore[no-any-return]

    @torch.no_grad()
    def features(self, grey: Tensor) -> Features:
        """Features [N, F] of grey images [N, D], in chunks."""
        return torch.cat([self.body(x.view(-1, 1, 28, 28)) for x in grey.split(1000)]).cpu().double().numpy()

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """The share of uint8 images [N, D] whose label it names."""
        hits = sum(
            int((self(x.float() / 255).argmax(1) == y).sum().item())
            for x, y in zip(images.split(1000), labels.split(1000), strict=True)
        )
        return hits / len(images)


def classifier(data: Dataset, cache: Path | None = None) -> tuple[FeatureNet, float, str]:
    """The data set's classifier, its test accuracy and the digest of its weights.

    Trained on the CPU if not cached.
    """
    path = (cache or cache_dir()) / f"features-{data.digest[:16]}-v{VERSION}.safetensors"
    net = FeatureNet()
    try:
        net.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError):  # absent, cut short, or of another design: train it anew
        net = _train(data)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        save_file(net.state_dict(), part)
        part.replace(path)
    net.eval()
    digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in net.state_dict().values())).hexdigest()
    return net, net.accuracy(data.test_images.flatten(1), data.test_labels), digest[:16]


def _train(data: Dataset, batch: int = 128) -> FeatureNet:
    """Adam with the one-cycle schedule (Smith 2018), enough epochs for some 400 steps and at least three."""
    images, labels = data.train_images.flatten(1), data.train_labels
    steps = -(-len(images) // batch)
    epochs = max(3, -(-400 // steps))
    with initialised(0):
        net = FeatureNet()
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=epochs * steps)
    for epoch in range(epochs):
        for index in torch.randperm(len(images), generator=stream(0, "classifier", epoch)).split(batch):
            loss = cross_entropy(net(images[index].float() / 255), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net


@dataclass(frozen=True)
class Reference:
    """The test images' features, and the neighbourhoods that every variant is held against."""

    features: Features  # [N, F]
    radius_3: NDArray[np.float64]  # [N'], distance to the third neighbour, of the first NEIGHBOURHOOD images
    radius_5: NDArray[np.float64]

    @classmethod
    def of(cls, features: Features) -> Reference:
        """Neighbourhoods of features [N, F]."""
        distances = np.sort(pairwise_distances(features[:NEIGHBOURHOOD]), axis=1)[:, :6]
        return cls(features, distances[:, 3], distances[:, 5])  # column 0 is the image itself

    def score(self, generated: Features) -> SampleScores:
        """Scores of generated images' features [M, F] against these."""
        real, fake = self.features[:NEIGHBOURHOOD], generated[:NEIGHBOURHOOD]
        across = pairwise_distances(real, fake)  # [N', M']
        own = np.partition(pairwise_distances(fake), 3, axis=1)[:, 3]
        return SampleScores(
            frechet_distance=frechet_distance(self.features, generated),
            precision=float((across <= self.radius_3[:, None]).any(0).mean()),
            recall=float((across <= own[None, :]).any(1).mean()),
            coverage=float((across.min(1) <= self.radius_5).mean()),
        )


def frechet_distance(a: Features, b: Features) -> float:
    """‖μ_a − μ_b‖² + Tr(Σ_a + Σ_b − 2(Σ_a Σ_b)^½), of features [N, F] and [M, F].

    Heusel et al. 2017, eq. 6.
    """
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The trace of (Σ_a Σ_b)^½ is the sum of the roots of the product's eigenvalues: real, not negative
    root = np.sqrt(np.clip(np.linalg.eigvals(cov_a @ cov_b).real, 0, None)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root)


def yardstick(data: Dataset, net: FeatureNet, reference: Reference) -> dict[str, SampleScores]:
    """The floor (training images) and a ceiling (samples of the pixel-mean model) for the sample metrics."""
    count = len(data.test_images)
    train = data.train_images.flatten(1).float() / 255
    pick = torch.randperm(len(train), generator=stream(0, "floor"))[:count]
    noise = torch.rand(count, train.shape[1], generator=stream(0, "ceiling"))
    return {
        "floor": reference.score(net.features(train[pick])),
        "ceiling": reference.score(net.features((noise < train.mean(0)).float())),
    }
