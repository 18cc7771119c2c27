"""The fast step: the gradients of a fully connected VAE written out, in buffers that are allocated once.

With c_r and c_k the objective's weights on the two per-image sums, divided by the B images of the batch:

    forward    h_l = f(h_{l−1} W_lᵀ + b_l),  (μ, s) = h Wᵀ + b,  z = μ + scale(s)·ε,  o = decoder(z)
    output     ∂L/∂o = c_r·(σ(o) − t)                          Bernoulli, t the target
                     = c_r·((1 − t)/(1 − p + e) − t/(p + e))·p(1 − p)   from probabilities p = σ(o)
                     = c_r·(m − t)/σ² · ∂m/∂o                  Gaussian, ∂m/∂o = m(1 − m) or 1
    layer      ∂L/∂W = δᵀh,  ∂L/∂b = Σ_B δ,  ∂L/∂h = δW,  δ_{l−1} = ∂L/∂h · f′
    heads      ∂L/∂μ = ∂L/∂z + c_k·μ
               ∂L/∂s = ∂L/∂z·ε·σ/2 + c_k·(σ² − 1)/2            s = ln σ²
                     = ∂L/∂z·ε·2s + c_k·(s − s/(s² + 1e-20))   raw σ = s, scale s² (document 000)

All parameters are views of one flat tensor, which a single call of the run's own optimizer adjusts. No
gradient of the first layer's input is computed. Whatever has D or H columns lies in a buffer that is
allocated once: fresh pages cost more than the arithmetic on them.

In bf16 the matrix products of large layers take operands rounded to bfloat16 and add up in float32; the
parameters, Adam's moments and everything between the products stay float32 (Micikevicius et al. 2018).

Shapes: B images, D pixels, Z latents, H hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bench.engine.step import MakeOptimizer, unknown_part
from bench.parts.likelihoods import Bernoulli, Gaussian
from bench.parts.networks import MLPDecoder, MLPEncoder
from bench.parts.objectives import Elbo
from bench.parts.pixels import Grey, Normalised, Threshold
from bench.parts.posteriors import gaussian, gaussian_raw_sigma
from bench.parts.priors import StandardNormal
from bench.parts.protocols import Objective, Pixels
from bench.parts.vae import VAE

_aten = torch.ops.aten  # autograd's own kernels, where they can write into a given tensor

FACTORS = 16  # at most: so many numbers from 1/2 to 1 have a product of at least 2^-16
LARGE = 100_000  # weights of a layer from which on products in bf16 gain more than rounding operands costs


# Exactly these: of anything else the gradient is not the one written out here
KNOWN = {
    VAE, MLPEncoder, MLPDecoder, Bernoulli, Gaussian, StandardNormal, gaussian, gaussian_raw_sigma, Elbo,
    Grey, Threshold, Normalised, nn.Sequential, nn.Linear, nn.ReLU, nn.Tanh, nn.Identity,
}  # fmt: skip


def refusal(model: VAE, objective: Objective, precision: str) -> str | None:
    """Say why a run must take the reference step; None where the fast step covers all of its parts."""
    device = next(model.parameters()).device.type
    if device != "cpu":
        return f"the fast step is written for a CPU, not {device}"
    if precision not in ("fp32", "bf16"):
        return f"the fast step knows no precision {precision}"
    unknown = unknown_part(model, objective, KNOWN)
    return f"{unknown} has no written-out gradient" if unknown else None


class FastStep:
    """One step of a model without a `refusal`: equal to `ReferenceStep` up to rounding."""

    engine = "fast"
    note: str | None = None

    def __init__(
        self, model: VAE, objective: Objective, make_optimizer: MakeOptimizer, precision: str = "fp32"
    ) -> None:
        encoder, decoder = model.encoder, model.decoder
        assert isinstance(encoder, MLPEncoder)  # noqa: S101  `refusal` has asked; mypy has not heard
        assert isinstance(decoder, MLPDecoder)  # noqa: S101
        assert isinstance(objective, Elbo)  # noqa: S101
        self.model = model
        self.objective = objective
        encoder_layers, decoder_layers = list(encoder.trunk), [*decoder.trunk, decoder.output]
        # The two heads lie side by side, so that they are one matrix product
        heads = [encoder.mean.weight, encoder.second.weight, encoder.mean.bias, encoder.second.bias]
        linears = [m for m in (*encoder_layers, *decoder_layers) if isinstance(m, nn.Linear)]
        order = [*heads, *(p for m in linears for p in (m.weight, m.bias))]
        self.flat = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in order]))
        self.flat.grad = torch.zeros_like(self.flat)
        grads: dict[Tensor, Tensor] = {}
        start = 0
        for p in order:
            stop = start + p.numel()
            p.data = self.flat.data[start:stop].view_as(p)
            grads[p] = self.flat.grad[start:stop].view_as(p)
            start = stop
        width, latent = encoder.mean.in_features, model.latent
        size = 2 * latent * width
        self.heads = _Linear(
            self.flat.data[:size].view(2 * latent, width),
            self.flat.data[size : size + 2 * latent],
            self.flat.grad[:size].view(2 * latent, width),
            self.flat.grad[size : size + 2 * latent],
        )
        self.encoder = _stack(encoder_layers, grads)
        self.decoder = _stack(decoder_layers, grads)
        self.raw_sigma = model.posterior is gaussian_raw_sigma
        shown, due = model.input, model.target
        self.same_pixels = type(shown) is type(due) and vars(shown) == vars(due)
        self.scratch: dict[int, Tensor] = {}  # [4, B, D] by batch size: the last batch is smaller
        self.one = self.flat.new_ones(())
        layers = (*self.encoder, *self.decoder) if precision == "bf16" else ()
        self.rounded = [layer for layer in layers if layer.weight.numel() >= LARGE]
        self.optimizer = make_optimizer([self.flat])

    @torch.no_grad()
    def __call__(self, grey: Tensor, noise: Tensor, seen: int = 0, drawn: Tensor | None = None) -> Tensor:
        """Take one step; see `ReferenceStep`. No target that it knows is drawn."""
        sums = self.gradients(grey, noise.view(len(grey), -1))  # one z an image
        self.optimizer.step()
        return sums

    @torch.no_grad()
    def gradients(self, grey: Tensor, noise: Tensor) -> Tensor:
        """Fill the flat gradient, of grey [B, D] and noise [B, Z]; return the loss terms' sums [2]."""
        images, pixels = grey.shape
        latent = self.model.latent
        c_r, c_k = (w / images for w in self.objective.weights(images, pixels, latent))
        for layer in self.rounded:
            layer.round()
        if images not in self.scratch:
            self.scratch[images] = grey.new_empty(4, images, pixels)
        for_x, for_target, for_delta, spare = self.scratch[images]
        # Forward
        x = _transformed(self.model.input, grey, for_x)
        target = x if self.same_pixels else _transformed(self.model.target, grey, for_target)
        heads = self.heads.forward(_forward(self.encoder, x))  # [B, 2Z]
        mean, second = heads[:, :latent], heads[:, latent:]
        scale = second.square() if self.raw_sigma else torch.exp(0.5 * second)
        output = _forward(self.decoder, torch.addcmul(mean, scale, noise))
        reconstruction, delta = self._output(output, target, c_r, for_delta, spare)
        # Backward
        d_z = _backward(self.decoder, delta, to_input=True)
        d_heads = torch.empty_like(heads)
        d_second = d_heads[:, latent:]
        torch.add(d_z, mean, alpha=c_k, out=d_heads[:, :latent])
        if self.raw_sigma:
            variance = scale + 1e-20
            kl = 0.5 * (mean.square() + scale - variance.log() - 1).sum()
            torch.sub(second, second / variance, out=d_second)
            d_second.mul_(c_k).addcmul_(d_z * noise, second, value=2)
        else:
            variance = scale.square()
            kl = 0.5 * (mean.square() + variance - second - 1).sum()
            torch.sub(variance, 1, out=d_second)
            d_second.mul_(0.5 * c_k).addcmul_(d_z * noise, scale, value=0.5)
        _backward(self.encoder, self.heads.backward(d_heads, to_input=True))
        return torch.stack([reconstruction, kl])

    def _output(
        self, output: Tensor, target: Tensor, c_r: float, delta: Tensor, spare: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the reconstruction term's sum, and ∂L/∂o [B, D] in `delta`; `output` is overwritten."""
        likelihood = self.model.likelihood
        if isinstance(likelihood, Gaussian):
            squash = likelihood.link == "sigmoid"
            mean = torch.sigmoid(output, out=spare) if squash else output
            torch.sub(mean, target, out=delta)
            loss = _dot(delta, delta) / (2 * likelihood.variance)
            if squash:
                _aten.sigmoid_backward.grad_input(delta, mean, grad_input=delta)
            return loss, delta.mul_(c_r / likelihood.variance)
        if isinstance(likelihood, Bernoulli) and likelihood.form == "probabilities":
            # NaN where autograd has it, at a saturated sigmoid
            p, eps, not_target = torch.sigmoid(output), likelihood.eps, 1 - target
            on, off = p + eps, 1 - p + eps
            loss = -(target * on.log() + not_target * off.log()).sum()
            torch.sub(not_target / off, target / on, out=delta)
            return loss, delta.mul_(p).mul_(1 - p).mul_(c_r)
        # softplus(o) = max(o, 0) − ln max(p, 1 − p): no exponential but the sigmoid's, and no overflow.
        # One logarithm for the product of FACTORS of them: each is at least 1/2
        p = torch.sigmoid(output, out=delta)
        torch.maximum(p, torch.sub(self.one, p, out=spare), out=spare)
        logs = spare.view(math.gcd(FACTORS, spare.numel()), -1).prod(0).log_().sum()
        loss = -_dot(target, output) - logs + output.clamp_(min=0).sum()
        return loss, p.sub_(target).mul_(c_r)


class _Linear:
    """A linear layer whose parameters and gradients are views of the flat tensors, and its activation."""

    def __init__(self, weight: Tensor, bias: Tensor, d_weight: Tensor, d_bias: Tensor) -> None:
        self.weight, self.bias, self.d_weight, self.d_bias = weight, bias, d_weight, d_bias
        self.activation: type[nn.Module] = nn.Identity
        self.weight_bf16: Tensor | None = None  # the weight rounded, where products are taken in bf16
        self.buffers: dict[int, tuple[Tensor, Tensor]] = {}  # by batch size: the last batch is smaller

    def forward(self, x: Tensor) -> Tensor:
        """Compute h [B, H] = f(x Wᵀ + b) into this layer's buffer."""
        self.x = x
        if len(x) not in self.buffers:
            self.buffers[len(x)] = (x.new_empty(len(x), len(self.weight)), torch.empty_like(x))
        self.h, self.d_x = self.buffers[len(x)]
        if self.weight_bf16 is None:
            torch.addmm(self.bias, x, self.weight.T, out=self.h)
        else:
            self.x = x.bfloat16()
            torch.add(self.x @ self.weight_bf16.T, self.bias, out=self.h)
        if self.activation is nn.ReLU:
            self.h.clamp_(min=0)
        elif self.activation is nn.Tanh:
            self.h.tanh_()
        return self.h

    def backward(self, d_h: Tensor, *, to_input: bool) -> Tensor:
        """Fill the gradients, of ∂L/∂h [B, H] (overwritten); return ∂L/∂x where asked for."""
        if self.activation is nn.ReLU:
            _aten.threshold_backward.grad_input(d_h, self.h, 0, grad_input=d_h)
        elif self.activation is nn.Tanh:
            _aten.tanh_backward.grad_input(d_h, self.h, grad_input=d_h)
        torch.sum(d_h, 0, out=self.d_bias)
        if self.weight_bf16 is None:
            torch.mm(d_h.T, self.x, out=self.d_weight)
            return torch.mm(d_h, self.weight, out=self.d_x) if to_input else d_h
        d_bf16 = d_h.bfloat16()
        self.d_weight.copy_(d_bf16.T @ self.x)
        return self.d_x.copy_(d_bf16 @ self.weight_bf16) if to_input else d_h

    def round(self) -> None:
        """Round the weight as it is now, and take products in bf16."""
        if self.weight_bf16 is None:
            self.weight_bf16 = torch.empty_like(self.weight, dtype=torch.bfloat16)
        self.weight_bf16.copy_(self.weight)


def _stack(layers: Iterable[nn.Module], grads: dict[Tensor, Tensor]) -> list[_Linear]:
    """Bring linear modules and the activations that follow them to flat layers."""
    stack: list[_Linear] = []
    for module in layers:
        if isinstance(module, nn.Linear):
            w, b = module.weight, module.bias
            stack.append(_Linear(w.data, b.data, grads[w], grads[b]))
        else:
            stack[-1].activation = type(module)
    return stack


def _forward(stack: list[_Linear], x: Tensor) -> Tensor:
    for layer in stack:
        x = layer.forward(x)
    return x


def _backward(stack: list[_Linear], delta: Tensor, *, to_input: bool = False) -> Tensor:
    for layer in reversed(stack):
        delta = layer.backward(delta, to_input=to_input or layer is not stack[0])
    return delta


def _transformed(pixels: Pixels, grey: Tensor, out: Tensor) -> Tensor:
    """Compute `pixels(grey)` into `out`, unless it is `grey` itself."""
    if isinstance(pixels, Normalised):
        return torch.sub(grey, pixels.mean, out=out).div_(pixels.scale)
    if isinstance(pixels, Threshold):
        return torch.gt(grey, pixels.at, out=out)
    return grey


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.reshape(-1), b.reshape(-1))
