"""A VAE as a plain script of torch trains one, in the manner of pytorch/examples; nothing of bench in it."""

import torch
from torch import nn, optim


class VAE(nn.Module):
    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, width)
        self.fc21, self.fc22 = nn.Linear(width, latent), nn.Linear(width, latent)
        self.fc3, self.fc4 = nn.Linear(latent, width), nn.Linear(width, 784)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = torch.relu(self.fc1(x))
        mu, logvar = self.fc21(h), self.fc22(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return torch.sigmoid(self.fc4(torch.relu(self.fc3(z)))), mu, logvar


def main(images: torch.Tensor, file: str, width: int, latent: int, epochs: int = 2) -> None:
    """Train on images [N, 784] in [0, 1] and save the state_dict."""
    torch.manual_seed(1)
    model = VAE(width, latent)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in images[torch.randperm(len(images))].split(128):
            reconstruction, mu, logvar = model(batch)
            bce = nn.functional.binary_cross_entropy(reconstruction, batch, reduction="sum")
            kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
            optimizer.zero_grad()
            (bce + kld).backward()
            optimizer.step()
    torch.save(model.state_dict(), file)
