"""The latent space: how many units are active, what they tell about the image and about its label.

Shapes: N images, M samples, Z latents.
"""

from __future__ import annotations

import math
import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from bench.parts.posteriors import Q

ROWS = 500  # samples scored against the whole mixture at a time: 500 x 10,000 doubles are 40 MB
ACTIVE = 0.01  # Burda et al. 2016, section 5.2


def active_units(q: Q) -> int:
    """Count latents with Var_x E_q[z] > 0.01 over N posteriors (Burda et al. 2016, section 5.2)."""
    return int((q.mean.var(0) > ACTIVE).sum()) if len(q.mean) > 1 else 0


@torch.no_grad()
def mutual_information(q: Q, z: Tensor) -> float:
    """Estimate I(x; z) under q(z|x_n) and uniform n, nats, from one sample z [N, Z] of each posterior.

    I = E ln q(z|x_n) − ln q(z), q(z) = (1/N) Σ q(z|x_m) (Hoffman & Johnson 2016, section 3); at most ln N.
    KL(q(z) ‖ p(z)) is the mean KL less I(x; z): the mean KL has a closed form, so this is less noisy than
    sampling ln q(z) − ln p(z). In double precision, because squares cancel where a posterior is narrow.
    """
    place = torch.device("cpu") if q.mean.device.type == "mps" else q.mean.device  # mps has no float64
    mean, scale, log_scale, z = (t.to(place).double() for t in (q.mean, q.scale, q.log_scale, z))
    precision = scale**-2
    # Not q.log_prob: (z − μ)²/σ² = z²·(1/σ²) − 2z·(μ/σ²) + μ²/σ² scores all pairs by one matrix product
    constant = (mean**2 * precision + 2 * log_scale).sum(-1)
    weights = torch.cat([precision, -2 * mean * precision], 1).T  # [2Z, N]
    total = 0.0
    for start in range(0, len(z), ROWS):
        rows = z[start : start + ROWS]
        log_q = -0.5 * (torch.cat([rows**2, rows], 1) @ weights + constant)  # less (Z/2) ln 2π, which cancels
        own = log_q.diagonal(start)
        total += float((own - torch.logsumexp(log_q, 1)).sum())
    return total / len(z) + math.log(len(z))


def linear_probe_accuracy(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Give the test accuracy of scikit-learn's logistic regression on posterior means [N, Z]."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 steps are the definition, converged or not
        probe.fit(train.cpu().numpy(), labels.cpu().numpy())
    return float(probe.score(test.cpu().numpy(), test_labels.cpu().numpy()))


def knn_accuracy(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Give the test accuracy of scikit-learn's 5 nearest neighbours on posterior means [N, Z]."""
    knn = KNeighborsClassifier(n_neighbors=5).fit(train.cpu().numpy(), labels.cpu().numpy())
    return float(knn.score(test.cpu().numpy(), test_labels.cpu().numpy()))
