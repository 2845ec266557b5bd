"""The trials of a search space: trial i is a function of the space, a seed and i alone.

So a tuning can be interrupted, shared by several machines and made longer, and tries the same settings each time.
Trial 0 is the recipe; trials 1, 2, ... are points of a Sobol sequence, scrambled by the seed (Owen 1995), which fills
the space more evenly than random points do.
"""

from __future__ import annotations

import itertools
import warnings
from typing import Any

#: setting -> what `describe_space` says of it
Space = dict[str, dict[str, Any]]
#: figures of a number that is drawn: a label says it whole
FIGURES = 3


def trial_settings(space: Space, seed: int, number: int) -> dict[str, Any]:
    """The settings of a trial, over those of the recipe; none of trial 0."""
    if number == 0 or not space:
        return {}
    from scipy.stats import qmc

    sequence = qmc.Sobol(len(space), scramble=True, seed=seed)
    if number > 1:
        sequence.fast_forward(number - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that one point is no power of two
        (point,) = sequence.random(1).tolist()
    return {name: _value(of, share) for (name, of), share in zip(space.items(), point, strict=True)}


def _value(of: dict[str, Any], share: float) -> Any:
    """The value at a share in [0, 1) of a range, on a logarithmic scale, or of a list."""
    if "values" in of:
        return of["values"][int(share * len(of["values"]))]
    low, high = of["low"], of["high"]
    value = low * (high / low) ** share
    return round(value) if isinstance(low, int) else float(f"{value:.{FIGURES}g}")


def alternatives(space: Space, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """Every choice of these settings but the recipe's own."""
    found = [dict(zip(space, choice)) for choice in itertools.product(*(of["values"] for of in space.values()))]
    return [each for each in found if any(recipe[name] != value for name, value in each.items())]
