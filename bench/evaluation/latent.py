"""The latent space: how many units are active, what they tell about the image and about its label.

Scikit-learn is imported where it is used: a plan needs none.
Shapes: N images, M samples, Z latents.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from bench.engine.device import stream
from bench.evaluation.bound import Mean
from bench.evaluation.posteriors import Encoded, Posteriors

PAIRED = 1000  # samples scored under the posteriors of all images, where these have no matrix form
ROWS = 500  # samples scored against the whole mixture at a time: 500 x 10,000 doubles are 40 MB
ACTIVE = 0.01  # Burda et al. 2016, section 5.2


def active_units(q: Posteriors) -> int:
    """Count latents with Var_x E_q[z] > 0.01 over N posteriors (Burda et al. 2016, section 5.2)."""
    return int((q.mean.var(0) > ACTIVE).sum()) if len(q.mean) > 1 else 0


def aggregate_moments(q: Posteriors) -> tuple[Tensor, Tensor]:
    """Give mean [Z] and covariance [Z, Z] of q(z) = (1/N) Σ q(z|x_n).

    Of diagonal Gaussians E μ, and Cov μ + diag(E σ²); of others the moments of samples.
    """
    if isinstance(q, Encoded):
        return q.aggregate_moments()
    mean, scale = _double(q.mean, q.scale)
    centred = mean - mean.mean(0)
    return mean.mean(0), centred.T @ centred / len(mean) + (scale**2).mean(0).diag()


def gaussian_divergence(mean: Tensor, covariance: Tensor) -> float:
    """Compute KL(N(mean [Z], covariance [Z, Z]) ‖ N(0, I)), nats; infinite where the covariance is singular.

    With the moments of q(z) it is a lower bound of KL(q(z) ‖ N(0, I)): of all densities with these moments
    the Gaussian has the largest entropy (Cover & Thomas 2006, theorem 8.6.5).
    """
    mean, covariance = _double(mean, covariance)
    return float(0.5 * (covariance.trace() + mean @ mean - len(mean) - torch.logdet(covariance)))


def mmd(a: Tensor, b: Tensor) -> Mean:
    """Estimate MMD²(a, b) of as many samples [N, Z] of each, without bias (Gretton et al. 2012, eq. 3).

    The kernel −‖z − z'‖/√Z makes it the energy distance (Sejdinovic et al. 2013, theorem 22). It has no
    bandwidth to choose and no upper limit: the MMD² of a Gaussian kernel ends below 2, however far the two
    are apart. √Z is the scale of distances in Z latents. The standard error is that of the U-statistic's
    projections (Hoeffding 1948).
    """
    a, b = _double(a, b)
    count = len(a)

    def distances(rows: Tensor, columns: Tensor) -> Tensor:
        """Add up the distances of each row to all columns, [N]."""
        return torch.cat([torch.cdist(part, columns).sum(1) for part in rows.split(ROWS)])

    within = (distances(a, a) + distances(b, b)) / (count - 1)
    projections = ((distances(a, b) + distances(b, a)) / count - within) / math.sqrt(a.shape[1])
    return Mean(float(projections.mean()), float(2 * projections.std() / math.sqrt(count)))


@torch.no_grad()
def mutual_information(q: Posteriors, z: Tensor) -> float:
    """Estimate I(x; z) under q(z|x_n) and uniform n, nats, from one sample z [N, Z] of each posterior.

    I = E ln q(z|x_n) − ln q(z), q(z) = (1/N) Σ q(z|x_m) (Hoffman & Johnson 2016, section 3); at most ln N.
    KL(q(z) ‖ p(z)) is the mean KL less I(x; z): the mean KL has a closed form, so this is less noisy than
    sampling ln q(z) − ln p(z). In double precision, because squares cancel where a posterior is narrow.
    """
    if isinstance(q, Encoded):
        return _information_of(q, z)
    mean, scale, log_scale, z = _double(q.mean, q.scale, q.log_scale, z)
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


def _information_of(q: Encoded, z: Tensor) -> float:
    """Estimate the same of any posteriors with a density, the mean over images over PAIRED of them."""
    some = torch.randperm(len(z), generator=stream(0, "pairs"))[:PAIRED].to(z.device)
    columns = []
    for part, each in q.each():
        pairs = (rows.unsqueeze(1).expand(-1, part.stop - part.start, -1) for rows in z[some].split(50))
        columns.append(torch.cat([each.log_prob(pair) for pair in pairs]))
    (log_q,) = _double(torch.cat(columns, 1))  # [M, N]
    own = log_q.gather(1, some.to(log_q.device).unsqueeze(1)).squeeze(1)
    return float((own - torch.logsumexp(log_q, 1)).mean()) + math.log(len(z))


def linear_probe_accuracy(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Give the test accuracy of scikit-learn's logistic regression on posterior means [N, Z]."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 steps are the definition, converged or not
        probe.fit(train.cpu().numpy(), labels.cpu().numpy())
    return float(probe.score(test.cpu().numpy(), test_labels.cpu().numpy()))


def knn_accuracy(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Give the test accuracy of scikit-learn's 5 nearest neighbours on posterior means [N, Z]."""
    from sklearn.neighbors import KNeighborsClassifier

    knn = KNeighborsClassifier(n_neighbors=5).fit(train.cpu().numpy(), labels.cpu().numpy())
    return float(knn.score(test.cpu().numpy(), test_labels.cpu().numpy()))


def _double(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Give tensors in double precision, on the CPU where their device has none (mps)."""
    return tuple((t.cpu() if t.device.type == "mps" else t).double() for t in tensors)
