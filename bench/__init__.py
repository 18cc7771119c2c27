"""bench: the fair, reproducible comparison of variational autoencoders."""

__version__ = "0.1.0"
