"""What each kind of part has to do, tried on random input: the protocols as laws.

A law raises `Fault`, which says in plain words what is wrong; what else the part's code raises is one, too.
Densities are held to add up to 1 and to be what is sampled, by numerical integration or importance sampling.

Shapes as in `bench.parts.protocols`: K samples of z an image, B images, D pixels, Z latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.parts.likelihoods import Bernoulli
from bench.parts.networks import MLPEncoder
from bench.parts.posteriors import gaussian
from bench.parts.priors import StandardNormal
from bench.parts.protocols import LossTerms, TwoTermObjective
from bench.spec.images import arrays_of, check_arrays

SHAPE, LATENT = (28, 28), 3  # of what a part is made for: MNIST's images
PIXELS = math.prod(SHAPE)
IMAGES, SAMPLES = 5, 2
DRAWS = 40_000  # for what is estimated
OFF = 0.03  # what an estimate may be off by, beside six standard errors

Make = Callable[..., Any]  # makes the part of what bench gives it; its options are filled in


class Fault(Exception):  # noqa: N818  it is what the user is told, as a line
    """Say what is wrong with a part."""


def checked(
    value: object, what: str, shape: Sequence[int | None], *, slope: bool = False, wide: bool = False
) -> Tensor:
    """Take a finite tensor of a shape (None: any size): float32, or `wide`; with a gradient for `slope`."""
    due = f"[{', '.join('any' if n is None else str(n) for n in shape)}]"
    if not isinstance(value, Tensor):
        raise Fault(f"{what} is a {type(value).__name__}; due is a tensor {due}")
    fits = len(shape) == value.ndim and all(n in (None, m) for n, m in zip(shape, value.shape, strict=True))
    if not fits:
        raise Fault(f"{what} has the shape {[*value.shape]}; due is {due}")
    if value.dtype not in (torch.float32, torch.float64 if wide else torch.float32):
        raise Fault(f"{what} is of type {value.dtype}; due is torch.float32")
    if count := int((~value.isfinite()).sum()):
        raise Fault(f"{what} is not finite: {count} of {value.numel()} numbers are infinite or NaN")
    if slope and not value.requires_grad:
        raise Fault(f"{what} is not differentiable; a detach, no_grad, item or NumPy on the way cuts it off")
    return value


def _near(found: Tensor | float, due: Tensor | float, error: float = 0.0) -> bool:
    return bool(abs(float(found) - float(due)) <= 6 * error + OFF * max(1.0, abs(float(due))))


def _reached(part: object, outputs: Iterable[Tensor]) -> None:
    """Hold a network to training: it is a module, and a gradient reaches each of its parameters."""
    outputs = [*outputs]
    if not isinstance(part, nn.Module):
        if any(output.requires_grad for output in outputs):
            raise Fault("it is no torch.nn.Module, so its parameters would not be trained")
        return
    named = {name: p for name, p in part.named_parameters() if p.requires_grad}
    if not named:
        return
    if not any(output.requires_grad for output in outputs):
        raise Fault("its output is not differentiable; a detach, no_grad or NumPy on the way cuts it off")
    total = sum((output * torch.randn_like(output)).sum() for output in outputs)
    slopes = torch.autograd.grad(total, [*named.values()], allow_unused=True)  # type: ignore[arg-type]
    for name, slope in zip(named, slopes, strict=True):
        if slope is None:
            raise Fault(f"no gradient reaches its parameter {name}; forward leaves it out or cuts it off")
        if not slope.isfinite().all():
            raise Fault(f"the gradient of its parameter {name} is not finite")


def alone(part: Callable[[Tensor], Any], x: Tensor, module: object = None) -> None:
    """Hold a network in eval mode to one answer an image, whatever the other images are."""
    if isinstance(inner := module or part, nn.Module):
        inner.eval()
    with torch.no_grad():
        first, again, few = (heads_of(part(given)) for given in (x, x, x[:2]))
    if any(not torch.equal(a, b) for a, b in zip(first, again, strict=True)):
        raise Fault("in eval mode it gives other numbers for the same input; draw noise in train mode only")
    if any(not torch.allclose(a[:2], b, atol=1e-4, rtol=1e-3) for a, b in zip(first, few, strict=True)):
        raise Fault("in eval mode an image's result depends on the other images of the batch")


def heads_of(found: object) -> tuple[Tensor, ...]:
    """Take what a network gives: a tensor, or several. Raises Fault."""
    several = found if isinstance(found, tuple | list) else (found,)
    if not several or not all(isinstance(head, Tensor) for head in several):
        raise Fault(f"it gives a {type(found).__name__} of other things than tensors")
    return tuple(several)


def encoder(make: Make, posterior: bool = False) -> tuple[Tensor, ...]:
    """Hold an encoder to its protocol; gives its heads. `posterior` is one that takes other heads."""
    part = make(SHAPE, LATENT)
    x = torch.rand(IMAGES, PIXELS)
    before, found = x.clone(), part(x)
    if not torch.equal(x, before):
        raise Fault("it changes the images that it is given; work on a copy")
    if not isinstance(found, tuple | list):
        raise Fault(f"it gives a {type(found).__name__}; due is a tuple of heads, usually two")
    heads = heads_of(found)
    for i, head in enumerate(heads):
        due = (IMAGES, *head.shape[1:]) if posterior else (IMAGES, LATENT)
        checked(head, f"head {i + 1}", due)
    if not posterior and len(heads) != 2:
        raise Fault(f"it gives {len(heads)} heads; bench's posteriors take two")
    _reached(part, heads)
    alone(part, x)
    return heads


def decoder(make: Make, likelihood: bool = False) -> int:
    """Hold a decoder to its protocol; gives its outputs a pixel. `likelihood` is one that takes others."""
    part = make(SHAPE, LATENT)
    z = torch.randn(SAMPLES, IMAGES, LATENT)
    output = checked(part(z), "its output", (SAMPLES, IMAGES, None if likelihood else PIXELS))
    checked(part(z[0]), "its output of one z an image", (IMAGES, output.shape[-1]))
    _reached(part, [output])
    alone(part, z[0])
    return max(1, output.shape[-1] // PIXELS)


def posterior(made: Callable[..., Any], heads: Sequence[Tensor]) -> None:
    """Hold a posterior to its protocol, of an encoder's heads."""
    leaves = [head.detach().clone().requires_grad_() for head in heads]
    q = made(*leaves)
    z = checked(q.sample(torch.randn(SAMPLES, IMAGES, LATENT)), "sample()", (SAMPLES, IMAGES, LATENT))
    if not any(g is not None for g in _slopes(z, leaves)):
        raise Fault("sample() is not differentiable: no gradient reaches the heads through z")
    density = checked(q.log_prob(z), "log_prob()", (SAMPLES, IMAGES))
    if not any(g is not None for g in _slopes(density, [*leaves, z])):
        raise Fault("log_prob() is not differentiable; a detach, no_grad, item or NumPy cuts it off")
    one = made(*(head[:1].detach() for head in heads))
    z = one.sample(torch.randn(DRAWS, 1, LATENT))
    _density(z[:, 0], lambda z: one.log_prob(z.unsqueeze(1))[:, 0])
    for name in ("kl", "charged_kl"):
        if (found := getattr(q, name, None)) is not None:
            checked(found() if callable(found) else found, name, (IMAGES, LATENT))
    if hasattr(one, "mean") and hasattr(one, "stddev"):
        for name, due in (("mean", z.mean(0)), ("stddev", z.std(0))):
            found = checked(getattr(one, name), name, (1, LATENT))
            if not torch.allclose(found, due, atol=OFF, rtol=OFF):
                raise Fault(f"{name} is {found.tolist()[0]}; that of samples is {due.tolist()[0]}")
    if hasattr(one, "kl"):
        gain = one.log_prob(z)[:, 0] - StandardNormal().log_prob(z)[:, 0]
        error = float(gain.std()) / math.sqrt(DRAWS)
        if not _near(one.kl().sum(), gain.mean(), error):
            what = f"kl() is {float(one.kl().sum()):.4g} nats of an image"
            raise Fault(f"{what}; by log_prob and samples it is {float(gain.mean()):.4g}")


