"""The pictures of one run, drawn as it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from PIL import Image
from torch import Tensor

from bench.evaluation.posteriors import Posteriors, closed_kl
from bench.parts.priors import StandardNormal
from bench.parts.vae import VAE
from bench.pictures import grids
from bench.pictures.shown import epochs_shown
from bench.spec.experiment import Judged, Run
from bench.store.files import picture
from bench.store.records import RunFolder
from bench.store.tiles import COLUMNS

Emit = Callable[[str, dict[str, Any]], None]  # ("epoch", row) and ("image", {path, key, step}) as they happen
RECONSTRUCTED = 50  # test images, all classes in turn


class Album:
    """Draw and keep the pictures of a run, tell of each, and count the seconds they took.

    Of uint8 test images [N, H, W] or [N, H, W, 3] with labels [N], if they have any; `full` draws t-SNE too,
    which takes seconds.
    """

    def __init__(
        self,
        run: Run | Judged,
        test: Tensor,
        labels: Tensor | None,
        folder: RunFolder,
        emit: Emit,
        *,
        full: bool,
    ) -> None:
        self.run = run
        self.full = full
        self.test = test
        self.shape = tuple(test.shape[1:])
        self.labels = labels
        self.folder = folder
        self.emit = emit
        self.shown = epochs_shown(run.epochs)
        self.samples: dict[int, Image.Image] = {}
        self.seconds = 0.0

    def epoch(self, model: VAE, epoch: int) -> None:
        """Draw what the model makes of noise and of test images by now; leave it in the mode it came in."""
        if epoch in self.shown:
            self._draw(model, epoch)

    def _draw(self, model: VAE, epoch: int) -> None:
        started, was_training = time.perf_counter(), model.training
        model.eval()
        self.samples[epoch] = grids.samples(model, self.shape, self.run.seed)
        chosen = self._test(RECONSTRUCTED)
        drawn = {
            "samples": self.samples[epoch],
            "reconstructions": grids.reconstructions(model, chosen, self.run.seed),
        }
        for key, image in drawn.items():
            self._keep(key, image, _name(key, epoch), epoch)
        model.train(was_training)
        self.seconds += time.perf_counter() - started

    def take_up(self, epoch: int) -> None:
        """Go on after an epoch with the pictures drawn so far; raises OSError where one is lost."""
        for shown in sorted(e for e in self.shown if e <= epoch):
            for key in ("samples", "reconstructions"):
                path = self.folder.pictures / _name(key, shown)
                with picture(path, under=3) as image:
                    image.load()
                    if key == "samples":
                        self.samples[shown] = image.copy()
                self.emit("image", {"path": str(path), "key": key, "step": shown})

    def close(self, model: VAE, q: Posteriors, epoch: int) -> None:
        """Draw what is drawn once: of the trained model, in eval mode, and its posteriors of test images.

        It is the model after `epoch`, which has samples and reconstructions as the epochs shown have.
        """
        from bench.pictures import plots  # matplotlib and scikit-learn, where they are used

        if epoch not in self.samples:
            self._draw(model, epoch)
        started = time.perf_counter()
        nats, standard = closed_kl(q, model.prior), type(model.prior) is StandardNormal
        drawn = {
            "interpolations": grids.interpolations(model, self._test(COLUMNS)),
            "latent": plots.latent(q.mean, self.labels, standard=standard),
            "tsne": plots.tsne(q.mean, self.labels) if self.full else None,
            "kl": None if nats is None else plots.kl(nats, q.mean),
            "manifold": grids.manifold(model, self.shape) if self.run.latent == 2 else None,
        }
        for key, image in drawn.items():
            if image is not None:
                self._keep(key, image, f"{key}.png", self.run.epochs)
        if epoch:  # a model that was trained elsewhere is of epoch 0
            grids.progress(self.samples, self.folder.pictures / "progress.gif")
        self.seconds += time.perf_counter() - started

    def _test(self, count: int) -> Tensor:
        if self.labels is None:
            return self.test[:count]
        return self.test[grids.in_turns(self.labels, count).to(self.test.device)]

    def _keep(self, key: str, image: Image.Image, file: str, epoch: int) -> None:
        path = grids.save(image, self.folder.pictures / file)
        self.emit("image", {"path": str(path), "key": key, "step": epoch})


def _name(key: str, epoch: int) -> str:
    return f"{key}-epoch-{epoch:03d}.png"
