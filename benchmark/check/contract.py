"""The contract that any prior is held to: `python -m benchmark check NAME`.

First what the harness relies on (shapes, the generator, saving, densities), then whether the prior learns synthetic
aggregate posteriors of known density. What it must learn is what it declares in `learns`; all else is shown as it
came out. Everything runs at the quick budget.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from benchmark.bundles.prior_file import state_of
from benchmark.check.targets import TARGETS, SquashingVAE, Target
from benchmark.jobs.contract import check_count, check_density, check_facts
from benchmark.jobs.failures import Broken, describe_error
from benchmark.jobs.plan import resolve_config
from benchmark.scores.mmd import BANDWIDTHS, median_squared_distance, mmd_between
from benchmark.streams import drawing, seeded_globals, stream
from priors.api import AggregatePosterior, Diverged, Hierarchy, LatentPrior, PosteriorSplit
from priors.parts.flows import Flow
from priors.parts.standard_normal import log_standard_normal

DRAWS = 2_000
DENSITY_OF_POINTS = 25  # of a grid, per unit of length
NEGLIGIBLE = 30.0  # nats below a density's maximum
PASSES_OF = 500  # latents whose network passes are counted


@dataclass(frozen=True)
class Finding:
    """One line of the table: `held` is None where nothing is required."""

    check: str
    held: bool | None
    detail: str


def check(
    prior: type[LatentPrior], settings: dict[str, Any], targets: list[str], device: torch.device
) -> Iterator[Finding]:
    """Every finding about a prior with the given settings, as they are made. Raises `UsageError` for bad settings."""

    def build(shape: tuple[int, ...], hierarchy: Hierarchy | None = None) -> LatentPrior:
        config, _, _ = resolve_config(prior, settings, "synthetic", shape, "quick")
        with seeded_globals(device, "check"):
            if prior.needs_hierarchy:
                return prior(shape, config, hierarchy).to(device)  # type: ignore[call-arg]
            return prior(shape, config).to(device)

    def fit(target: Target) -> LatentPrior:
        made = build(target.shape, target.hierarchy)
        with drawing(device, "check fit") as generator:
            posterior = target.posterior(device, prior.needs_backbone)
            check_facts(made.train().fit(posterior, generator, lambda *_, **__: None))
        return made.eval()

    resolve_config(prior, settings, "synthetic", (2,), "quick")  # settings that were typed wrongly are no finding
    try:
        fitted = fit(TARGETS["ring"]())
    except (Exception, SystemExit) as error:
        yield Finding("fits at all", False, describe_error(error))
        return
    for name, examine in CONTRACT.items():
        yield _finding(name, partial(examine, fitted, device))
    density = cache(partial(_density, fitted, device))
    yield _finding("log_prob integrates to 1", lambda: _normalised(density()))
    yield _finding("log_prob describes the samples", lambda: _describes_samples(fitted, density(), device))
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
        except (Exception, SystemExit) as error:
            yield Finding(f"learns {name}", False, describe_error(error))


def _finding(name: str, examine: Callable[[], str | None]) -> Finding:
    """The examination's word: a sentence where it holds, None where it does not apply."""
    try:
        detail = examine()
    except (Exception, SystemExit) as error:
        return Finding(name, False, describe_error(error))
    return Finding(name, None, "does not apply") if detail is None else Finding(name, True, detail)


def _draw(prior: LatentPrior, n: int, device: torch.device, seed: int = 0) -> Tensor:
    with drawing(device, "check sample", seed) as generator, torch.no_grad():
        return prior.sample(n, generator)


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


def _grid(device: torch.device, reach: float) -> tuple[Tensor, float]:
    """Points (n, 2) of the square about the origin, and the area of each."""
    a_side = round(DENSITY_OF_POINTS * 2 * reach)
    axis = torch.linspace(-reach, reach, a_side, device=device)
    return torch.cartesian_prod(axis, axis), (2 * reach / (a_side - 1)) ** 2


@dataclass(frozen=True)
class _Density:
    """A prior's density on a grid: log p (n,) in double precision, and the area of a point."""

    log: Tensor
    area: float


@torch.no_grad()
def _density(prior: LatentPrior, device: torch.device) -> _Density | None:
    points, area = _grid(device, 8.0)
    log = check_density(prior.log_prob(points), points, "log_prob")
    return None if log is None else _Density(log.double(), area)