def prior(make: Make) -> None:
    """Hold a prior to its protocol; one that asks for an encoder is given that of a small VAE."""
    part = make()
    if hasattr(part, "attach"):
        network = MLPEncoder(SHAPE, LATENT, hidden=[7])
        part.attach(lambda images: gaussian(*network(images)))
    as_prior(part, LATENT)


def as_prior(part: Any, latent: int) -> None:
    """Hold a prior that is made already to its protocol."""
    z = checked(part.sample(torch.randn(SAMPLES, IMAGES, latent)), "sample()", (SAMPLES, IMAGES, latent))
    z = z.detach().requires_grad_()
    checked(part.log_prob(z), "log_prob()", (SAMPLES, IMAGES), slope=True)
    _reached(part, [part.log_prob(z.detach())])
    with torch.no_grad():
        _density(part.sample(torch.randn(DRAWS, latent)), part.log_prob)


def _slopes(value: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    if not value.requires_grad:
        return (None,) * len(leaves)
    return torch.autograd.grad(value.sum(), leaves, retain_graph=True, allow_unused=True)


@torch.no_grad()
def _density(z: Tensor, log_prob: Callable[[Tensor], Tensor]) -> None:
    """Hold a density of z to add up to 1 and to have the moments of its samples z [N, Z].

    Importance sampling from Student's t with 3 degrees of freedom, at the samples' moments.
    """
    mean, root = z.mean(0), torch.linalg.cholesky(z.T.cov() + 1e-12 * torch.eye(z.shape[1]))
    student = torch.distributions.StudentT(3.0)
    t = student.sample(z.shape)
    proposed = student.log_prob(t).sum(-1) - root.diagonal().log().sum()
    weights = (log_prob(mean + t @ root.T) - proposed).double().exp()
    total, error = float(weights.mean()), float(weights.std()) / math.sqrt(len(weights))
    if not _near(total, 1, error):
        what = f"log_prob() is not normalised: its density adds up to {total:.3g}"
        raise Fault(f"{what}; due is 1, so ln {total:.3g} is missing or a term is wrong")
    # In the samples' own scale: means 0 and variances 1, if log_prob is theirs
    share = (weights / weights.sum()).float().unsqueeze(1)
    for what, power in (("mean", 1), ("variance", 2)):
        found, size = (share * t**power).sum(0), (share.square() * t ** (2 * power)).sum(0).sqrt()
        for latent in range(len(found)):
            if not _near(found[latent], power - 1, float(size[latent])):
                raise Fault(
                    f"sample() does not draw from log_prob(): the {what} of latent {latent + 1} differs"
                )


def likelihood(make: Make, outputs: int = 1) -> None:
    """Hold a likelihood to its protocol, with so many outputs of the decoder a pixel."""
    part = make()
    output = torch.randn(SAMPLES, IMAGES, outputs * PIXELS, requires_grad=True)
    target = (torch.rand(IMAGES, PIXELS) > 0.5).float()
    checked(part.log_prob(output, target), "log_prob()", (SAMPLES, IMAGES), slope=True)
    checked(part.mean(output), "mean()", (SAMPLES, IMAGES, PIXELS), slope=True)
    far = torch.linspace(-100, 100, outputs * PIXELS).expand(1, 1, -1).requires_grad_()
    grey = part.mean(far)
    (slope,) = torch.autograd.grad(grey.sum(), far)
    if grey.isfinite().all() and not slope.isfinite().all():  # ln p(x) climbs along it
        raise Fault("mean() is finite for outputs from -100 to 100, and its gradient is not")
    if hasattr(part, "reconstruction_loss"):
        loss = part.reconstruction_loss(output, target)
        checked(loss, "reconstruction_loss()", (SAMPLES, IMAGES), slope=True)
    line = torch.linspace(-40, 40, 200_001)
    supports = {  # values of one pixel, and what each weighs
        "black and white": (torch.tensor([0.0, 1.0]), 1.0),
        "the 256 grey levels": (torch.arange(256) / 255, 1.0),
        "[0, 1]": (torch.linspace(0, 1, 20_001), 1 / 20_000),
        "the real line": (line, float(line[1] - line[0])),
    }
    for given in torch.tensor([-1.7, 0.3, 2.2]):
        o = given.expand(1, outputs)
        totals, mean = {}, float(part.mean(o).detach().squeeze())
        for name, (values, weight) in supports.items():
            with torch.no_grad():
                density = part.log_prob(o.expand(len(values), -1), values.unsqueeze(1)).double().exp()
            density *= weight
            if weight < 1:  # the trapezoidal rule
                density[[0, -1]] /= 2
            totals[name] = float(density.sum()), float((density * values).sum())
        fits = [name for name, (total, _) in totals.items() if _near(total, 1)]
        if not fits:
            told = ", ".join(f"{total:.3g} over {name}" for name, (total, _) in totals.items())
            raise Fault(f"log_prob() is not normalised: one pixel adds up to {told}; due is 1 over one")
        if not any(_near(totals[name][1], mean) for name in fits):
            due = totals[fits[0]][1]
            raise Fault(f"mean() is {mean:.3g} where the pixel's mean by log_prob() is {due:.3g}")


def pixels(make: Make) -> None:
    """Hold a transformation of grey levels to its protocol."""
    part = make()
    if not isinstance(getattr(part, "label", None), str):
        raise Fault("it has no label, the text that names the target in reports")
    if not (isinstance(getattr(part, "scale", None), int | float) and part.scale > 0):
        raise Fault("it has no scale, the grey levels in one unit of the transformed pixel: 1 where none is")
    grey = 0.01 + 0.98 * torch.rand(IMAGES, PIXELS)
    made = checked(part(grey.clone()), "what it makes", (IMAGES, PIXELS))
    back = checked(part.to_grey(made), "to_grey()", (IMAGES, PIXELS))
    if back.min() < 0 or back.max() > 1:
        raise Fault(f"to_grey() gives {float(back.min()):.3g} to {float(back.max()):.3g}; due is 0 to 1")
    if torch.allclose(back, grey, atol=1e-4):
        slope = float((part(grey + 1e-2) - made).abs().mean()) / 1e-2
        if not _near(slope * part.scale, 1):
            raise Fault(f"scale is {part.scale:.4g}; one unit of its pixels is {1 / slope:.4g} grey levels")


def objective(make: Make) -> None:
    """Hold an objective to its protocol, on the terms of a small VAE."""
    part = make()
    samples = getattr(part, "samples", 1)
    if not (isinstance(samples, int) and samples >= 1):
        raise Fault(f"samples is {samples!r}; due is a whole number of z an image, 1 or more")
    ratios = []
    for scale in (0.5, 1.0):
        mean, second = (scale * torch.randn(IMAGES, LATENT) for _ in range(2))
        weight = (scale * torch.randn(LATENT, PIXELS)).requires_grad_()
        q = gaussian(mean.requires_grad_(), second.requires_grad_())
        z = q.sample(torch.randn(samples, IMAGES, LATENT))
        terms = LossTerms(q, z, z @ weight, torch.rand(IMAGES, PIXELS), Bernoulli(), StandardNormal())
        for seen in (0, 10**7):
            loss = checked(part(terms, seen), "each image's loss", (IMAGES,), slope=True, wide=True)
        if all(g is None or not g.any() for g in _slopes(loss, [mean, weight])):
            raise Fault("its gradient is zero: nothing would be learned")
        if isinstance(part, TwoTermObjective):
            sizes = (IMAGES, PIXELS, LATENT)
            first, kl = (float(t.detach().mean()) for t in (terms.reconstruction_loss, terms.charged_kl))
            told = first + part.beta_eff(*sizes) * kl, part.as_written(first, kl, *sizes)
            ratios.append([float(loss.detach().mean()) / value for value in told])
    for name, values in zip(("beta_eff", "as_written"), zip(*ratios, strict=True), strict=bool(ratios)):
        if not math.isclose(*values, rel_tol=1e-3):
            raise Fault(f"{name}() does not follow from the loss that it gives")


def dataset(make: Make) -> None:
    """Hold a data set to its protocol: arrays of the right types and sizes, the same ones every time."""
    first, again = (arrays_of(make()) for _ in range(2))
    check_arrays(first)
    if first.keys() != again.keys() or not all((first[name] == again[name]).all() for name in first):
        raise Fault("it gives other data each time; draw what is random by a generator with a fixed seed")


def optimizer(make: Make) -> None:
    """Hold an optimizer to its protocol: it is torch's, and lowers a square."""
    weights = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    part = make([weights])
    if not isinstance(part, torch.optim.Optimizer):
        raise Fault(f"it gives a {type(part).__name__}; due is a torch.optim.Optimizer")
    before = float(weights.detach().square().sum())
    for _ in range(20):
        part.zero_grad()
        weights.square().sum().backward()
        part.step()
    checked(weights, "the parameter after 20 steps", (3,))
    if not float(weights.detach().square().sum()) < before:
        raise Fault("20 steps do not lower a sum of squares")


def schedule(make: Make) -> None:
    """Hold a schedule to its protocol: it is torch's, and keeps learning rates that can be used."""
    part = make(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1))
    if not isinstance(part, torch.optim.lr_scheduler.LRScheduler):
        raise Fault(f"it gives a {type(part).__name__}; due is a torch.optim.lr_scheduler.LRScheduler")
    for epoch in range(1, 21):
        part.optimizer.step()
        part.step()
        rate = float(part.get_last_lr()[0])
        if not (math.isfinite(rate) and rate >= 0):
            raise Fault(f"its learning rate after epoch {epoch} is {rate}; due is a number of 0 or more")
