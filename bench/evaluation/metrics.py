"""The table of metrics: a row here is a column of the report, with its header, arrow and ranking.

To add a metric, write a row, and a property of `bench.evaluation.measure.Measured` that gives its value.
Values are averages over the images of the whole test set, never over batches. z is sampled wherever an
expectation over q is meant; β is 1 in every metric. No torch is imported here: the report and `bench parts`
read the table at no cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Direction = Literal["higher", "lower"]
Footing = Literal["own", "common", "details", "latent", "samples", "cost"]
Scale = Literal["linear", "log", "logit"]

# The version of these definitions, which each record names. A value of a metric whose `since` is above its
# record's yardstick is of an earlier definition: it may be shown, never compared with newer ones.
YARDSTICK = 2

BURDA = "Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders. ICLR 2016"
COVER_THOMAS = "Cover, Thomas: Elements of Information Theory. 2nd edition, Wiley, 2006"
GRETTON = "Gretton et al.: A kernel two-sample test. JMLR, 2012"
HOFFMAN = "Hoffman, Johnson: ELBO surgery. NIPS workshop on advances in approximate Bayesian inference, 2016"
KINGMA = "Kingma, Welling: Auto-Encoding Variational Bayes. arXiv 1312.6114, 2013"
CREMER = "Cremer, Li, Duvenaud: Inference suboptimality in variational autoencoders. ICML 2018"
GROSSE = "Grosse, Ghahramani, Adams: Sandwiching the marginal likelihood with bidirectional Monte Carlo. 2015"
KONG = "Kong: A note on importance sampling using standardized weights. University of Chicago, 1992"
WU = "Wu et al.: On the quantitative analysis of decoder-based generative models. ICLR 2017"
KYNKAANNIEMI = "Kynkäänniemi et al.: Improved precision and recall metric for generative models. NeurIPS 2019"
NAEEM = "Naeem et al.: Reliable fidelity and diversity metrics for generative models. ICML 2020"
HEUSEL = "Heusel et al.: GANs trained by a two time-scale update rule. NeurIPS 2017"
ALEMI = "Alemi et al.: Fixing a broken ELBO. ICML 2018"
THEIS = "Theis, van den Oord, Bethge: A note on the evaluation of generative models. ICLR 2016"
SALAKHUTDINOV = "Salakhutdinov, Murray: On the quantitative analysis of deep belief networks. ICML 2008"
ALAIN = (
    "Alain, Bengio: Understanding intermediate layers using linear classifier probes. arXiv 1610.01644, 2016"
)
COVER = "Cover, Hart: Nearest neighbor pattern classification. IEEE Trans. Inf. Theory, 1967"


@dataclass(frozen=True)
class Metric:
    """Describe one metric: its name in records, its heading and unit, which way is better, who defined it."""

    name: str
    title: str
    unit: str
    direction: Direction | None  # None: a description, never ranked
    footing: Footing
    value: str  # where `Measured` has it, such as "elbos.mse"
    reference: str = ""
    description: str = ""
    since: int = 1  # the yardstick in which its present definition began
    scale: Scale = "linear"  # what it is tested on: log where it is bounded below, logit for a fraction
    shared: bool = False  # its error is the same in every seed: of a subset of images, of feature networks


METRICS = (
    # In the variant's own terms: comparable only inside one likelihood class
    Metric("test_loss", "test loss", "as written", None, "own", "own.test_loss",
           "", "the training objective as its script writes it, one sampled z"),
    Metric("test_loss_nats", "test loss, one image", "nats/image", None, "own", "own.test_loss_nats",
           "", "the same loss, rescaled so that its reconstruction term is one image's sum"),
    Metric("elbo", "ELBO", "nats/image", "higher", "own", "own.elbo",
           KINGMA, "evidence lower bound under the likelihood that the objective implies"),
    Metric("reconstruction", "distortion", "nats/image", "lower", "own", "own.reconstruction",
           ALEMI, "−E_q ln p(t|z) under the likelihood that the objective implies"),
    Metric("kl", "KL (rate)", "nats/image", None, "own", "own.kl",
           ALEMI, "KL(q(z|x) ‖ p(z)) of the distribution that z is really drawn from"),
    # On one footing: every decoder judged by the same observation models
    Metric("elbo_bernoulli", "ELBO, binarised", "nats/image", "higher", "common", "elbos.elbo_bernoulli",
           SALAKHUTDINOV,
           "lower bound on E ln p(b), b ~ Bernoulli(x); temperature and bias fitted on training images", 2),
    Metric("log_px_bernoulli", "ln p(x), binarised", "nats/image", "higher", "common",
           "binarised.log_px.value", WU,
           "ln p(b) of one fixed binarisation: quadrature for Z ≤ 2, else annealed from a refitted q", 2,
           shared=True),
    Metric("elbo_threshold", "ELBO, thresholded", "nats/image", "higher", "common", "elbos.elbo_threshold",
           KINGMA, "lower bound on ln p(b) of black or white pixels b = (x > 1/2), calibrated likewise", 2),
    Metric("log_px_threshold", "ln p(x), thresholded", "nats/image", "higher", "common",
           "thresholded.log_px.value", WU, "ln p(b) of those pixels", 2, shared=True),
    Metric("mse", "MSE", "per pixel", "lower", "common", "elbos.mse",
           "", "E_q ‖x − m(z)‖² / D in grey levels of [0, 1]", scale="log"),
    # Details of the common footing
    Metric("amortisation_gap", "amortisation gap", "nats/image", "lower", "details",
           "binarised.amortisation_gap.value", CREMER,
           "ELBO of a posterior refitted to each binarised image, less that of the encoder's", 2,
           shared=True),
    Metric("iwae_bernoulli", "importance-weighted bound, binarised", "nats/image", "higher", "details",
           "encoder_bound.bound.value", BURDA,
           "bound on ln p(b) by K samples of the encoder's q; same binarisation", 2, shared=True),
    Metric("iwae_ess", "effective samples of the encoder", "of K", None, "details", "encoder_bound.ess",
           KONG, "how many independent samples the K of that bound are worth", 2),
    Metric("annealed_ess", "effective chains", "of 4", None, "details", "binarised.ess",
           KONG, "how many equally good chains the annealed ones of ln p(b) are worth", 2),
    Metric("bdmc_gap", "gap of ln p(b)", "nats/image", None, "details", "bdmc_gap",
           GROSSE, "upper less lower annealed bound on images that the model drew: what may be missing", 2),
    Metric("gaussian_bits_per_dim", "code length, Gaussian", "bits/dim", "lower", "details",
           "elbos.gaussian_bits_per_dim", THEIS,
           "upper bound on the code length of the 8-bit image; variance fitted on training images"),
    # The latent space
    Metric("active_units", "active units", "units", None, "latent", "active_units",
           BURDA, "latents whose posterior mean varies over images by more than 0.01"),
    Metric("prior_divergence", "KL(moments of q(z) ‖ p(z))", "nats", "lower", "latent", "prior_divergence",
           COVER_THOMAS, "drift of the mean and covariance of q(z); a lower bound on KL(q(z) ‖ p(z))",
           scale="log"),
    Metric("prior_mmd", "MMD² to p(z)", "distance/√Z", "lower", "latent", "drift.value",
           GRETTON, "between draws of q(z) and of p(z), the kernel −‖z − z'‖/√Z: it has no upper limit"),
    Metric("aggregate_kl", "KL(q(z) ‖ p(z))", "nats", None, "latent", "aggregate_kl",
           HOFFMAN, "KL less I(x; z): an upper bound where I(x; z) is at its most, ln N"),
    Metric("mutual_information", "I(x; z)", "nats", None, "latent", "mutual_information",
           HOFFMAN, "KL less aggregate KL: what z tells about which image; at most ln N"),
    Metric("linear_probe_accuracy", "linear probe", "accuracy", "higher", "latent", "linear_probe_accuracy",
           ALAIN, "logistic regression from the posterior mean to the digit", scale="logit"),
    Metric("knn_accuracy", "5-NN", "accuracy", "higher", "latent", "knn_accuracy",
           COVER, "five nearest neighbours in the posterior mean", scale="logit"),
    # Samples from the prior
    Metric("frechet_distance", "Fréchet distance", "features²", "lower", "samples",
           "samples.frechet_distance", HEUSEL,
           "prior samples' means against test images, in the features of bench's three classifiers", since=2,
           scale="log", shared=True),
    Metric("density", "density", "neighbours", "higher", "samples", "samples.density",
           NAEEM, "test images (k = 5) around a sample, over how many would be if both were alike", since=2,
           scale="log", shared=True),
    Metric("coverage", "coverage", "fraction", "higher", "samples", "samples.coverage",
           NAEEM, "test images with a sample in their neighbourhood (k = 5)", since=2,
           scale="logit", shared=True),
    Metric("recall", "recall", "fraction", "higher", "samples", "samples.recall",
           KYNKAANNIEMI, "test images that fall inside the manifold of samples (k = 3)", since=2,
           scale="logit", shared=True),
    # What the run cost
    Metric("parameters", "parameters", "", None, "cost", "parameters"),
    Metric("train_seconds", "training", "s", None, "cost", "train_seconds",
           "", "evaluation and tracking outside"),
    Metric("images_per_second", "speed", "images/s", None, "cost", "images_per_second"),
    Metric("peak_memory_mb", "peak memory", "MB", None, "cost", "peak_memory_mb"),
)  # fmt: skip

NEED_DENSITY = frozenset(  # of q(z|x), those of the ELBO unless its KL has a closed form
    (
        *("elbo", "kl", "elbo_bernoulli", "elbo_threshold", "amortisation_gap", "iwae_bernoulli", "iwae_ess"),
        *("gaussian_bits_per_dim", "aggregate_kl", "mutual_information"),
    )
)


def own_metrics(variants: Iterable[Mapping[str, Any]]) -> list[Metric]:
    """Give the metrics of the user's own that variants say they have: of the model, so all are compared."""
    said = {each["name"]: each for settings in variants for each in settings.get("metrics") or ()}
    return [
        Metric(name, m["title"], m.get("unit", ""), m.get("direction"), "common", "", "", "of the user's own")
        for name, m in said.items()
        if name not in {metric.name for metric in METRICS}
    ]
