"""The contract that any prior is held to: `python -m benchmark check NAME`.

First what the harness relies on (shapes, the generator, saving, densities), then whether the prior learns synthetic
aggregate posteriors of known density. What it must learn is what it declares in `learns`; all else is shown as it
came out. Everything runs at the quick budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from benchmark.check.targets import TARGETS, SquashingVAE, Target
from benchmark.jobs.fitting import state_of
from benchmark.jobs.plan import resolve_config
from benchmark.scores.mmd import mmd_between
from benchmark.streams import seeded_globals, stream
from priors.api import AggregatePosterior, Diverged, LatentPrior, PosteriorSplit
from priors.parts.flows import Flow
from priors.parts.standard_normal import log_standard_normal

DRAWS = 2_000
QUADRATURE = 400  # points a side


@dataclass(frozen=True)
class Finding:
    """One line of the table: `held` is None where nothing is required."""

    check: str
    held: bool | None
    detail: str


class Broken(Exception):
    """A check that does not hold; the message says what was found."""


def check(
    prior: type[LatentPrior], settings: dict[str, Any], targets: list[str], device: torch.device
) -> Iterator[Finding]:
    """Every finding about a prior with the given settings, as they are made. Raises `UsageError` for bad settings."""

    def build(shape: tuple[int, ...]) -> LatentPrior:
        config, _, _ = resolve_config(prior, settings, "synthetic", shape, "quick")
        with seeded_globals(device, "check"):
            return prior(shape, config).to(device)

    def fit(target: Target) -> LatentPrior:
        made = build(target.shape)
        with seeded_globals(device, "check fit"):
            posterior = target.posterior(device, prior.needs_backbone)
            made.train().fit(posterior, stream(device, "check fit"), lambda *_, **__: None)
        return made.eval()

    resolve_config(prior, settings, "synthetic", (2,), "quick")  # settings that were typed wrongly are no finding
    try:
        fitted = fit(TARGETS["ring"]())
    except Exception as error:
        yield Finding("fits at all", False, f"{type(error).__name__}: {error}")
        return
    for name, examine in CONTRACT.items():
        yield _finding(name, partial(examine, fitted, device))
    yield _finding("every parameter is trained", lambda: _all_trained(build((2,)), fitted))
    yield _finding("a second fit gives the same bits", lambda: _same_state(fitted, fit(TARGETS["ring"]())))
    yield _finding("a block of latents (2, 4, 4)", lambda: _block(build((2, 4, 4)), device))
    yield _finding("NaN latents are refused", lambda: _refuses_nan(build((2,)), device))
    for name in targets:
        target = TARGETS[name]()
        try:
            made = fitted if name == "ring" else fit(target)
            yield learning(made, target, device)
        except Diverged as error:
            yield Finding(f"learns {name}", False if name in fitted.learns else None, f"diverged: {error}")
        except Exception as error:
            yield Finding(f"learns {name}", False, f"{type(error).__name__}: {error}")


def _finding(name: str, examine: Callable[[], str | None]) -> Finding:
    """The examination's word: a sentence where it holds, None where it does not apply."""
    try:
        detail = examine()
    except Exception as error:
        return Finding(name, False, str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}")
    return Finding(name, None, "does not apply") if detail is None else Finding(name, True, detail)


def _draw(prior: LatentPrior, n: int, device: torch.device, seed: int = 0) -> Tensor:
    with seeded_globals(device, "check sample", seed), torch.no_grad():
        return prior.sample(n, stream(device, "check sample", seed))


def _shapes(prior: LatentPrior, device: torch.device) -> str:
    for n in (1, 7, 1000):
        z = _draw(prior, n, device)
        if tuple(z.shape) != (n, *prior.latent_shape) or z.dtype != torch.float32 or not z.isfinite().all():
            raise Broken(f"sample({n}) gave {tuple(z.shape)} {z.dtype}, finite: {bool(z.isfinite().all())}")
    return "1, 7 and 1,000 latents, float32, finite"


