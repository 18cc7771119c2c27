"""The references of exactly the metrics and parts that a report uses."""

from __future__ import annotations

from bench.evaluation.metrics import BURDA, KINGMA
from bench.report.results import Results

STATISTICS = (
    "Student: The probable error of a mean. Biometrika, 1908",
    "Welch: The generalization of 'Student's' problem when several different population variances are"
    " involved. Biometrika, 1947",
    "Hsu: Constrained simultaneous confidence intervals for multiple comparisons with the best. Annals of"
    " Statistics, 1984",
    "Schuirmann: A comparison of the two one-sided tests procedure and the power approach. Journal of"
    " Pharmacokinetics and Biopharmaceutics, 1987",
    "Holm: A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics, 1979",
)

SIGMA_VAE = (
    "Rybkin, Daniilidis, Levine: Simple and effective VAE training with calibrated decoders. ICML 2021"
)
BATCH_NORM = "Ioffe, Szegedy: Batch normalization. ICML 2015"

# Parts that someone defined in a paper; bench's own and the plain ones (mlp, linear) need none
PARTS = {
    "encoder": {"conv-bn": BATCH_NORM},
    "decoder": {"conv-bn": BATCH_NORM},
    "posterior": {
        "gaussian": KINGMA,
        "flow": "Rezende, Mohamed: Variational inference with normalizing flows. ICML 2015",
    },
    "prior": {
        "mixture": "Dilokthanakul et al.: Deep unsupervised clustering with Gaussian mixture variational"
        " autoencoders. arXiv 1611.02648, 2016",
        "vamp": "Tomczak, Welling: VAE with a VampPrior. AISTATS 2018",
    },
    "objective": {
        "elbo": KINGMA,
        "warm-up": "Sønderby et al.: Ladder variational autoencoders. NeurIPS 2016",
        "free-bits": "Kingma et al.: Improving variational inference with inverse autoregressive flow."
        " NeurIPS 2016",
        "iwae": BURDA,
        "beta-tcvae": "Chen et al.: Isolating sources of disentanglement in variational autoencoders. NeurIPS"
        " 2018",
        "mmd": "Zhao, Song, Ermon: InfoVAE: information maximizing variational autoencoders. arXiv"
        " 1706.02262, 2017",
    },
    "likelihood": {
        "gaussian": SIGMA_VAE,
        "gaussian-learned": SIGMA_VAE,
        "continuous-bernoulli": "Loaiza-Ganem, Cunningham: The continuous Bernoulli: fixing a pervasive error"
        " in variational autoencoders. NeurIPS 2019",
    },
    "optimizer": {
        "adam": "Kingma, Ba: Adam: a method for stochastic optimization. ICLR 2015",
        "adamw": "Loshchilov, Hutter: Decoupled weight decay regularization. ICLR 2019",
    },
    "dataset": {
        "mnist": "LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition."
        " Proceedings of the IEEE, 1998",
        "fashion-mnist": "Xiao, Rasul, Vollgraf: Fashion-MNIST. arXiv 1708.07747, 2017",
        "kmnist": "Clanuwat et al.: Deep learning for classical Japanese literature. arXiv 1812.01718, 2018",
        "digits": "Alpaydin, Kaynak: Optical recognition of handwritten digits. UCI repository, 1998",
    },
}
BETA = "Higgins et al.: beta-VAE. ICLR 2017"
PPCA = "Tipping, Bishop: Probabilistic principal component analysis. JRSS B, 1999"


def references(results: Results) -> list[str]:
    """List the references by author, each once."""
    found = {m.reference for m in results.measured() if m.reference}
    for kind, known in PARTS.items():
        used = {variant.part(kind)[0] for variant in results.variants} | {results.dataset}
        found |= {reference for name, reference in known.items() if name in used}
    if any(v.beta is not None and v.beta != 1 for v in results.variants):
        found.add(BETA)
    if any("prob" in str(row.get("name", "")).lower() for row in results.baselines.get("rows", [])):
        found.add(PPCA)
    return sorted(found | set(STATISTICS if results.finished else ()))
