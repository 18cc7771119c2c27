"""The pictures of one run, drawn as it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from PIL import Image
from torch import Tensor

from bench.parts.posteriors import Q
from bench.parts.vae import VAE
from bench.pictures import grids as pictures
from bench.pictures import plots
from bench.spec.experiment import Run
from bench.store.records import RunFolder

Emit = Callable[[str, dict[str, Any]], None]  # ("epoch", row) and ("image", {path, key, step}) as they happen


class Album:
    """Draws, keeps and tells of the pictures of a run, and counts the seconds they took.

    Of uint8 test images [N, D] with labels [N]; `full` draws what takes seconds too: t-SNE.
    """

    def __init__(
        self, run: Run, test: Tensor, labels: Tensor, folder: RunFolder, emit: Emit, *, full: bool
    ) -> None:
        self.run = run
        self.full = full
        self.test = test
        self.labels = labels
        self.folder = folder
        self.emit = emit
        self.shown = pictures.epochs_shown(run.epochs)
        self.samples: dict[int, Image.Image] = {}
        self.seconds = 0.0

    def epoch(self, model: VAE, epoch: int) -> None:
        """What the model makes of noise and of test images by now."""
        if epoch not in self.shown:
            return
        started = time.perf_counter()
        self.samples[epoch] = pictures.samples(model, self.run.seed)
        reconstructions = pictures.reconstructions(model, self.test, self.labels, self.run.seed)
        for key, image in {"samples": self.samples[epoch], "reconstructions": reconstructions}.items():
            self._keep(key, image, _name(key, epoch), epoch)
        self.seconds += time.perf_counter() - started

    def take_up(self, epoch: int) -> None:
        """Go on after an epoch with the pictures drawn so far; raises OSError where one is lost."""
        for shown in sorted(e for e in self.shown if e <= epoch):
            for key in ("samples", "reconstructions"):
                path = self.folder.pictures / _name(key, shown)
                with Image.open(path) as image:
                    image.load()
                    if key == "samples":
                        self.samples[shown] = image.copy()
                self.emit("image", {"path": str(path), "key": key, "step": shown})

    def close(self, model: VAE, q: Q) -> None:
        """What is drawn once, of the trained model and its posteriors of the test images."""
        started = time.perf_counter()
        drawn = {
            "interpolations": pictures.interpolations(model, self.test, self.labels),
            "latent": plots.latent(q.mean, self.labels),
            "tsne": plots.tsne(q.mean, self.labels) if self.full else None,
            "kl": plots.kl(q),
            "manifold": pictures.manifold(model) if self.run.latent == 2 else None,
        }
        for key, image in drawn.items():
            if image is not None:
                self._keep(key, image, f"{key}.png", self.run.epochs)
        pictures.progress(self.samples, self.folder.pictures / "progress.gif")
        self.seconds += time.perf_counter() - started

    def _keep(self, key: str, image: Image.Image, file: str, epoch: int) -> None:
        path = pictures.save(image, self.folder.pictures / file)
        self.emit("image", {"path": str(path), "key": key, "step": epoch})


def _name(key: str, epoch: int) -> str:
    return f"{key}-epoch-{epoch:03d}.png"
