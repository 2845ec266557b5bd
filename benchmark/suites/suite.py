"""A suite as its file says it: question, presets of what is trained and run, figures, claims.

    title = "..."                          one line
    question = "..."                       what is to be found out, and why one may ask
    [presets.quick.bundles.NAME]           VAEs that are trained where they are missing (`Training`)
    [[presets.quick.requests]]             what is run: fields of `Request`; `bundle` may be a NAME of above
    [[figures]]                            `Figure`
    [[claims]]                             `says`, `test` and the fields of that test

Presets are quick, default and full. What a file says is read strictly: what nobody knows is one line.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from benchmark.datasets.splits import FEWEST
from benchmark.errors import UsageError, unknown_name
from benchmark.report.statistics import MARGIN
from benchmark.report.verdicts import Direction
from benchmark.request import Request
from benchmark.settings import construct, format_value, read_toml
from benchmark.store.sealed import content_hash

PRESETS = ("quick", "default", "full")
SHIPPED = Path(__file__).parent
OF_GPU = "-cuda"  # ends the names of pages that tell of a GPU
#: fields of a request that the command decides, for all requests alike
OF_COMMAND = ("results", "workers", "per_gpu", "device", "executor", "job_timeout", "retry", "data_root")

Margin = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Line = Annotated[str, Field(min_length=1)]
Words = Annotated[tuple[str, ...], Field(min_length=1)]
Kept = Annotated[int, Field(ge=FEWEST)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Training(_Part):
    """A VAE to be trained, or, where a setting has a list of values, one for each of them.

    `images`: how many training images, None for all. `settings` are the backbone's. `keep`: posteriors that are kept
    of train, val and test images.
    """

    dataset: str
    backbone: str = "conv_vae"
    settings: dict[str, Any] = Field(default_factory=dict)
    images: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)
    keep: tuple[Kept, Kept, Kept] | None = None

    @field_validator("settings")
    @classmethod
    def _require_distinct(cls, settings: dict[str, Any]) -> dict[str, Any]:
        for name, value in settings.items():
            if isinstance(value, list) and any(value.count(one) > 1 for one in value):
                raise ValueError(
                    f"{name} = {value}: each value of a list is trained, and two of these are equal; a setting that is "
                    f"itself a list stands in one of its own: {name} = [{value}]"
                )
        return settings

    def each(self) -> list[Training]:
        """One training for each choice of settings."""
        values = {k: v if isinstance(v, list) else [v] for k, v in self.settings.items()}
        choices = [dict(zip(values, choice)) for choice in itertools.product(*values.values())]
        return [self.model_copy(update={"settings": choice}) for choice in choices]

    @property
    def id(self) -> str:
        """Tells trainings apart: two requests may be of one, under two names."""
        return content_hash(self.model_dump(mode="json"))

    @property
    def grid(self) -> list[str]:
        """The settings that have several values."""
        return [name for name, value in self.settings.items() if isinstance(value, list)]


class Figure(_Part):
    """A panel: `y` over `x`, a line for each row. Both are quantities, as `benchmark/suites/quantities.py` has them."""

    x: str
    y: str


class _Claim(_Part):
    says: Line


class Lower(_Claim):
    """`row` is lower than each of `than`. `margin`: the share of the gap that is no difference worth the name."""

    test: Literal["lower"]
    metric: str
    row: str
    than: Words
    margin: Margin | None = None


class NotBehind(_Claim):
    """`row` lies above none of `than` by more than `margin`, a share of the gap."""

    test: Literal["not_behind"]
    metric: str
    row: str
    than: Words
    margin: Margin = MARGIN


class Alike(_Claim):
    """All pairs of `rows` are within `margin`, a share of the gap."""

    test: Literal["alike"]
    metric: str
    rows: Words
    margin: Margin = MARGIN


class Trend(_Claim):
    """Over `rows`, or the bundles of each, `metric` falls or rises along a setting: `prior.NAME` or `bundle.NAME`."""

    test: Literal["trend"]
    metric: str
    rows: Words
    along: str
    direction: Direction
    margin: Margin | None = None


class Correlation(_Claim):
    """Over `rows` and bundles, `x` and `y`, means over seeds, go together."""

    test: Literal["correlation"]
    rows: Words
    x: str
    y: str
    direction: Direction = "rises"


Claim = Lower | NotBehind | Alike | Trend | Correlation
TESTS: dict[str, type[Claim]] = {
    "lower": Lower,
    "not_behind": NotBehind,
    "alike": Alike,
    "trend": Trend,
    "correlation": Correlation,
}


@dataclass(frozen=True)
class Preset:
    """What is trained, by name, and what is run: fields of requests."""

    bundles: dict[str, Training]
    requests: list[dict[str, Any]]


@dataclass(frozen=True)
class Suite:
    """A whole file. `name`: that of the file without its ending; `content`: what it says, as it says it."""

    name: str
    title: str
    question: str
    presets: dict[str, Preset]
    figures: list[Figure]
    claims: list[Claim]
    content: dict[str, Any]

    def preset(self, name: str) -> Preset:
        """That preset. Raises `UsageError` where the file has none of this name."""
        if name not in self.presets:
            raise unknown_name(f"preset of suite {self.name}", name, self.presets)
        return self.presets[name]


class _File(_Part):
    """The keys of a file; what is in them is read one by one, so that an error names its place."""

    title: Line
    question: Line
    presets: dict[str, dict[str, Any]] = Field(min_length=1)
    figures: list[dict[str, Any]] = Field(default_factory=list)
    claims: list[dict[str, Any]] = Field(min_length=1)


class _PresetFile(_Part):
    bundles: dict[str, dict[str, Any]] = Field(default_factory=dict)
    requests: list[dict[str, Any]] = Field(min_length=1)


def shipped() -> dict[str, Path]:
    """The suites that come with the package: name -> file."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def find_suite(typed: str) -> Suite:
    """A shipped suite by its name, or a file by its path, which ends in .toml. Raises `UsageError`."""
    if typed.endswith(".toml"):
        file = Path(typed).expanduser()
        own = shipped().get(file.stem)
        if own is not None and file.exists() and not file.samefile(own):
            raise UsageError(f"{file}: {file.stem} is a shipped suite, whose page this would replace: rename the file")
        return read_suite(file)
    if typed not in shipped():
        raise UsageError(f"{unknown_name('suite', typed, shipped())}; a file of your own ends in .toml")
    return read_suite(shipped()[typed])


