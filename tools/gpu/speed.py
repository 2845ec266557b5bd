"""What a GPU makes of fits and draws: steps a second eager, by graph and with five seeds at once; latents a second.

    PYTHONPATH=. python tools/gpu/speed.py --bundle mnist-conv_vae --steps 2000

Fits are `fit` itself with the bundle's recipe, once to warm up and then `--steps` steps by the clock (EVaLP's energy
steps); `eager` has `without_python` taken away. Beside them: the largest difference of any parameter after ten steps,
relative to the largest parameter; the peak of memory; and the share of the time in which the GPU had a kernel to run.
`batched` is EVaLP's round of several seeds in one call, by `torch.func.vmap` over stacked parameters, each seed with a
generator of its own; no fit of the suite goes this way. Draws: CUDA events round the call, random numbers inside, the
median of at least twenty; by graph where sampling does not wait for its own results. On a CPU the same, in small, by
the clock: a rehearsal.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from benchmark.bundles.find import find_bundle
from benchmark.jobs.fitting import FitLog
from benchmark.jobs.plan import resolve_config
from benchmark.machine.devices import choose_device
from benchmark.machine.stopwatch import measure_durations
from benchmark.registry import Registry
from benchmark.store.provenance import device_name
from benchmark.streams import seeded_globals, stream
from priors.api import AggregatePosterior, LatentPrior, PosteriorSplit
from priors.evalp import EVaLP, energy_gradients, sampler_loss
from priors.parts.graphs import WARM_UP, without_python
from priors.parts.optimisers import Adam

SEEDS = 5
PARITY_STEPS = 10
BATCHES = (1, 100, 1_000, 10_000)
WAITS = ("ncp", "lars", "multi_nce")  # sampling that is long, or asks what came out: never recorded


def eagerly(step: Callable[[], Any], generator: torch.Generator) -> Callable[[], Any]:
    return step


class Bench:
    """A bundle's latents on a device, and priors made for them with its recipe."""

    def __init__(self, bundle: str, device: torch.device) -> None:
        found, _ = find_bundle(None, None, bundle)
        self.device, self.dataset, self.shape = device, found.dataset, found.latent_shape
        train, val = (PosteriorSplit(*found.posterior(name, device)) for name in ("train", "val"))
        self.posterior = AggregatePosterior(train, val)

    def build(self, name: str, seed: int = 0, **settings: Any) -> LatentPrior:
        cls = Registry().get("prior", name)
        config, _, _ = resolve_config(cls, settings, self.dataset, self.shape, "full")
        with seeded_globals(self.device, "initialisation", seed):
            return cls(self.shape, config).to(self.device)

    def fit(self, name: str, steps: int, graph: bool) -> LatentPrior:
        prior = self.build(name, steps=steps).train()
        module = sys.modules[type(prior).__module__]
        way = without_python if graph else eagerly
        with seeded_globals(self.device, "fit"), mock.patch.object(module, "without_python", way):
            prior.fit(self.posterior, stream(self.device, "fit"), FitLog())
        self.wait()
        return prior.eval()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, run: Callable[[], Any]) -> float:
        self.wait()
        start = time.perf_counter()
        run()
        self.wait()
        return time.perf_counter() - start

    def peak_megabytes(self, run: Callable[[], Any]) -> float:
        if self.device.type != "cuda":
            run()
            return 0.0
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        run()
        return (torch.cuda.max_memory_allocated(self.device) - before) / 1e6

    def busy_share(self, run: Callable[[], Any]) -> float:
        """Time in kernels over time in all, by the profiler, which slows eager steps down: a lower bound there."""
        if self.device.type != "cuda":
            return 0.0
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            seconds = self.seconds(run)
        return sum(kernel.self_device_time_total for kernel in profile.key_averages()) / 1e6 / seconds


def difference(one: LatentPrior, other: LatentPrior) -> float:
    """The largest difference of a parameter over the largest parameter."""
    pairs = list(zip(one.parameters(), other.parameters()))
    return max((a - b).abs().max().item() for a, b in pairs) / max(a.abs().max().item() for a, _ in pairs)


