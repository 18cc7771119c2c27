"""What the latent space holds: how far its aggregate drifted from the prior, how much of it is used, what it tells.

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

from bench.model.posteriors import Q, log_prior

ROWS = 500  # samples scored against the whole mixture at a time: 500 x 10,000 doubles are 40 MB
ACTIVE = 0.01  # Burda et al. 2016, section 5.2


def active_units(q: Q) -> int:
    """Latents with Var_x E_q[z] > 0.01 (Burda et al. 2016, section 5.2), of posteriors over N images."""
    return int((q.mean.var(0) > ACTIVE).sum()) if len(q.mean) > 1 else 0


def kl_per_unit(q: Q) -> list[float]:
    """Mean KL of each latent, nats, [Z]."""
    return q.kl().double().mean(0).tolist()  # type: ignore[no-any-return]


@torch.no_grad()
def aggregate_kl(q: Q, z: Tensor) -> float:
    """KL(q(z) ‖ p(z)), nats: q(z) the mixture of the N posteriors, by Monte Carlo over its samples z [M, Z].

    E ln q(z) − ln p(z) with ln q(z) = logsumexp_n ln q(z|x_n) − ln N (Hoffman & Johnson 2016, eq. 10). In double precision:
    the squares below cancel where a posterior is narrow.
    """
    mean, precision = q.mean.double(), q.scale.double() ** -2
    z = z.double()
    # (z − μ)²/σ² = z²·(1/σ²) − 2z·(μ/σ²) + μ²/σ²: the [M, N] table as two matrix products
    constant = (mean**2 * precision + 2 * q.log_scale.double()).sum(-1) + z.shape[1] * math.log(2 * math.pi)
    weights = torch.cat([precision, -2 * mean * precision], 1).T  # [2Z, N]
    total = 0.0
    for rows in z.split(ROWS):
        log_q = -0.5 * (torch.cat([rows**2, rows], 1) @ weights + constant)
        total += float((torch.logsumexp(log_q, 1) - math.log(len(mean)) - log_prior(rows)).sum())
    return total / len(z)


def linear_probe_accuracy(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Test accuracy of scikit-learn's logistic regression on posterior means [N, Z] of the training set."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 steps are the definition, converged or not
        probe.fit(train.cpu().numpy(), labels.cpu().numpy())
    return float(probe.score(test.cpu().numpy(), test_labels.cpu().numpy()))


def knn_accuracy(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Test accuracy of scikit-learn's five nearest neighbours on posterior means [N, Z] of the training set."""
    knn = KNeighborsClassifier(n_neighbors=5).fit(train.cpu().numpy(), labels.cpu().numpy())
    return float(knn.score(test.cpu().numpy(), test_labels.cpu().numpy()))
