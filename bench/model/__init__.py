"""The model: networks, posteriors and likelihoods, composed by `vae.VAE`."""