def time_fits(bench: Bench, names: list[str], steps: int) -> list[dict[str, Any]]:
    rows = []
    for name in names:
        row: dict[str, Any] = {"fit": name, "steps": steps}
        try:
            small = bench.fit(name, PARITY_STEPS, graph=False), bench.fit(name, PARITY_STEPS, graph=True)
            row["difference at 10"] = difference(*small)
            for graph in (False, True):
                way = "graph" if graph else "eager"
                taken = bench.seconds(partial(bench.fit, name, steps, graph))
                row[f"{way}, steps/s"] = steps / taken
            row["graph / eager"] = row["graph, steps/s"] / row["eager, steps/s"]
            row["peak MB"] = bench.peak_megabytes(partial(bench.fit, name, 200, graph=True))
            for graph in (False, True):
                way = "graph" if graph else "eager"
                row[f"busy, {way}"] = bench.busy_share(partial(bench.fit, name, 600, graph))
        except Exception as error:  # the others are worth having
            row["failed"] = f"{type(error).__name__}: {error}"[:300]
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


class Pushed(nn.Module):
    def __init__(self, prior: EVaLP) -> None:
        super().__init__()
        self.sampler = prior.sampler

    def forward(self, noise: Tensor) -> Tensor:
        return self.sampler.push(noise)[0]


class EnergyGradients(nn.Module):
    def __init__(self, prior: EVaLP) -> None:
        super().__init__()
        self.energy, self.gp_weight = prior.energy_network, prior.config.gp_weight

    def forward(self, z: Tensor) -> list[Tensor]:
        return energy_gradients(self.energy, z, self.gp_weight)[0]


class SamplerLoss(nn.Module):
    def __init__(self, prior: EVaLP) -> None:
        super().__init__()
        self.energy, self.sampler, self.kl_weight = prior.energy_network, prior.sampler, prior.config.kl_weight

    def forward(self, noise: Tensor) -> Tensor:
        return sampler_loss(self.energy, self.sampler, noise, self.kl_weight)[0]


class BatchedEVaLP:
    """EVaLP's round for several seeds at once: parameters are stacked, buffers are those of the first."""

    def __init__(self, bench: Bench, seeds: int) -> None:
        self.bench, self.generators = bench, [stream(bench.device, "fit", seed) for seed in range(seeds)]
        priors = [bench.build("evalp", seed) for seed in range(seeds)]
        assert isinstance(priors[0], EVaLP)
        self.config = priors[0].config
        self.push, self.of_energy, self.loss = Pushed(priors[0]), EnergyGradients(priors[0]), SamplerLoss(priors[0])
        self.buffers = dict(self.push.named_buffers())
        self.energies, _ = stack_module_state([EnergyGradients(each) for each in priors])  # type: ignore[arg-type]
        self.samplers, _ = stack_module_state([Pushed(each) for each in priors])  # type: ignore[arg-type]
        self.energies = {name: value.detach() for name, value in self.energies.items()}
        self.samplers = {name: value.detach() for name, value in self.samplers.items()}
        rate = self.config.learning_rate
        self.energy_adam = Adam(self.energies.values(), rate, betas=(0.5, 0.999))
        self.sampler_adam = Adam(self.samplers.values(), self.config.sampler_learning_rate or rate, betas=(0.5, 0.999))

    def draw(self, make: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([make(generator) for generator in self.generators])

    def play(self) -> Tensor:
        k, batch, device = self.config.energy_steps, self.config.batch_size, self.bench.device
        train = self.bench.posterior.train
        z_q = self.draw(lambda generator: train.sample(k * batch, generator).flatten(1))
        n, d = z_q.shape[1:]
        noise = self.draw(lambda generator: torch.randn(n, d, generator=generator, device=device))
        a = self.draw(lambda generator: torch.rand(n, 1, generator=generator, device=device))
        with torch.no_grad():
            z_g = vmap(lambda p, x: functional_call(self.push, (p, self.buffers), (x,)))(self.samplers, noise)
        parts = torch.stack([z_q, z_g, a * z_q + (1 - a) * z_g], 1).unflatten(2, (k, batch))
        for index in range(k):
            z = parts[:, :, index].contiguous()
            gradients = vmap(lambda p, x: functional_call(self.of_energy, p, (x,)))(self.energies, z)
            self.energy_adam.step(gradients)
        noise = self.draw(lambda generator: torch.randn(batch, d, generator=generator, device=device))

        def objective(of_sampler: dict[str, Tensor], of_energy: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self.loss, (of_sampler, of_energy, self.buffers), (x,))

        gradients = vmap(grad(objective))(self.samplers, self.energies, noise)
        self.sampler_adam.step([gradients[name] for name in self.samplers])
        return z_g

    def with_graph(self) -> Callable[[], Any]:
        for _ in range(WARM_UP):
            self.play()
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph):
            self.play()
        return graph.replay


