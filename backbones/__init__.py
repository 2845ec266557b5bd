"""Frozen VAE backbones: their networks, their training, and the bundles that stage 2 works from."""