def _normalised(density: _Density | None) -> str | None:
    if density is None:
        return None
    mass = (density.log.exp().sum() * density.area).item()
    if abs(mass - 1) > 0.02:
        raise Broken(f"integrates to {mass:.4f} on a grid")
    return f"integrates to {mass:.4f}"


@torch.no_grad()
def _describes_samples(prior: LatentPrior, density: _Density | None, device: torch.device) -> str | None:
    """E[log p(z)] over samples against the integral of p log p: equal if the samples have that density."""
    if density is None:
        return None
    drawn = prior.log_prob(_draw(prior, 20_000, device))
    assert drawn is not None
    expected = (density.log.exp() * density.log.clamp_min(-1e3)).sum().item() * density.area
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


def _counts_its_passes(prior: LatentPrior, device: torch.device) -> str | None:
    """What hooks see while latents are drawn, against `network_evaluations`.

    Where the count hangs on the draw, as in rejection sampling, it is to be stated on average, or at most.
    """

    def count(seed: int) -> dict[str, float]:
        return count_passes(prior, PASSES_OF, lambda: _draw(prior, PASSES_OF, device, seed))

    if not isinstance(prior.network_evaluations, (int, float)):
        check_count(prior.network_evaluations, "network_evaluations")
    passes, stated = count(0), prior.network_evaluations
    counted = sum(passes.values())
    if not passes and stated and list(prior.parameters(recurse=False)):
        return None  # its parameters may be those of a network, whose layers are no modules: nobody can count
    if abs(counted - stated) < 0.5:  # layers that are called once a batch make no pass more
        return f"{stated} a latent, as counted"
    if counted <= 1.1 * (stated + 0.5) and count(1) != passes:  # an average may have been rounded
        return f"{stated} a latent; {counted:.3g} counted, which hang on the draw"
    by_network = " + ".join(f"{each:.4g} of {name or 'its own layers'}" for name, each in passes.items())
    raise Broken(
        f"network_evaluations is {stated}, but a latent was counted to cost {by_network or 'none'}: "
        "state what is counted, or put all layers that are one network into one module"
    )