def time_batched(bench: Bench, steps: int) -> list[dict[str, Any]]:
    rows = []
    for graph in (False, True) if bench.device.type == "cuda" else (False,):
        for seeds in (1, SEEDS):
            row: dict[str, Any] = {"fit": "evalp, vmap" + (", graph" if graph else ""), "seeds": seeds}
            try:
                made = BatchedEVaLP(bench, seeds)
                rounds = max(steps // made.config.energy_steps, 1)
                play = made.with_graph() if graph else made.play
                play()

                def run(play: Callable[[], Any] = play, rounds: int = rounds) -> None:
                    for _ in range(rounds):
                        play()

                row["steps/s"] = rounds * made.config.energy_steps / bench.seconds(run)
                row["seed-steps/s"] = seeds * row["steps/s"]
            except Exception as error:
                row["failed"] = f"{type(error).__name__}: {error}"[:300]
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def time_draws(bench: Bench, names: list[str], batches: tuple[int, ...]) -> list[dict[str, Any]]:
    rows = []
    torch.set_grad_enabled(False)
    for name in names:
        generator = stream(bench.device, "timing")  # one of a recording that failed can draw nothing more
        try:
            prior = bench.build(name).eval().requires_grad_(False)
            for n in batches:
                row: dict[str, Any] = {"draws of": name, "n": n}
                run = partial(prior.sample, n, generator)
                for _ in range(3):
                    run()
                row["eager, ms"] = 1e3 * statistics.median(measure_durations(run, bench.device, 20, 2))
                if bench.device.type == "cuda" and name not in WAITS:
                    try:
                        row["graph, ms"] = 1e3 * statistics.median(time_replays(bench, run, generator))
                    except Exception as error:
                        row["no graph"] = f"{type(error).__name__}: {error}"[:200]
                rows.append(row)
                print(json.dumps(row), flush=True)
        except Exception as error:
            rows.append({"draws of": name, "failed": f"{type(error).__name__}: {error}"[:300]})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def time_replays(bench: Bench, run: Callable[[], Any], generator: torch.Generator) -> list[float]:
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        run()
    graph.replay()
    return measure_durations(graph.replay, bench.device, 20, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="mnist-conv_vae")
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--fits", default="evalp,ncp,latent_flow,mcmc_ebm,mixture")
    parser.add_argument("--draws", default="gaussian,gmm,mixture,evalp,latent_flow,mcmc_ebm,ncp")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--json", type=Path, help="where all figures go")
    asked = parser.parse_args()
    bench = Bench(asked.bundle, choose_device(asked.device))
    print(f"{device_name(bench.device)}, torch {torch.__version__}, {asked.bundle}", flush=True)
    importlib.import_module("torch._dynamo")  # which the first optimiser imports, for a second
    fits = time_fits(bench, asked.fits.split(",") if asked.fits else [], asked.steps)
    batched = time_batched(bench, asked.steps)
    draws = time_draws(bench, asked.draws.split(","), tuple(map(int, asked.batches.split(","))))
    tables = {"fits": fits, "batched": batched, "draws": draws}
    if asked.json:
        asked.json.write_text(json.dumps(tables, indent=1))
    for rows in tables.values():
        print(tabulate(rows, headers="keys", floatfmt=".4g"), end="\n\n")


if __name__ == "__main__":
    main()
