"""A claim and what is recorded -> its verdict: which rows are compared on which bundles, by which test."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmark.report.verdicts import (
    BySeed,
    Line,
    Point,
    Sample,
    Verdict,
    alike,
    correlation,
    lower,
    not_behind,
    trend,
)
from benchmark.settings import format_value, parse_named
from benchmark.suites.places import Recorded
from benchmark.suites.quantities import Quantity, parse_quantity
from benchmark.suites.suite import Alike, Claim, Correlation, Lower, NotBehind, Trend


def judge(claim: Claim, recorded: Sequence[Recorded]) -> Verdict:
    """The verdict of a claim over all places where its rows stand.

    A margin is a share of the gap from N(0, I) to the aggregate posterior. Where no gap is shown, such a claim has
    nothing to say: the place is left out of it, and named. Where too little is recorded to tell whether there is one,
    the claim is open, unless another place refutes it. Times are compared as ratios, by their logarithms: a chain that
    takes twenty times as long scatters twenty times as much.
    """
    if isinstance(claim, Correlation):
        return correlation(list(_points(claim, recorded)), claim.direction)
    quantity, without = parse_quantity(claim.metric), list[Recorded]()
    margins = [_margin(claim, each, quantity) for each in recorded]
    if isinstance(claim, Trend):
        lines = _lines(claim, recorded, quantity, margins, without)
        return _naming(_as_ratios(trend(lines, claim.direction), quantity), without, quantity)
    samples = []
    for each, margin in zip(recorded, margins, strict=True):
        pairs = list(_pairs(claim, each))
        if pairs and margin is None:
            without.append(each)
            continue
        for one, other in pairs:
            name = f"{one} {'/' if quantity.is_time else '-'} {other}"
            name += f" on {each.place.name}" if len(recorded) > 1 else ""
            first, second = (_values(each, label, quantity) for label in (one, other))
            both = first.keys() & second.keys()  # a dear row may be asked for with fewer seeds than its rival
            first, second = ({seed: of[seed] for seed in sorted(both)} for of in (first, second))
            samples.append(Sample(name, first, second, margin or 0.0))
    test = {"lower": lower, "not_behind": not_behind, "alike": alike}[claim.test]
    return _naming(_as_ratios(test(samples), quantity), without, quantity)


def _values(recorded: Recorded, label: str, quantity: Quantity) -> BySeed:
    values = recorded.values(label, quantity)
    if not quantity.is_time:
        return values
    return {seed: math.log(value) if value > 0 else math.nan for seed, value in values.items()}


def _as_ratios(verdict: Verdict, quantity: Quantity) -> Verdict:
    if not quantity.is_time:
        return verdict
    return replace(verdict, comparisons=tuple(replace(each, ratio=True) for each in verdict.comparisons))


def _margin(claim: Lower | NotBehind | Alike | Trend, recorded: Recorded, quantity: Quantity) -> float | None:
    """In the metric's unit; 0 where the claim has none, None where there is no gap to take a share of."""
    if claim.margin is None:
        return 0.0
    gap = recorded.gap(quantity)
    return None if gap is None else claim.margin * gap


def _naming(verdict: Verdict, without: list[Recorded], quantity: Quantity) -> Verdict:
    """The verdict with the places that are left out of it, and open where nobody knows whether one should be."""
    if not without:
        return verdict
    flat = [each.place.name for each in without if each.has_ends(quantity)]
    unknown = [each.place.name for each in without if not each.has_ends(quantity)]
    said = [verdict.why] if verdict.why and verdict.comparisons else []
    said += [f"no gap is shown on {'; '.join(flat)}"] if flat else []  # names have commas
    said += [f"too little is recorded to tell a gap on {'; '.join(unknown)}"] if unknown else []
    word = "undecided" if unknown and verdict.word == "held" else verdict.word
    return replace(verdict, word=word, why="; ".join(said))


def _pairs(claim: Lower | NotBehind | Alike, recorded: Recorded) -> Iterator[tuple[str, str]]:
    """Labels that are compared at a place."""
    if isinstance(claim, Alike):
        yield from itertools.combinations(recorded.place.find(claim.rows), 2)
        return
    for one in recorded.place.find([claim.row]):
        yield from ((one, other) for other in recorded.place.find(claim.than) if other != one)


def _lines(
    claim: Trend, recorded: Sequence[Recorded], quantity: Quantity, margins: list[float | None], without: list[Recorded]
) -> list[Line]:
    """Rows along a setting: of a prior, those of one place; of bundles, those of one label over all places."""
    along = parse_quantity(claim.along)
    points: dict[str, dict[float, BySeed]] = {}
    shares: dict[str, list[float]] = {}
    for each, margin in zip(recorded, margins, strict=True):
        found = each.place.find(claim.rows)
        if found and margin is None:
            without.append(each)
            continue
        for label in found:
            at = each.setting(label, along)
            if at is None:
                continue
            rest = without_setting(label, along.name) if along.kind == "prior" else label
            name = f"{rest} on {each.place.name}" if along.kind == "prior" and len(recorded) > 1 else rest
            points.setdefault(name, {})[at] = _values(each, label, quantity)
            shares.setdefault(name, []).append(margin or 0.0)
    return [Line(name, of, min(shares[name])) for name, of in _joined(points).items()]


def _joined(points: dict[str, dict[float, BySeed]]) -> dict[str, dict[float, BySeed]]:
    """The same, with nan for seeds that only other values of the setting have."""
    whole: dict[str, dict[float, BySeed]] = {}
    for name, of in points.items():
        seeds = {seed for by_seed in of.values() for seed in by_seed}
        whole[name] = {x: {seed: by_seed.get(seed, math.nan) for seed in seeds} for x, by_seed in of.items()}
    return whole


def without_setting(label: str, name: str) -> str:
    """`evalp[steps=5,gp_weight=1]` -> `evalp[steps=5]`."""
    ((prior, (settings,)),) = parse_named(label, "row")
    rest = ",".join(f"{key}={format_value(value)}" for key, value in settings.items() if key != name)
    return f"{prior}[{rest}]" if rest else prior


def _points(claim: Correlation, recorded: Sequence[Recorded]) -> Iterator[Point]:
    """A point a row and place: means over seeds; nan where a seed has no value, or there is none."""
    x, y = parse_quantity(claim.x), parse_quantity(claim.y)
    for each in recorded:
        for label in each.place.find(claim.rows):
            means = [_mean(each.values(label, of)) for of in (x, y)]
            yield Point(means[0], means[1], each.place.name, label)


def _mean(by_seed: BySeed) -> float:
    return sum(by_seed.values()) / len(by_seed) if by_seed else math.nan
