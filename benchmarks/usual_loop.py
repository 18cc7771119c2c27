"""The loop everybody writes: a VAE on MNIST as tutorials have it, for each architecture of `make speed`.

Images become tensors one by one in a Dataset, a DataLoader makes batches of them, the decoder ends in a
sigmoid, the loss is binary cross-entropy (squared error for `mlp-100-100-32`) plus KL, the optimizer is Adam
as it comes, and the running loss is read with `.item()` at every step. Nothing of bench is imported.

    python benchmarks/usual_loop.py linear-400-20 --data-dir ~/data --epochs 1
"""

from __future__ import annotations

import argparse
import time

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms


class VAE(nn.Module):
    """Encoder and decoder, the two heads between them, and the reparameterisation trick."""

    def __init__(
        self, encoder: nn.Module, mean: nn.Module, log_variance: nn.Module, decoder: nn.Module
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.mean = mean
        self.log_variance = log_variance
        self.decoder = decoder

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mean, log_variance = self.mean(h), self.log_variance(h)
        std = torch.exp(0.5 * log_variance)
        z = mean + torch.randn_like(std) * std
        return self.decoder(z), mean, log_variance


def mlp_512_256_2() -> VAE:
    return VAE(
        nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU()),
        nn.Linear(256, 2),
        nn.Linear(256, 2),
        nn.Sequential(nn.Linear(2, 256), nn.ReLU(), nn.Linear(256, 784), nn.Sigmoid()),
    )


def linear_400_20() -> VAE:
    return VAE(
        nn.Sequential(nn.Flatten(), nn.Linear(784, 400)),
        nn.Linear(400, 20),
        nn.Linear(400, 20),
        nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784), nn.Sigmoid()),
    )


def mlp_100_100_32() -> VAE:
    return VAE(
        nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.Tanh()),
        nn.Linear(100, 32),
        nn.Linear(100, 32),
        nn.Sequential(nn.Linear(32, 100), nn.ReLU(), nn.Linear(100, 100), nn.Tanh(), nn.Linear(100, 784)),
    )


def conv_bn_16() -> VAE:
    return VAE(
        nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=4, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=4, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, kernel_size=5, stride=2),
            nn.BatchNorm2d(32),
            nn.Flatten(),
        ),
        nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 16)),
        nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 16)),
        nn.Sequential(
            nn.Linear(16, 64),
            nn.ReLU(),
            nn.Linear(64, 128),
            nn.Unflatten(1, (32, 2, 2)),
            nn.ConvTranspose2d(32, 32, kernel_size=5, stride=2),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, kernel_size=4, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 1, kernel_size=4, stride=2, padding=1),
            nn.Sigmoid(),
        ),
    )


MODELS = {
    "mlp-512-256-2": mlp_512_256_2,
    "linear-400-20": linear_400_20,
    "mlp-100-100-32": mlp_100_100_32,
    "conv-bn-16": conv_bn_16,
}
BATCH_SIZE = {"mlp-512-256-2": 100, "linear-400-20": 128, "mlp-100-100-32": 128, "conv-bn-16": 128}
NORMALISED = {"mlp-100-100-32"}  # normalised pixels and squared error; the others take grey pixels and BCE


def transform(name: str) -> transforms.Compose:
    """What each image goes through on its way into a batch."""
    normalise = [transforms.Normalize((0.1307,), (0.3081,))] if name in NORMALISED else []
    return transforms.Compose([transforms.ToTensor(), *normalise])


class Images(Dataset):
    """Images in memory, uint8 [N, 28, 28]; an item is made as `torchvision.datasets.MNIST` makes it."""

    def __init__(self, data: Tensor, targets: Tensor, transform: transforms.Compose) -> None:
        self.data = data
        self.targets = targets
        self.transform = transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, target = self.data[index], int(self.targets[index])
        return self.transform(Image.fromarray(image.numpy())), target


def loss_function(name: str, out: Tensor, x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Reconstruction and KL, both summed."""
    out, x = out.flatten(1), x.flatten(1)
    if name in NORMALISED:
        reconstruction = functional.mse_loss(out, x, reduction="sum")
    else:
        reconstruction = functional.binary_cross_entropy(out, x, reduction="sum")
    kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
    return reconstruction + kl


class UsualLoop:
    """A model in training on a dataset."""

    def __init__(self, name: str, dataset: Dataset, batch_size: int, device: str = "cpu") -> None:
        self.name = name
        self.device = device
        self.loader = DataLoader(dataset, batch_size=batch_size, shuffle=True)
        self.model = MODELS[name]().to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def train(self, steps: int) -> float:
        """Train for so many steps, epoch after epoch; returns the mean of the steps' losses."""
        self.model.train()
        total, done = 0.0, 0
        while done < steps:
            for images, _ in self.loader:
                x = images.to(self.device)
                self.optimizer.zero_grad()
                out, mean, log_variance = self.model(x)
                loss = loss_function(self.name, out, x, mean, log_variance)
                loss.backward()
                total += loss.item()
                self.optimizer.step()
                done += 1
                if done == steps:
                    break
        return total / steps


def main() -> None:
    """Train one architecture on MNIST."""
    parser = argparse.ArgumentParser(description="The loop everybody writes.")
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()
    mnist = datasets.MNIST(options.data_dir, train=True, download=True, transform=transform(options.name))
    loop = UsualLoop(options.name, mnist, BATCH_SIZE[options.name])
    for epoch in range(1, options.epochs + 1):
        started = time.perf_counter()
        loss = loop.train(len(loop.loader)) / BATCH_SIZE[options.name]
        print(f"epoch {epoch}: loss {loss:.2f} an image, {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
