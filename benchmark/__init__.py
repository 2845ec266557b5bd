"""A benchmark of latent priors for frozen, pretrained VAEs.

From Python: `benchmark.run`, `wrap`, `load_results`, `load_prior`, `Request`.
"""

from benchmark.version import VERSION

__version__ = VERSION
__all__ = ["Request", "__version__", "load_prior", "load_results", "run", "wrap"]


def __getattr__(name: str) -> object:
    """Import what is asked for when it is asked for: the command line starts without what it does not use."""
    if name not in __all__:
        raise AttributeError(f"module 'benchmark' has no attribute '{name}'")
    from benchmark import library

    return getattr(library, name)
