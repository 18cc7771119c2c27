"""Two more loops beside the usual one, on its networks, losses and optimizer: `make speed` times them too.

`TrainerLoop` is written as Lightning asks for it, less Lightning: a module with `training_step` and
`configure_optimizers`, a trainer that knows neither, a DataLoader over images that are tensors already. No
loss is read inside an epoch. `PythaeLoop` is the trainer of pythae (Chadebec et al. 2022), where it is
installed: `pip install pythae`. Its squared error weighs half of ours; the work is the same.

Shapes: N images, B images a batch.
"""

from __future__ import annotations

import logging
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.usual_loop import MODELS, NORMALISED, loss_function


def prepared(name: str, images: Tensor) -> Tensor:
    """Bring uint8 images [N, 28, 28] to what the network is shown, [N, 1, 28, 28]."""
    x = images.unsqueeze(1).float() / 255
    return (x - 0.1307) / 0.3081 if name in NORMALISED else x


class Module(nn.Module):
    """What a user of Lightning writes."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.model = MODELS[name]()
        self.logged: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Compute the loss of a batch of images and labels, and log it."""
        x, _ = batch
        out, mean, log_variance = self.model(x)
        loss = loss_function(self.name, out, x, mean, log_variance)
        self.logged.append(loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class TrainerLoop:
    """What Lightning's trainer does with it: the optimizer is given the step as a closure."""

    def __init__(self, name: str, images: Tensor, labels: Tensor, batch_size: int, device: str) -> None:
        self.device = device
        dataset = TensorDataset(prepared(name, images), labels)
        self.loader = DataLoader(dataset, batch_size=batch_size, shuffle=True)
        self.module = Module(name).to(device)
        self.optimizer = self.module.configure_optimizers()

    def train(self, steps: int) -> float:
        """Train for so many steps, epoch after epoch; returns the mean of the steps' losses."""
        self.module.train()
        self.module.logged.clear()
        while len(self.module.logged) < steps:
            for images, labels in self.loader:
                batch = images.to(self.device), labels.to(self.device)

                def closure(batch: tuple[Tensor, Tensor] = batch) -> Tensor:
                    loss = self.module.training_step(batch)
                    self.optimizer.zero_grad()
                    loss.backward()
                    return loss

                self.optimizer.step(closure)
                if len(self.module.logged) == steps:
                    break
        return float(torch.stack(self.module.logged).mean())


class PythaeLoop:
    """Training by pythae's `BaseTrainer`, epoch by epoch, as its `train` does; nothing is saved."""

    def __init__(self, name: str, images: Tensor, labels: Tensor, batch_size: int, device: str) -> None:
        from pythae.data.datasets import BaseDataset
        from pythae.models import VAE, VAEConfig
        from pythae.trainers import BaseTrainer, BaseTrainerConfig

        logging.disable(logging.WARNING)  # each of its loggers has a level and a handler of its own
        self.data, self.batch_size, self.epoch = BaseDataset(prepared(name, images), labels), batch_size, 0
        network = MODELS[name]()
        loss = "mse" if name in NORMALISED else "bce"
        config = VAEConfig((1, 28, 28), _latent(network), reconstruction_loss=loss)
        model = VAE(config, *_as_pythae(network))
        with TemporaryDirectory() as folder:  # it is made, and never written to
            options = {"per_device_train_batch_size": batch_size, "learning_rate": 1e-3}
            training = BaseTrainerConfig(folder, no_cuda=device == "cpu", optimizer_cls="Adam", **options)
            self.trainer = BaseTrainer(model, self.data, training_config=training)
            self.trainer.prepare_training()
        self.trainer.callback_handler.callbacks.clear()  # a bar of progress, on the terminal

    def train(self, steps: int) -> float:
        """Train for so many steps, epoch after epoch; returns the last epoch's mean loss an image."""
        loss = 0.0
        per_epoch = len(self.data) // self.batch_size
        for start in range(0, steps, per_epoch):
            count = min(per_epoch, steps - start) * self.batch_size
            part = type(self.data)(self.data.data[:count], self.data.labels[:count])
            self.trainer.train_loader = self.trainer.get_train_dataloader(part)
            self.epoch += 1
            loss = float(self.trainer.train_step(self.epoch))
        return loss


def _latent(network: nn.Module) -> int:
    """Count the latents of one of the usual loop's networks: the last bias of its means."""
    return len([*network.mean.parameters()][-1])


def _as_pythae(network: Any) -> tuple[nn.Module, nn.Module]:
    """Wrap encoder with heads, and decoder, as pythae asks for its own."""
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.ModuleList([network.encoder, network.mean, network.log_variance])

        def forward(self, x: Tensor) -> Any:
            trunk, mean, log_variance = self.network
            h = trunk(x)
            return ModelOutput(embedding=mean(h), log_covariance=log_variance(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = network.decoder

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.network(z))

    return Encoder(), Decoder()
