"""The importance-weighted bound on ln p(x), which an objective and a metric share."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """Bound ln p(x) from below by ln (1/K) Σ w (Burda et al. 2016, eq. 8), nats.

    Takes log-weights ln w = ln p(x|z) + ln p(z) − ln q(z|x) of K samples and B images, [K, B]; gives [B]. At
    K = 1 it is the ELBO with one sample.
    """
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))
