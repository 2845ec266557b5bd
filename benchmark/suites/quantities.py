"""What a figure or a claim may speak of, by the words that a suite's file has for it.

fd, mmd_imq, c2st_auc, ...   a value that a metric measures
gain.fd                      that of N(0, I) less the row's, seed by seed: what the prior improves
gap_closed                   the share of the gap in FD that the row closes, in %; of figures alone
seconds                      of sampling 1,000 latents
fit.held_out_nll             what a fit says of itself
prior.gp_weight              a setting of the prior
bundle.kl_weight             a setting of the bundle's backbone
step, log.upper              of figures alone: what a fit logged, step by step
log.upper > log.estimate     the share of the logged steps at which the one exceeds the other
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, cast

from benchmark.errors import UsageError, unknown_name
from benchmark.metrics.api import Metric
from benchmark.protocol import Protocol

Kind = Literal["metric", "gain", "gap_closed", "seconds", "fit", "prior", "bundle", "step", "log", "share"]
#: begin a quantity whose name follows a dot
NAMED = ("gain", "fit", "prior", "bundle", "log")
#: stand alone
ALONE = ("gap_closed", "seconds", "step")
#: have one value a row, whatever the seed
SETTINGS = ("prior", "bundle")
#: a claim can be about these: they have one number a seed
OF_CLAIMS = ("metric", "gain", "seconds", "fit", "share")
_SHARE = re.compile(r"log\.(\w+) > log\.(\w+)")


@dataclass(frozen=True)
class Quantity:
    """`name`: of the value or the setting; `other`: what a share exceeds. `typed`: as the file has it."""

    kind: Kind
    name: str
    typed: str
    other: str = ""

    @property
    def is_time(self) -> bool:
        """Whether it is compared as a ratio."""
        return self.kind == "seconds" or (self.kind, self.name) == ("fit", "fit_seconds")

    @property
    def title(self) -> str:
        """As an axis and a heading have it."""
        if self.kind == "gain":
            return f"{self.name} of N(0, I) less the row's"
        if self.kind == "share":
            return f"share of steps with {self.name} > {self.other}"
        said = {"gap_closed": "gap closed, %", "seconds": "seconds / 1,000 latents", "step": "step"}
        return said.get(self.kind, self.name)


def parse_quantity(typed: str) -> Quantity:
    """The quantity of a word. Raises `UsageError` for one that is made wrongly; which metrics exist is asked later."""
    if found := _SHARE.fullmatch(typed):
        return Quantity("share", found[1], typed, found[2])
    if typed in ALONE:
        return Quantity(cast(Kind, typed), typed, typed)
    kind, dot, name = typed.partition(".")
    if dot and kind not in NAMED:
        raise unknown_name("kind of quantity", kind, NAMED)
    if not re.fullmatch(r"\w+", name if dot else typed):
        raise UsageError(f"'{typed}' is no quantity: expected, for example, fd, gain.fd, prior.steps or log.upper")
    return Quantity(cast(Kind, kind), name, typed) if dot else Quantity("metric", typed, typed)


def require_measured(quantity: Quantity, metrics: Iterable[type[Metric]]) -> None:
    """Raise `UsageError` where no metric of these measures it."""
    wanted = {"metric": quantity.name, "gain": quantity.name, "gap_closed": "fd", "seconds": "prior_seconds_1000"}
    if quantity.kind not in wanted:
        return
    known, patterns = set[str](), set[str]()
    for metric in metrics:
        columns = metric.columns(_SOME_PROTOCOL)
        known |= {column.value for column in columns or []}
        patterns |= set(metric.values) if columns is not None else {"*"}
    if not any(fnmatchcase(wanted[quantity.kind], each) for each in known | patterns):
        raise unknown_name("value", wanted[quantity.kind], known)


#: names of columns hang on a protocol's batches at most
_SOME_PROTOCOL = Protocol(
    preset="quick",
    version=0,
    budget="quick",
    split="test",
    extractor={"name": ""},
    score="FD",
    features=0,
    generated=0,
    reference=0,
    preparation="",
    mmd_latents=0,
    timing_seconds=0,
)