def count_passes(prior: nn.Module, n: int, draw: Callable[[], object]) -> dict[str, float]:
    """How often each network of a prior is passed for each of the n latents that `draw` draws; by name, where any is.

    A network is a module that the prior owns, or each member where that is a list of networks; layers that it owns
    itself are one network together. Its passes are the rows that came to its busiest layer with parameters, over n:
    chains and flows call layers without the network's `forward`, and resampling takes M rows for each latent.
    """
    rows: Counter[str] = Counter()

    def hear(name: str, layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        tensors = (value for value in (*given, *named.values()) if isinstance(value, Tensor))
        first = next(tensors, None)
        rows[name] += len(first) if first is not None and first.dim() > 1 else 1

    layers = {name: layer for name, layer in prior.named_modules() if name and list(layer.parameters(recurse=False))}
    handles = [layer.register_forward_pre_hook(partial(hear, name), with_kwargs=True) for name, layer in layers.items()]
    try:
        draw()
    finally:
        for handle in handles:
            handle.remove()
    passes: dict[str, float] = {}
    for name, count in rows.items():
        network = _network_of(prior, name)
        passes[network] = max(passes.get(network, 0.0), count / n)
    return passes


def _network_of(prior: nn.Module, layer: str) -> str:
    """The name of the network that a layer belongs to: "" for the prior itself."""
    *above, last = layer.split(".")
    module, path = prior, []
    for name in above:
        module = module.get_submodule(name)
        path.append(name)
        if not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            return ".".join(path)
    return "" if not list(module.get_submodule(last).children()) else layer


@torch.no_grad()
def _energy_is_a_number_each(prior: LatentPrior, device: torch.device) -> str | None:
    z = _draw(prior, 100, device)
    energy = check_density(prior.energy(z), z, "energy")
    if energy is None:
        return None
    if not energy.isfinite().all():
        raise Broken("energy of 100 latents is not finite")
    return "one finite number a latent"


@torch.no_grad()
def _diagnoses(prior: LatentPrior, device: torch.device) -> str | None:
    told = check_facts(prior.diagnostics(stream(device, "check diagnostics")))
    return ", ".join(f"{name} {value:.3g}" for name, value in told.items()) or None


CONTRACT: dict[str, Callable[[LatentPrior, torch.device], str | None]] = {
    "shape and dtype of samples": _shapes,
    "the generator alone decides the draw": _generator_decides,
    "saved and loaded": _saves,
    "flows invert, log-det is autograd's": _flows_invert,
    "energy": _energy_is_a_number_each,
    "network evaluations": _counts_its_passes,
    "diagnostics": _diagnoses,
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
    with torch.no_grad():
        for name in ("log_prob", "energy"):
            check_density(getattr(prior, name)(z), z, name)
    return "samples have that shape, densities are a number each"


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
def divergence(
    log_q: Callable[[Tensor], Tensor], log_p: Callable[[Tensor], Tensor | None], device: torch.device
) -> float:
    """KL(q || p) in nats of two log-densities in two dimensions: the integral of q (log q - log p) over a grid.

    p is asked for only where q is not negligible. The grid is finer than what q and log p may vary over: 0.04.
    """
    points, area = _grid(device, 16.0)
    of_q = log_q(points).double()
    kept = of_q > of_q.max() - NEGLIGIBLE
    of_q, of_p = of_q[kept], log_p(points[kept.to(device)])
    assert of_p is not None
    return ((of_q.exp() * (of_q - of_p.to(of_q))).sum() * area).item()


@torch.no_grad()
def _divergence_from(target: Target, log_p: Callable[[Tensor], Tensor | None], real: Tensor) -> float:
    """KL(target || p) in nats: an integral in two dimensions, else the mean over draws of the target."""
    if target.shape == (2,):
        return divergence(target.log_prob, log_p, real.device)
    density = log_p(real)
    assert density is not None
    return (target.log_prob(real).mean() - density.mean().cpu()).item()


@torch.no_grad()
def _by_group(fitted: LatentPrior, target: Target, real: Tensor) -> list[str]:
    """KL(target || p) of each group given those above, where both have such densities; they add up to the whole."""
    of_prior = getattr(fitted, "log_prob_by_group", None)
    if target.by_group is None or of_prior is None:
        return []
    each = (target.by_group(real).mean(0) - of_prior(real).mean(0).cpu()).tolist()
    return [f"by group {' + '.join(f'{kl:.3f}' for kl in each)}"]


@dataclass(frozen=True)
class Yardstick:
    """What is the same of a target for every prior: draws of it, kernels, and how far N(0, I) is from it."""

    real: Tensor
    bandwidths: list[float]
    gaussian: Tensor
    mmd: float
    kl: float


@cache
def _yardstick(target: Target, device: torch.device) -> Yardstick:
    real = target.draw(DRAWS, stream(device, "check real"))
    gaussian = torch.randn(DRAWS, *target.shape, generator=stream(device, "check sample", 0), device=device)
    median = median_squared_distance(real.flatten(1))
    bandwidths = [factor * median for factor in BANDWIDTHS]
    mmd = mmd_between(gaussian.flatten(1), real.flatten(1), bandwidths=bandwidths)
    return Yardstick(real, bandwidths, gaussian, mmd, _divergence_from(target, log_standard_normal, real))


@torch.no_grad()
def learning(fitted: LatentPrior, target: Target, device: torch.device) -> Finding:
    """How near a fitted prior came to a target, with the Gaussian's figures beside it."""
    known, z = _yardstick(target, device), _draw(fitted, DRAWS, device)
    own = mmd_between(z.flatten(1), known.real.flatten(1), bandwidths=known.bandwidths)
    facts = [f"MMD² {own:.4f} (Gaussian {known.mmd:.4f})"]
    if fitted.log_prob(known.real[:1]) is not None:
        kl = _divergence_from(target, fitted.log_prob, known.real)
        facts.append(f"KL {kl:.3f} nats (Gaussian {known.kl:.3f})")
        facts += _by_group(fitted, target, known.real)
    if target.modes is not None:
        facts.append(f"modes covered {target.coverage(z):.0%} (Gaussian {target.coverage(known.gaussian):.0%})")
    if target.name not in fitted.learns:
        return Finding(f"learns {target.name}", None, "; ".join([*facts, "not required"]))
    allowed = fitted.learns[target.name]
    bound = allowed if target.name == "standard" else allowed * known.mmd
    return Finding(f"learns {target.name}", own <= bound, "; ".join([*facts, f"required: MMD² at most {bound:.4f}"]))
