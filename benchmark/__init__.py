"""The harness: from a command line to a leaderboard of latent priors."""

__version__ = "0.1.0"
