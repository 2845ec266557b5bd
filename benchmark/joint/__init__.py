"""Training a prior together with its VAE, compared with fitting it afterwards."""