def _generator_decides(prior: LatentPrior, device: torch.device) -> str:
    first = _draw(prior, 50, device)
    torch.manual_seed(1234)  # a prior that leans on the global generator alone is not decided by its own
    with torch.no_grad():
        again = prior.sample(50, stream(device, "check sample", 0))
    if not torch.equal(first, again):
        raise Broken("the same generator gave other latents once the global one had moved")
    if torch.equal(first, _draw(prior, 50, device, seed=1)):
        raise Broken("another seed gave the same latents")
    return "same seed, same bits; another seed, another draw"


def _saves(prior: LatentPrior, device: torch.device) -> str:
    state = state_of(prior)
    copy = type(prior)(prior.latent_shape, prior.config)
    copy.load_state_dict(load(save(state)))
    if not torch.equal(_draw(prior, 50, device), _draw(copy.to(device).eval(), 50, device)):
        raise Broken("a copy made from the saved state draws other latents")
    return f"{len(state)} tensors; the copy draws the same bits"


def _grid(device: torch.device, reach: float = 8.0) -> tuple[Tensor, float]:
    axis = torch.linspace(-reach, reach, QUADRATURE, device=device)
    return torch.cartesian_prod(axis, axis), (2 * reach / (QUADRATURE - 1)) ** 2


@torch.no_grad()
def _normalised(prior: LatentPrior, device: torch.device) -> str | None:
    points, area = _grid(device)
    density = prior.log_prob(points)
    if density is None:
        return None
    mass = (density.double().exp().sum() * area).item()
    if abs(mass - 1) > 0.02:
        raise Broken(f"integrates to {mass:.4f} on a grid")
    return f"integrates to {mass:.4f}"


@torch.no_grad()
def _describes_samples(prior: LatentPrior, device: torch.device) -> str | None:
    """E[log p(z)] over samples against the integral of p log p: equal if the samples have that density."""
    points, area = _grid(device)
    drawn, on_grid = prior.log_prob(_draw(prior, 20_000, device)), prior.log_prob(points)
    if drawn is None or on_grid is None:
        return None
    density = on_grid.double()
    expected = (density.exp() * density.clamp_min(-1e3)).sum().item() * area
    error = drawn.std().item() / math.sqrt(len(drawn))
    if abs(drawn.mean().item() - expected) > 5 * error + 0.02:
        raise Broken(f"mean log-density of samples {drawn.mean():.3f}, of the density itself {expected:.3f}")
    return f"mean log-density of samples {drawn.mean():.3f}, of the density itself {expected:.3f}"


def _push_one(flow: Flow, noise: Tensor) -> Tensor:
    return flow.push(noise[None])[0][0]


def _flows_invert(prior: LatentPrior, device: torch.device) -> str | None:
    flows = [module for module in prior.modules() if isinstance(module, Flow)]
    if not flows:
        return None
    worst_inverse = worst_det = 0.0
    for flow in flows:
        noise = torch.randn(20, flow.features, generator=torch.Generator().manual_seed(0))
        noise = noise.to(device)
        with torch.no_grad():
            z, log_det = flow.push(noise)
            worst_inverse = max(worst_inverse, (flow.to_noise(z)[0] - noise).abs().max().item())
        for row, stated in zip(noise, log_det):
            jacobian = torch.autograd.functional.jacobian(partial(_push_one, flow), row)
            worst_det = max(worst_det, abs(jacobian.double().slogdet().logabsdet.item() - stated.item()))
    if worst_inverse > 1e-2 or worst_det > 1e-2:
        raise Broken(f"inverse off by {worst_inverse:.2g}, log-det by {worst_det:.2g}")
    return f"inverse within {worst_inverse:.1g}, log-det within {worst_det:.1g} of autograd's"


