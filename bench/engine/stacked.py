"""The seeds of a variant as one model: every parameter and buffer gains a leading replica axis.

    Linear            h_r = x_r W_rᵀ + b_r           one batched product `baddbmm` on [R, B, in]
    convolutions      groups = R                     one grouped convolution on [B, R·C, H, W]
    BatchNorm         statistics over (B, H, W)      native, over R·C channels: each replica has its own
    loss              Σ_r L_r                        ∂/∂θ_r is replica r's own gradient, whoever the others

Posterior, likelihood and pixels act on single elements and are used as they are. Adam, AdamW and SGD do too,
so one optimizer over the stacked parameters is R optimizers (HFTA, Wang et al. 2021). What is not listed in
`KNOWN` has no stacked form: its runs are trained one by one.

Shapes: R replicas, B images, D pixels, Z latents, C channels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, conv_transpose2d

from bench.engine.step import unknown_part
from bench.parts.likelihoods import Bernoulli, ContinuousBernoulli, Gaussian, LearnedGaussian
from bench.parts.networks import (
    ConvDecoder,
    ConvEncoder,
    FoldedConvTranspose2d,
    MLPDecoder,
    MLPEncoder,
    flat,
    planes,
)
from bench.parts.objectives import Elbo
from bench.parts.pixels import Grey, Normalised, Threshold
from bench.parts.posteriors import POSTERIORS
from bench.parts.priors import StandardNormal
from bench.parts.protocols import Objective
from bench.parts.vae import VAE
from bench.spec.options import ACTIVATIONS


class StackedVAE(VAE):
    """R models as one: whatever a VAE gives as [B, ...] it gives as [R, B, ...], of one sample an image.

    It takes x [B, D], the same images for every replica, or [R, B, D], and noise [1, R, B, Z]. Its
    state_dict has a replica's names, and R in front of the shapes.
    """

    def decode(self, z: Tensor) -> Tensor:
        """Compute the likelihood's parameters [1, R, B, D] of latents z [1, R, B, Z]."""
        return super().decode(z.squeeze(0)).unsqueeze(0)


def stack(models: Sequence[VAE], objective: Objective) -> StackedVAE:
    """Make R models of one architecture one, on the device of the first, for `ReferenceStep` to train.

    Raises TypeError for a part or an objective without a stacked form: it may mix the replicas.
    """
    first = models[0]
    if unknown := unknown_part(first, objective, KNOWN):
        raise TypeError(f"{unknown} has no stacked form: its runs are trained one by one")
    return StackedVAE(
        _stacked([m.encoder for m in models]),
        _stacked([m.decoder for m in models]),
        first.posterior,
        _stacked([m.likelihood for m in models]),
        first.input,
        first.target,
        first.latent,
        first.prior,
    ).train(first.training)


def unstack(stacked: VAE, replica: int, into: VAE) -> dict[str, Tensor]:
    """Copy one replica's parameters and buffers into an ordinary model; return its state_dict."""
    state = into.state_dict()
    with torch.no_grad():
        for name, value in stacked.state_dict().items():
            state[name].copy_(value[replica].view_as(state[name]))
    return state


class _Leaf(nn.Module):
    """A layer of R replicas: its parameters and buffers under their names, [R, ...]."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layers: list[Any]) -> None:
        super().__init__()
        self.replicas = len(layers)
        for name, _ in layers[0].named_parameters():
            self.register_parameter(name, nn.Parameter(_side_by_side(layers, name)))
        for name, _ in layers[0].named_buffers():
            self.register_buffer(name, _side_by_side(layers, name))


class _Linear(_Leaf):
    def forward(self, x: Tensor) -> Tensor:
        """Map x [R, B, in], or [B, in] for every replica, to [R, B, out]."""
        x = x.expand(self.replicas, *x.shape[-2:])
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.transpose(1, 2))


class _Conv(_Leaf):
    def __init__(self, layers: list[Any]) -> None:
        super().__init__(layers)
        first = layers[0]
        self.options = {name: getattr(first, name) for name in ("stride", "padding", "dilation")}
        self.options["groups"] = self.replicas * first.groups
        self.function: Callable[..., Tensor] = conv2d
        if isinstance(first, nn.ConvTranspose2d):
            self.options["output_padding"] = first.output_padding
            self.function = conv_transpose2d

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, R·C, H, W] to [B, R·C', H', W']."""
        return self.function(x, self.weight.flatten(0, 1), self.bias.flatten(), **self.options)


