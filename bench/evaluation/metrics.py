"""The table of metrics.

A row here is a column of the report: its header, arrow and ranking follow from the row.

Every value is an average over the images of the whole test set, never over batches; z is sampled wherever an
expectation over q is meant; β is 1 in every metric. `value` names an attribute of the lazily evaluated
`bench.evaluation.measure.Measured`. No torch is imported here, so the report and `bench parts` read the
table at no cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["higher", "lower"]
Footing = Literal["own", "common", "latent", "samples", "cost"]

BURDA = "Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders. ICLR 2016"
HOFFMAN = "Hoffman, Johnson: ELBO surgery. NIPS workshop on advances in approximate Bayesian inference, 2016"
KINGMA = "Kingma, Welling: Auto-Encoding Variational Bayes. arXiv 1312.6114, 2013"
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
    """One metric.

    Its name in records, how a table heads it, its unit, which way is better, and who defined it.
    """

    name: str
    title: str
    unit: str
    direction: Direction | None  # None: a description, never ranked
    footing: Footing
    value: str  # what it is of `Measured`, such as `footing.mse`
    reference: str = ""
    description: str = ""


METRICS = (
    # In the variant's own terms: comparable only inside one likelihood class
    Metric(
        "test_loss",
        "test loss",
        "as written",
        None,
        "own",
        "own.test_loss",
        description="the training objective as its script writes it, one sampled z",
    ),
    Metric(
        "test_loss_nats",
        "test loss, one image",
        "nats/image",
        None,
        "own",
        "own.test_loss_nats",
        description="the same loss, rescaled so that its reconstruction term is one image's sum",
    ),
    Metric(
        "elbo",
        "ELBO",
        "nats/image",
        "higher",
        "own",
        "own.elbo",
        reference=KINGMA,
        description="evidence lower bound under the likelihood that the objective implies",
    ),
    Metric(
        "reconstruction",
        "distortion",
        "nats/image",
        "lower",
        "own",
        "own.reconstruction",
        reference=ALEMI,
        description="−E_q ln p(t|z) under the likelihood that the objective implies",
    ),
    Metric(
        "kl",
        "KL (rate)",
        "nats/image",
        None,
        "own",
        "own.kl",
        reference=ALEMI,
        description="KL(q(z|x) ‖ p(z)) of the distribution that z is really drawn from",
    ),
    # On one footing: every decoder judged by the same two observation models
    Metric(
        "elbo_bernoulli",
        "ELBO, binarised",
        "nats/image",
        "higher",
        "common",
        "footing.elbo_bernoulli",
        reference=SALAKHUTDINOV,
        description="lower bound on E ln p(b), b ~ Bernoulli(x), the decoder's mean calibrated by one scalar",
    ),
    Metric(
        "log_px_bernoulli",
        "ln p(x), binarised",
        "nats/image",
        "higher",
        "common",
        "log_px.bernoulli",
        reference=BURDA,
        description="importance-weighted bound on ln p(b), one fixed binarisation of the test set",
    ),
    Metric(
        "elbo_gaussian",
        "code length, Gaussian",
        "bits/dim",
        "lower",
        "common",
        "footing.elbo_gaussian",
        reference=THEIS,
        description="upper bound on the code length of the 8-bit image; variance fitted on training images",
    ),
    Metric(
        "log_px_gaussian",
        "code length, Gaussian, K samples",
        "bits/dim",
        "lower",
        "common",
        "log_px.gaussian",
        reference=BURDA,
        description="the same by the importance-weighted bound",
    ),
    Metric(
        "mse",
        "MSE",
        "per pixel",
        "lower",
        "common",
        "footing.mse",
        description="E_q ‖x − m(z)‖² / D in grey levels of [0, 1]",
    ),
    # Latent space
    Metric(
        "active_units",
        "active units",
        "units",
        None,
        "latent",
        "latent.active_units",
        reference=BURDA,
        description="latents whose posterior mean varies over images by more than 0.01",
    ),
    Metric(
        "aggregate_kl",
        "KL(q(z) ‖ p(z))",
        "nats",
        "lower",
        "latent",
        "latent.aggregate_kl",
        reference=HOFFMAN,
        description="how far the mixture of all test posteriors has drifted from the prior",
    ),
    Metric(
        "mutual_information",
        "I(x; z)",
        "nats",
        None,
        "latent",
        "latent.mutual_information",
        reference=HOFFMAN,
        description="KL less aggregate KL: what z tells about which image; at most ln N",
    ),
    Metric(
        "linear_probe_accuracy",
        "linear probe",
        "accuracy",
        "higher",
        "latent",
        "latent.linear_probe_accuracy",
        reference=ALAIN,
        description="logistic regression from the posterior mean to the digit",
    ),
    Metric(
        "knn_accuracy",
        "5-NN",
        "accuracy",
        "higher",
        "latent",
        "latent.knn_accuracy",
        reference=COVER,
        description="five nearest neighbours in the posterior mean",
    ),
    # Samples from the prior
    Metric(
        "frechet_distance",
        "Fréchet distance",
        "features²",
        "lower",
        "samples",
        "samples.frechet_distance",
        reference=HEUSEL,
        description="between prior samples' means and test images, in the features of bench's own classifier",
    ),
    Metric(
        "precision",
        "precision",
        "fraction",
        "higher",
        "samples",
        "samples.precision",
        reference=KYNKAANNIEMI,
        description="samples that fall inside the manifold of test images (k = 3)",
    ),
    Metric(
        "recall",
        "recall",
        "fraction",
        "higher",
        "samples",
        "samples.recall",
        reference=KYNKAANNIEMI,
        description="test images that fall inside the manifold of samples (k = 3)",
    ),
    Metric(
        "coverage",
        "coverage",
        "fraction",
        "higher",
        "samples",
        "samples.coverage",
        reference=NAEEM,
        description="test images with a sample in their neighbourhood (k = 5)",
    ),
    # Cost
    Metric("parameters", "parameters", "", None, "cost", "cost.parameters"),
    Metric(
        "train_seconds",
        "training",
        "s",
        None,
        "cost",
        "cost.train_seconds",
        description="evaluation and tracking outside",
    ),
    Metric("images_per_second", "speed", "images/s", None, "cost", "cost.images_per_second"),
    Metric("peak_memory_mb", "peak memory", "MB", None, "cost", "cost.peak_memory_mb"),
)
