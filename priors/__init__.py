"""The interchangeable latent priors, one file each, and beside them the parts they share."""