def read_suite(path: Path) -> Suite:
    """The suite of a file. Raises `UsageError` for whatever is not as it is to be, naming its place."""
    content = read_toml(path, str(path))
    if not re.fullmatch(r"[\w-]+", path.stem):
        raise UsageError(f"{path}: a suite is named after its file: letters, digits, '-' and '_': rename it")
    if path.stem.lower().endswith(OF_GPU):
        raise UsageError(f"{path}: so ends the page of a suite that is run on a GPU: rename the file")
    return parse_suite(path.stem, content, str(path))


def parse_suite(name: str, content: dict[str, Any], of: str) -> Suite:
    """The suite of what a file holds; `of`: what errors call the file."""
    try:
        content_hash(content)
    except (TypeError, ValueError):
        raise UsageError(f"{of}: dates, infinities and nan have no place in a suite") from None
    file = construct(_File, content, of)
    presets = {}
    for preset, said in file.presets.items():
        if preset not in PRESETS:
            raise unknown_name(f"preset in {of}", preset, PRESETS)
        presets[preset] = _read_preset(said, f"{of}, presets.{preset}")
    figures = [construct(Figure, said, f"{of}, figure {n}") for n, said in enumerate(file.figures, 1)]
    claims = [_read_claim(said, f"{of}, claim {n}") for n, said in enumerate(file.claims, 1)]
    return Suite(name, file.title, file.question.strip(), presets, figures, claims, content)


def _read_preset(said: dict[str, Any], of: str) -> Preset:
    parts = construct(_PresetFile, said, of)
    bundles = {name: construct(Training, each, f"{of}.bundles.{name}") for name, each in parts.bundles.items()}
    for number, request in enumerate(parts.requests, 1):
        where = f"{of}, request {number}"
        for field in OF_COMMAND:
            if field in request:
                raise UsageError(f"{where}: {field} is of the machine: leave it to the command's options")
        construct(Request, request, where)
    unused = sorted(set(bundles) - {str(request.get("bundle")) for request in parts.requests})
    if unused:
        raise UsageError(f"{of}: no request is on the bundle{'s' if len(unused) > 1 else ''} {', '.join(unused)}")
    return Preset(bundles, parts.requests)


def _read_claim(said: dict[str, Any], of: str) -> Claim:
    test = said.get("test")
    if not isinstance(test, str):
        raise UsageError(f"{of}: its test is missing (known: {', '.join(TESTS)})")
    if test not in TESTS:
        raise unknown_name(f"test of {of}", test, TESTS)
    lists = {"than", "rows"}
    fields = {k: (v,) if k in lists and isinstance(v, str) else v for k, v in said.items()}
    return construct(TESTS[test], fields, of)


def name_of_training(name: str, training: Training, grid: list[str]) -> str:
    """What one of a grid's bundles is called on pages: `hole, kl_weight=0.1`."""
    return ", ".join([name, *(f"{each}={format_value(training.settings[each])}" for each in grid)])
