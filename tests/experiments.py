"""A small suite as text, for tests of what becomes of one."""

import json
from typing import Any


def suite_text(metric: str, **request: Any) -> str:
    """A quick request of these fields, and the claim that a fitted Gaussian has less of `metric` than N(0, I)."""
    fields = {"priors": "fitted_gaussian", **request}
    said = "\n".join(f"{name} = {json.dumps(value)}" for name, value in fields.items())
    claim = f'says = "Lower"\ntest = "lower"\nmetric = "{metric}"\nrow = "fitted_gaussian"\nthan = "gaussian"\n'
    return f'title = "Small"\nquestion = "?"\n\n[[presets.quick.requests]]\n{said}\n\n[[claims]]\n{claim}'
