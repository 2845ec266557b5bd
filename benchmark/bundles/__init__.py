"""Frozen backbones with all that stage 2 needs of them: made, found, and their references to real images."""
