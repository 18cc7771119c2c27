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
gradient of the first layer's input is computed. Buffers, views of them and scalars as tensors are made once
for each batch size: a small network would spend as long on making them as on its products.

In bf16 the matrix products of large layers take operands rounded to bfloat16 and add up in float32; the
parameters, Adam's moments and everything between the products stay float32 (Micikevicius et al. 2018).

Shapes: B images, D pixels, Z latents, H hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Adam

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
        both = _Linear(
            self.flat.data[:size].view(2 * latent, width),
            self.flat.data[size : size + 2 * latent],
            self.flat.grad[:size].view(2 * latent, width),
            self.flat.grad[size : size + 2 * latent],
        )
        self.encoder = [*_stack(encoder_layers, grads), both]
        self.decoder = _stack(decoder_layers, grads)
        self.raw_sigma = model.posterior is gaussian_raw_sigma
        shown, due = model.input, model.target
        self.same_pixels = type(shown) is type(due) and vars(shown) == vars(due)
        self.passes: dict[int, _Pass] = {}  # by batch size: the last batch is smaller
        layers = (*self.encoder[:-1], *self.decoder) if precision == "bf16" else ()
        self.rounded = [layer for layer in layers if layer.weight.numel() >= LARGE]
        self.optimizer = make_optimizer([self.flat])

    @torch.no_grad()
    def __call__(self, grey: Tensor, noise: Tensor, seen: int = 0, drawn: Tensor | None = None) -> Tensor:
        """Take one step; see `ReferenceStep`. No target that it knows is drawn."""
        sums = self.gradients(grey, noise.view(len(grey), -1))  # one z an image
        self._adjust()
        return sums

    def _adjust(self) -> None:
        """Take the optimizer's step: of plain fused Adam its kernel alone, once its moments are there.

        Most of what torch's `step` does before it is for many tensors, and costs a small network 3 %.
        """
        optimizer, flat = self.optimizer, self.flat
        group, state = optimizer.param_groups[0], optimizer.state.get(flat)
        plain = type(optimizer) is Adam and group["fused"] and not group["amsgrad"]
        if not state or not plain or group["decoupled_weight_decay"]:
            optimizer.step()
            return
        lists = [[state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"].add_(1)]]
        beta1, beta2 = group["betas"]
        options = {name: group[name] for name in ("lr", "weight_decay", "eps", "amsgrad", "maximize")}
        _aten._fused_adam_([flat], [flat.grad], *lists, beta1=beta1, beta2=beta2, **options)

    @torch.no_grad()
    def gradients(self, grey: Tensor, noise: Tensor) -> Tensor:
        """Fill the flat gradient, of grey [B, D] and noise [B, Z]; return the loss terms' sums [2]."""
        for layer in self.rounded:
            layer.round()
        if len(grey) not in self.passes:
            self.passes[len(grey)] = _Pass(self, *grey.shape)
        b = self.passes[len(grey)]
        # Forward
        x = _transformed(self.model.input, grey, b.x)
        target = x if self.same_pixels else _transformed(self.model.target, grey, b.target)
        _forward(b.encoder, x)
        kl = self._rate(b)
        torch.mul(b.scale, noise, out=b.shift)
        output = _forward(b.decoder, torch.add(b.mean, b.shift, out=b.z))
        sums = torch.stack([self._output(output, target, b), kl])
        # Backward
        _backward(b.decoder)
        if self.raw_sigma:
            b.d_second.addcmul_(b.d_mean * noise, b.second, value=2)
        else:
            b.d_second.addcmul_(b.d_mean, b.shift, value=0.5)
        b.d_mean.add_(b.mean, alpha=b.c_k)
        _backward(b.encoder)
        return sums

    def _rate(self, b: _Pass) -> Tensor:
        """Compute the scale, in `d_second` the KL's part of ∂L/∂s, and return the KL's sum."""
        second, scale, d_second = b.second, b.scale, b.d_second
        if self.raw_sigma:
            torch.mul(second, second, out=scale)
            variance = scale + 1e-20
            kl = torch.addcmul(scale - variance.log() - 1, b.mean, b.mean).sum()
            torch.sub(second, second / variance, out=d_second).mul_(b.c_k)
        else:
            torch.mul(second, b.half, out=scale).exp_()
            torch.addcmul(b.minus_one, scale, scale, out=d_second)
            kl = torch.sub(d_second, second).addcmul_(b.mean, b.mean).sum()
            d_second.mul_(b.half_c_k)
        return kl.mul_(b.half)

    def _output(self, output: Tensor, target: Tensor, b: _Pass) -> Tensor:
        """Compute ∂L/∂o in `delta`, and return the reconstruction term's sum; `output` is overwritten."""
        likelihood, delta, spare = self.model.likelihood, b.delta, b.spare
        if isinstance(likelihood, Gaussian):
            squash = likelihood.link == "sigmoid"
            mean = torch.sigmoid(output, out=spare) if squash else output
            torch.sub(mean, target, out=delta)
            loss = _dot(delta, delta) / (2 * likelihood.variance)
            if squash:
                _aten.sigmoid_backward.grad_input(delta, mean, grad_input=delta)
            delta.mul_(b.c_r / likelihood.variance)
        elif isinstance(likelihood, Bernoulli) and likelihood.form == "probabilities":
            # NaN where autograd has it, at a saturated sigmoid
            p, eps, not_target = torch.sigmoid(output), likelihood.eps, 1 - target
            on, off = p + eps, 1 - p + eps
            loss = -(target * on.log() + not_target * off.log()).sum()
            torch.sub(not_target / off, target / on, out=delta)
            delta.mul_(p).mul_(1 - p).mul_(b.c_r)
        else:
            # softplus(o) = max(o, 0) − ln max(p, 1 − p): no exponential but the sigmoid's, and no overflow.
            # One logarithm for the product of FACTORS of them: each is at least 1/2
            p = torch.sigmoid(output, out=delta)
            torch.maximum(p, torch.sub(b.one, p, out=spare), out=spare)
            logs = spare.view(math.gcd(FACTORS, spare.numel()), -1).prod(0).log_().sum()
            loss = -_dot(target, output) - logs + output.clamp_(min=0).sum()
            p.sub_(target).mul_(b.c_r)
        return loss


class _Pass:
    """What a step over one batch size works in: buffers, and the layers between them."""

    def __init__(self, step: FastStep, images: int, pixels: int) -> None:
        new, scalar, latent = step.flat.data.new_empty, step.flat.data.new_tensor, step.model.latent
        self.x, self.target, self.delta, self.spare = new(4, images, pixels)
        self.scale, self.shift, self.z = new(3, images, latent)  # z = mean + shift
        d_heads = new(images, 2 * latent)
        self.d_mean, self.d_second = d_heads[:, :latent], d_heads[:, latent:]
        self.encoder = _between(step.encoder, None, d_heads)
        self.decoder = _between(step.decoder, self.d_mean, self.delta)  # ∂L/∂z is the first part of ∂L/∂μ
        heads = self.encoder[-1].h
        self.mean, self.second = heads[:, :latent], heads[:, latent:]
        c_r, self.c_k = (w / images for w in step.objective.weights(images, pixels, latent))
        self.c_r, self.half_c_k = scalar(c_r), scalar(self.c_k / 2)
        self.one, self.minus_one, self.half = scalar(1.0), scalar(-1.0), scalar(0.5)


class _Linear:
    """A linear layer whose parameters and gradients are views of the flat tensors, and its activation."""

    def __init__(self, weight: Tensor, bias: Tensor, d_weight: Tensor, d_bias: Tensor) -> None:
        self.weight, self.bias, self.d_weight, self.d_bias = weight, bias, d_weight, d_bias
        self.activation: type[nn.Module] = nn.Identity
        self.weight_bf16: Tensor | None = None  # the weight rounded, where products are taken in bf16

    def round(self) -> None:
        """Round the weight as it is now, and take products in bf16."""
        if self.weight_bf16 is None:
            self.weight_bf16 = torch.empty_like(self.weight, dtype=torch.bfloat16)
        self.weight_bf16.copy_(self.weight)


class _Layer:
    """A linear layer between its buffers: of h [B, H], ∂L/∂h and, where it is asked for, ∂L/∂x."""

    def __init__(self, linear: _Linear, d_x: Tensor | None, d_h: Tensor) -> None:
        self.linear, self.d_x, self.d_h = linear, d_x, d_h
        self.h = d_h.new_empty(d_h.shape)
        self.weight_t, self.d_h_t = linear.weight.T, d_h.T

    def forward(self, x: Tensor) -> Tensor:
        """Compute h [B, H] = f(x Wᵀ + b)."""
        linear, h = self.linear, self.h
        if linear.weight_bf16 is None:
            self.x = x
            torch.addmm(linear.bias, x, self.weight_t, out=h)
        else:
            self.x = x.bfloat16()
            torch.add(self.x @ linear.weight_bf16.T, linear.bias, out=h)
        if linear.activation is nn.ReLU:
            h.relu_()
        elif linear.activation is nn.Tanh:
            h.tanh_()
        return h

    def backward(self) -> None:
        """Fill the gradients, of ∂L/∂h (overwritten)."""
        linear, d_h = self.linear, self.d_h
        if linear.activation is nn.ReLU:
            _aten.threshold_backward.grad_input(d_h, self.h, 0, grad_input=d_h)
        elif linear.activation is nn.Tanh:
            _aten.tanh_backward.grad_input(d_h, self.h, grad_input=d_h)
        torch.sum(d_h, 0, out=linear.d_bias)
        if linear.weight_bf16 is None:
            torch.mm(self.d_h_t, self.x, out=linear.d_weight)
            if self.d_x is not None:
                torch.mm(d_h, linear.weight, out=self.d_x)
        else:
            d_bf16 = d_h.bfloat16()
            linear.d_weight.copy_(d_bf16.T @ self.x)
            if self.d_x is not None:
                self.d_x.copy_(d_bf16 @ linear.weight_bf16)


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


def _between(stack: list[_Linear], d_x: Tensor | None, d_h: Tensor) -> list[_Layer]:
    """Make the layers of a stack from its output's gradient back to its input's."""
    layers: list[_Layer] = []
    for linear in reversed(stack):
        d_in = d_x if linear is stack[0] else d_h.new_empty(len(d_h), linear.weight.shape[1])
        layers.append(_Layer(linear, d_in, d_h))
        d_h = d_in if d_in is not None else d_h
    return layers[::-1]


def _forward(layers: list[_Layer], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer.forward(x)
    return x


def _backward(layers: list[_Layer]) -> None:
    for layer in reversed(layers):
        layer.backward()


def _transformed(pixels: Pixels, grey: Tensor, out: Tensor) -> Tensor:
    """Compute `pixels(grey)` into `out`, unless it is `grey` itself."""
    if isinstance(pixels, Normalised):
        return torch.sub(grey, pixels.mean, out=out).div_(pixels.scale)
    if isinstance(pixels, Threshold):
        return torch.gt(grey, pixels.at, out=out)
    return grey


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.reshape(-1), b.reshape(-1))
