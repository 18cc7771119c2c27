"""What YAML can name: networks, posteriors, likelihoods, pixels, objectives, optimizers; and their VAE."""