class _BatchNorm(_Leaf):
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, layers: list[Any]) -> None:
        super().__init__(layers)
        self.momentum, self.eps = layers[0].momentum, layers[0].eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [B, R·C, H, W]; the running statistics are updated through views of them."""
        if self.training:
            self.num_batches_tracked += 1
        mean, variance = self.running_mean.view(-1), self.running_var.view(-1)
        weight, bias = self.weight.flatten(), self.bias.flatten()
        return batch_norm(x, mean, variance, weight, bias, self.training, self.momentum, self.eps)


class _Flatten(_Leaf):
    def forward(self, x: Tensor) -> Tensor:
        """Bring x [B, R·C, H, W] to [R, B, C·H·W]."""
        return x.reshape(len(x), self.replicas, -1).transpose(0, 1)


class _Unflatten(_Leaf):
    def __init__(self, layers: list[Any]) -> None:
        super().__init__(layers)
        self.size = tuple(layers[0].unflattened_size)

    def forward(self, x: Tensor) -> Tensor:
        """Bring x [R, B, C·H·W] to [B, R·C, H, W]."""
        return x.transpose(0, 1).reshape(x.shape[1], self.replicas * self.size[0], *self.size[1:])


class _ConvEncoder(nn.Module):
    def __init__(self, encoders: list[Any]) -> None:
        super().__init__()
        self.replicas = len(encoders)
        self.shape = encoders[0].shape
        self.trunk = _stacked([e.trunk for e in encoders])
        self.mean = _stacked([e.mean for e in encoders])
        self.second = _stacked([e.second for e in encoders])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x [R, B, D], or [B, D] for every replica, to the two heads, each [R, B, Z]."""
        x = x.expand(self.replicas, *x.shape[-2:])
        h = self.trunk(planes(x.transpose(0, 1), self.shape).flatten(1, 2))
        return self.mean(h), self.second(h)


class _ConvDecoder(nn.Module):
    def __init__(self, decoders: list[Any]) -> None:
        super().__init__()
        self.replicas = len(decoders)
        self.trunk = _stacked([d.trunk for d in decoders])

    def forward(self, z: Tensor) -> Tensor:
        """Map z [R, B, Z] to the output [R, B, D]."""
        return flat(self.trunk(z).unflatten(1, (self.replicas, -1))).transpose(0, 1)


def _container(modules: list[nn.Module]) -> nn.Module:
    """A module whose own forward fits the replica axis already, around its stacked children."""
    container = copy.deepcopy(modules[0])
    for name, _ in modules[0].named_children():
        setattr(container, name, _stacked([getattr(m, name) for m in modules]))
    return container


def _elementwise(modules: list[nn.Module]) -> nn.Module:
    return copy.deepcopy(modules[0])


def _learned_gaussian(modules: list[Any]) -> nn.Module:
    stacked = copy.deepcopy(modules[0])
    stacked.log_variance = nn.Parameter(_side_by_side(modules, "log_variance").unsqueeze(1))  # beside [R, B]
    return cast("nn.Module", stacked)


def _side_by_side(modules: list[Any], name: str) -> Tensor:
    # Contiguous: the leading axis of a channels_last stack could not be flattened into the channels
    return torch.stack([getattr(m, name).detach() for m in modules]).contiguous()


def _stacked(modules: Sequence[Any]) -> Any:
    return FORMS[type(modules[0])](list(modules))


FORMS: dict[type[nn.Module], Callable[[list[Any]], nn.Module]] = {
    nn.Linear: _Linear,
    nn.Conv2d: _Conv,
    nn.ConvTranspose2d: _Conv,
    FoldedConvTranspose2d: _Conv,
    nn.BatchNorm2d: _BatchNorm,
    nn.Flatten: _Flatten,
    nn.Unflatten: _Unflatten,
    nn.Identity: _elementwise,
    **{getattr(nn, name): _elementwise for name in ACTIVATIONS},
    nn.Sequential: _container,
    MLPEncoder: _container,
    MLPDecoder: _container,
    ConvEncoder: _ConvEncoder,
    ConvDecoder: _ConvDecoder,
    Bernoulli: _elementwise,
    Gaussian: _elementwise,
    LearnedGaussian: _learned_gaussian,
    ContinuousBernoulli: _elementwise,
}

# Posteriors that act on single elements
DIAGONAL = {name: made for name, made in POSTERIORS.items() if not isinstance(made, type)}

# Exactly these: what else a model is made of may need all of its axes
KNOWN = {
    *FORMS, VAE, *DIAGONAL.values(), StandardNormal, Grey, Threshold, Normalised, Elbo,
}  # fmt: skip
