"""Whether a fit still has numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from priors.api import Diverged


def require_finite(facts: Mapping[str, float], steps: int) -> None:
    """Raise `Diverged` with the names of those that are not finite after so many energy steps."""
    bad = [name for name, value in facts.items() if not math.isfinite(value)]
    if bad:
        raise Diverged(f"{', '.join(bad)} not finite after {steps} energy steps")