@torch.no_grad()
def _energy_is_a_number_each(prior: LatentPrior, device: torch.device) -> str | None:
    energy = prior.energy(_draw(prior, 100, device))
    if energy is None:
        return None
    if tuple(energy.shape) != (100,) or not energy.isfinite().all():
        raise Broken(f"energy of 100 latents has shape {tuple(energy.shape)}")
    return "one finite number a latent"


CONTRACT: dict[str, Callable[[LatentPrior, torch.device], str | None]] = {
    "shape and dtype of samples": _shapes,
    "the generator alone decides the draw": _generator_decides,
    "saved and loaded": _saves,
    "log_prob integrates to 1": _normalised,
    "log_prob describes the samples": _describes_samples,
    "flows invert, log-det is autograd's": _flows_invert,
    "energy": _energy_is_a_number_each,
}


def _all_trained(fresh: LatentPrior, fitted: LatentPrior) -> str | None:
    before, after = dict(fresh.named_parameters()), dict(fitted.named_parameters())
    if not before:
        return None
    still = [name for name in before if torch.equal(before[name], after[name])]
    if still:
        raise Broken(f"unchanged by the fit: {', '.join(still)}")
    return f"{len(before)} parameters"


def _same_state(first: LatentPrior, second: LatentPrior) -> str:
    one, two = first.state_dict(), second.state_dict()
    differing = [name for name in one if not torch.equal(one[name], two[name])]
    if differing:
        raise Broken(f"differing after equal fits: {', '.join(differing)}")
    return "as it must, for records to be repeatable"


def _block(prior: LatentPrior, device: torch.device) -> str:
    z = _draw(prior.eval(), 3, device)
    if tuple(z.shape) != (3, 2, 4, 4):
        raise Broken(f"sample(3) gave {tuple(z.shape)}")
    return "samples have that shape"


def _refuses_nan(prior: LatentPrior, device: torch.device) -> str | None:
    if not list(prior.parameters()) and not list(prior.buffers()):
        return None
    bad = PosteriorSplit(torch.full((1000, 2), math.nan, device=device), torch.ones(1000, 2, device=device))
    try:
        with seeded_globals(device, "check"):
            posterior = AggregatePosterior(bad, bad, SquashingVAE((2,), 1.0) if prior.needs_backbone else None)
            prior.train().fit(posterior, stream(device, "check"), lambda *_, **__: None)
    except Exception as error:
        return str(error)
    state = [
        name for name, value in prior.state_dict().items() if value.is_floating_point() and not value.isfinite().all()
    ]
    if state:
        return f"the harness refuses the fit: {state[0]} is not finite"
    raise Broken("fitted NaN latents without a word")


@torch.no_grad()
def learning(fitted: LatentPrior, target: Target, device: torch.device) -> Finding:
    """How near a fitted prior came to a target, with the Gaussian's figures beside it."""
    real = target.draw(DRAWS, stream(device, "check real"))
    gaussian = torch.randn(DRAWS, *target.shape, generator=stream(device, "check sample", 0), device=device)
    z = _draw(fitted, DRAWS, device)
    own, unfitted = (mmd_between(of.flatten(1), real.flatten(1)) for of in (z, gaussian))
    facts = [f"MMD² {own:.4f} (Gaussian {unfitted:.4f})"]
    density = fitted.log_prob(real)
    if density is not None:
        truth, normal = target.log_prob(real).mean().item(), log_standard_normal(real).mean().item()
        facts.append(f"KL {truth - density.mean().item():.3f} nats (Gaussian {truth - normal:.3f})")
    if target.modes is not None:
        facts.append(f"modes covered {target.coverage(z):.0%} (Gaussian {target.coverage(gaussian):.0%})")
    if target.name not in fitted.learns:
        return Finding(f"learns {target.name}", None, "; ".join([*facts, "not required"]))
    allowed = fitted.learns[target.name]
    bound = allowed if target.name == "standard" else allowed * unfitted
    return Finding(f"learns {target.name}", own <= bound, "; ".join([*facts, f"required: MMD² at most {bound:.4f}"]))
