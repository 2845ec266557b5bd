"""The harness: from a command line to a leaderboard of latent priors."""

from benchmark.version import VERSION as __version__

__all__ = ["__version__"]
