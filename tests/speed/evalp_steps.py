"""EVaLP's energy steps per second, its sampler steps included, beside what the same step costs otherwise.

    suite              `EVaLP.fit` on a bundle's latents, as the benchmark calls it
    plain + encoder    a plain loop as in the released code: every energy step encodes 64 images with the frozen
                       encoder, draws z_q, passes the sampler once for z_g, takes f(z_q), f(z_g) and f(z^) apart, and
                       the penalty by double backward; Adam as it comes; one sampler step every 5. The images are
                       random: time does not depend on them. No data loader and no logging, which the release has
                       beside; and its encoder is 128 channels wide where the bundle's may be narrower
    plain + latents    the same loop on the bundle's stored latents, without encoder
    arithmetic         a floor: draws, matrix products and Adam of the same steps written out by hand into tensors
                       that exist already; no autograd, no modules, no optimiser. Its gradients are checked against
                       the suite's before anything is timed. On a GPU it is bound by kernel launches as the others are

All four have the networks and settings of the MNIST recipe (batch 64). They run in turns, `--repeats` times
`--steps` steps each; the table has the median, and lowest and highest, of steps per second.

    PYTHONPATH=. python tests/speed/evalp_steps.py --steps 2000
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from tabulate import tabulate
from torch import Tensor

from backbones.conv_vae import ConvVAE
from backbones.training import as_input
from benchmark.bundles.bundle import Bundle
from benchmark.bundles.find import find_bundle
from benchmark.errors import UsageError
from benchmark.store.provenance import device_name
from priors.api import AggregatePosterior, PosteriorSplit
from priors.evalp import EVaLP, EVaLPConfig, energy_gradients, sampler_loss
from priors.parts.energies import MLPEnergy
from priors.parts.flows import LOG_SCALE_BOUND, CouplingFlow
from priors.parts.standard_normal import log_standard_normal

FALLBACK = "digits-conv_vae"
IMAGES = 2_000
BETAS, EPSILON = (0.5, 0.999), 1e-8

aten = torch.ops.aten

Run = Callable[[int], None]  # takes that many energy steps


def recipe(steps: int) -> EVaLPConfig:
    return EVaLPConfig(**{**EVaLP.recipes["mnist"][1], "steps": steps})


def suite(posterior: AggregatePosterior, latent_shape: tuple[int, ...], generator: torch.Generator) -> Run:
    def run(steps: int) -> None:
        prior = EVaLP(latent_shape, recipe(steps)).to(posterior.device)
        prior.fit(posterior, generator, lambda *_, **__: None)

    return run


def plain(draw: Callable[[], Tensor], features: int, generator: torch.Generator) -> Run:
    """The loop as one would write it; `draw` gives z_q of one batch."""
    config, device = recipe(1), generator.device
    energy = MLPEnergy(features, config.energy_width).to(device)
    sampler = CouplingFlow(features, config.couplings, config.sampler_width).to(device)
    energy_optimiser = torch.optim.Adam(energy.parameters(), config.learning_rate, BETAS)
    sampler_optimiser = torch.optim.Adam(sampler.parameters(), config.learning_rate, BETAS)

    def noise() -> Tensor:
        return torch.randn(config.batch_size, features, generator=generator, device=device)

    def run(steps: int) -> None:
        for step in range(steps):
            z_q, z_g = draw().detach(), sampler.push(noise())[0].detach()
            a = torch.rand(len(z_q), 1, generator=generator, device=device)
            between = (a * z_q + (1 - a) * z_g).requires_grad_()
            (gradient,) = torch.autograd.grad(energy(between).sum(), between, create_graph=True)
            penalty = (gradient.norm(dim=1) - 1).square().mean()
            loss = energy(z_q).mean() - energy(z_g).mean() + config.gp_weight * penalty
            energy_optimiser.zero_grad()
            loss.backward()
            energy_optimiser.step()
            if step % config.energy_steps == 0:
                start = noise()
                z, log_det = sampler.push(start)
                kl = (log_standard_normal(start) - log_det - log_standard_normal(z)).mean()
                objective = energy(z).mean() + config.kl_weight * kl
                sampler_optimiser.zero_grad()
                objective.backward()
                sampler_optimiser.step()

    return run


def encoding(bundle: Bundle, batch: int, generator: torch.Generator) -> Callable[[], Tensor]:
    """Draws of z_q that encode a batch of (random) images each."""
    device = generator.device
    backbone = bundle.backbone(ConvVAE, device)
    shape = (IMAGES, *backbone.image_shape)
    images = torch.randint(256, shape, generator=generator, device=device, dtype=torch.uint8)

    def draw() -> Tensor:
        index = torch.randint(len(images), (batch,), generator=generator, device=device)
        mean, std = backbone.encode(as_input(images[index]))
        return (mean + std * torch.randn(mean.shape, generator=generator, device=device)).flatten(1)

    return draw


class Parameters:
    """A module's parameters in one vector, so that Adam is a handful of in-place operations."""

    def __init__(self, module: torch.nn.Module, learning_rate: float) -> None:
        named = dict(module.named_parameters())
        self._rate, self._steps = learning_rate, 0
        self._value = torch.cat([parameter.detach().flatten() for parameter in named.values()])
        self._gradient, self._mean, self._square, self._root = (torch.zeros_like(self._value) for _ in range(4))
        sizes = [parameter.numel() for parameter in named.values()]
        self.values, self.gradients = (
            {name: part.view(old.shape) for (name, old), part in zip(named.items(), whole.split(sizes))}
            for whole in (self._value, self._gradient)
        )

    def adam(self) -> None:
        self._steps += 1
        first, second = (1 - beta**self._steps for beta in BETAS)
        self._mean.lerp_(self._gradient, 1 - BETAS[0])
        self._square.mul_(BETAS[1]).addcmul_(self._gradient, self._gradient, value=1 - BETAS[1])
        torch.sqrt(self._square, out=self._root).add_(EPSILON * math.sqrt(second))
        self._value.addcdiv_(self._mean, self._root, value=-self._rate * math.sqrt(second) / first)


class BareEnergy:
    """`MLPEnergy` with its loss's gradient written out.

    The 3n rows are z_q, z_g and z^. Going back, the rows of z^ carry df/dz^ as far as the penalty; then their
    places in the layers' inputs take the penalty's own gradient, and each weight's gradient is one product of 3n rows.
    """

    def __init__(self, energy: MLPEnergy, n: int, gp_weight: float, learning_rate: float) -> None:
        self.parameters = Parameters(energy, learning_rate)
        self._value, self._gradient = self.parameters.values, self.parameters.gradients
        self._n, self._gp_weight = n, gp_weight
        first = self._value["hidden.0.weight"]
        width, features = first.shape
        self._h1, self._a1, self._g1, self._h2, self._a2, self._g2 = (first.new_empty(3 * n, width) for _ in range(6))
        self._slope, self._norm = first.new_empty(n, features), first.new_empty(n, 1)
        self._of_output = torch.tensor([1 / n, -1 / n, 1.0], device=first.device).repeat_interleave(n)

    def _back(self, gradient: Tensor, before: Tensor) -> None:
        aten.leaky_relu_backward(gradient, before, MLPEnergy.SLOPE, False, grad_input=gradient)

    def _hidden(self, z: Tensor, h1: Tensor, a1: Tensor, h2: Tensor) -> None:
        value = self._value
        torch.addmm(value["hidden.0.bias"], z, value["hidden.0.weight"].T, out=h1)
        aten.leaky_relu(h1, MLPEnergy.SLOPE, out=a1)
        torch.addmm(value["hidden.1.bias"], a1, value["hidden.1.weight"].T, out=h2)

    def gradients(self, z: Tensor) -> None:
        """Gradient of the energy's loss at z (3n, d), whose last n rows are overwritten."""
        value, gradient, n = self._value, self._gradient, self._n
        h1, a1, g1, h2, a2, g2 = self._h1, self._a1, self._g1, self._h2, self._a2, self._g2
        self._hidden(z, h1, a1, h2)
        aten.leaky_relu(h2[: 2 * n], MLPEnergy.SLOPE, out=a2[: 2 * n])
        torch.mul(self._of_output[:, None], value["last.weight"], out=g2)
        self._back(g2, h2)
        torch.mm(g2, value["hidden.1.weight"], out=g1)
        self._back(g1, h1)
        torch.mm(g1[2 * n :], value["hidden.0.weight"], out=self._slope)
        torch.linalg.vector_norm(self._slope, dim=1, keepdim=True, out=self._norm)
        scale = self._norm.reciprocal_().neg_().add_(1).mul_(2 * self._gp_weight / n)
        torch.mul(self._slope, scale, out=z[2 * n :])
        torch.mm(z[2 * n :], value["hidden.0.weight"].T, out=a1[2 * n :])
        self._back(a1[2 * n :], h1[2 * n :])
        torch.mm(a1[2 * n :], value["hidden.1.weight"].T, out=a2[2 * n :])
        self._back(a2[2 * n :], h2[2 * n :])
        torch.mm(g1.T, z, out=gradient["hidden.0.weight"])
        torch.sum(g1[: 2 * n], 0, out=gradient["hidden.0.bias"])
        torch.mm(g2.T, a1, out=gradient["hidden.1.weight"])
        torch.sum(g2[: 2 * n], 0, out=gradient["hidden.1.bias"])
        torch.mv(a2.T, self._of_output, out=gradient["last.weight"].view(-1))

    def slope(self, z: Tensor, out: Tensor) -> None:
        """Gradient of mean f(z) in z (n, d)."""
        value, n = self._value, self._n
        h1, a1, h2, g1, g2 = self._h1[:n], self._a1[:n], self._h2[:n], self._g1[:n], self._g2[:n]
        self._hidden(z, h1, a1, h2)
        torch.mul(self._of_output[:n, None], value["last.weight"], out=g2)
        self._back(g2, h2)
        torch.mm(g2, value["hidden.1.weight"], out=g1)
        self._back(g1, h1)
        torch.mm(g1, value["hidden.0.weight"], out=out)


class BareNetwork:
    """One of a coupling's two networks (ReLU or tanh) on n rows, forward and back."""

    def __init__(self, parameters: Parameters, prefix: str, n: int, tanh: bool) -> None:
        self._layers = [f"{prefix}.{index}" for index in (0, 2, 4)]
        self._value, self._gradient, self._tanh = parameters.values, parameters.gradients, tanh
        weights = [self._value[f"{layer}.weight"] for layer in self._layers]
        self._inputs = [weight.new_empty(n, weight.shape[1]) for weight in weights]
        self._of_inputs = [torch.empty_like(rows) for rows in self._inputs]
        self.output = weights[-1].new_empty(n, len(weights[-1]))

    def forward(self, x: Tensor) -> None:
        self._inputs[0].copy_(x)
        for index, (layer, rows) in enumerate(zip(self._layers, self._inputs)):
            out = self._inputs[index + 1] if index < 2 else self.output
            torch.addmm(self._value[f"{layer}.bias"], rows, self._value[f"{layer}.weight"].T, out=out)
            if index < 2:
                out.tanh_() if self._tanh else out.relu_()

    def backward(self, of_output: Tensor) -> Tensor:
        """Gradients of the parameters, and of the input, which is returned."""
        out = of_output
        for index, layer in reversed(list(enumerate(self._layers))):
            rows, of_rows = self._inputs[index], self._of_inputs[index]
            torch.mm(out.T, rows, out=self._gradient[f"{layer}.weight"])
            torch.sum(out, 0, out=self._gradient[f"{layer}.bias"])
            torch.mm(out, self._value[f"{layer}.weight"], out=of_rows)
            if index and self._tanh:
                aten.tanh_backward(of_rows, rows, grad_input=of_rows)
            elif index:
                aten.threshold_backward(of_rows, rows, 0, grad_input=of_rows)
            out = of_rows
        return out


class BareCoupling:
    """One coupling with the ActNorm before it (on the way from noise to latents) on n rows, forward and back."""

    def __init__(self, parameters: Parameters, index: int, features: int, n: int) -> None:
        norm, networks = f"to_noise._transforms.{2 * index + 1}", f"to_noise._transforms.{2 * index}.transform_net"
        self._shift, self._log_scale = (
            (parameters.values[f"{norm}.{name}"], parameters.gradients[f"{norm}.{name}"])
            for name in ("shift", "log_scale")
        )
        self._nets = [BareNetwork(parameters, f"{networks}.{name}", n, name == "scale") for name in ("shift", "scale")]
        self._moved, self._kept = (slice((index + 1) % 2, None, 2), slice(index % 2, None, 2))
        self._normed, self._z = (self._shift[0].new_empty(n, features) for _ in range(2))
        self._narrowing = torch.empty_like(self._shift[0])
        self._tanh, self._scale, self._of_u, self._of_shift = (torch.empty_like(self._nets[0].output) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        torch.neg(self._log_scale[0], out=self._narrowing).exp_()
        torch.sub(x, self._shift[0], out=self._normed).mul_(self._narrowing)
        self._z.copy_(self._normed)
        for net in self._nets:
            net.forward(self._z[:, self._kept])
        shift, u = (net.output for net in self._nets)
        torch.div(u, LOG_SCALE_BOUND, out=self._tanh).tanh_()
        torch.mul(self._tanh, -LOG_SCALE_BOUND, out=self._scale).exp_()
        self._z[:, self._moved].sub_(shift).mul_(self._scale)
        return self._z

    def backward(self, of_z: Tensor, kl_weight: float) -> Tensor:
        """Gradients of the parameters, and of what went in: `of_z` is overwritten with it and returned."""
        of_moved, of_u = of_z[:, self._moved], self._of_u
        torch.mul(of_moved, self._z[:, self._moved], out=of_u).neg_().add_(kl_weight / len(of_z))
        aten.tanh_backward(of_u, self._tanh, grad_input=of_u)
        of_moved.mul_(self._scale)
        torch.neg(of_moved, out=self._of_shift)
        for net, of_output in zip(self._nets, (self._of_shift, of_u)):
            of_z[:, self._kept].add_(net.backward(of_output))
        self._normed.mul_(of_z)
        torch.sum(self._normed, 0, out=self._log_scale[1]).neg_().add_(kl_weight)
        of_z.mul_(self._narrowing)
        torch.sum(of_z, 0, out=self._shift[1]).neg_()
        return of_z


class BareSampler:
    """`CouplingFlow` with its loss's gradient written out: `push` for the k energy steps, `gradients` for its own."""

    def __init__(self, sampler: CouplingFlow, couplings: int, n: int, k: int, kl_weight: float, rate: float) -> None:
        self.parameters, self._kl_weight = Parameters(sampler, rate), kl_weight
        features = sampler.features
        self._wide, self._narrow = (
            [BareCoupling(self.parameters, index, features, rows) for index in reversed(range(couplings))]
            for rows in (k * n, n)
        )
        self._of_z = next(iter(self.parameters.values.values())).new_empty(n, features)

    def push(self, z: Tensor) -> Tensor:
        for coupling in self._wide:
            z = coupling.forward(z)
        return z

    def gradients(self, z: Tensor, energy: BareEnergy) -> None:
        n = len(z)
        for coupling in self._narrow:
            z = coupling.forward(z)
        energy.slope(z, out=self._of_z)
        self._of_z.add_(z, alpha=self._kl_weight / n)
        for coupling in reversed(self._narrow):
            coupling.backward(self._of_z, self._kl_weight)


def arithmetic(posterior: AggregatePosterior, features: int, generator: torch.Generator) -> Run:
    config, device = recipe(1), generator.device
    k, n = config.energy_steps, config.batch_size
    energy_module = MLPEnergy(features, config.energy_width).to(device)
    sampler_module = CouplingFlow(features, config.couplings, config.sampler_width).to(device)
    energy = BareEnergy(energy_module, n, config.gp_weight, config.learning_rate)
    sampler = BareSampler(sampler_module, config.couplings, n, k, config.kl_weight, config.learning_rate)
    mean, std = (part.flatten(1) for part in (posterior.train._mean, posterior.train._std))
    z = torch.empty(k, 3, n, features, device=device)
    index = torch.empty(k * n, dtype=torch.long, device=device)
    z_q, chosen_std, noise = (torch.empty(k * n, features, device=device) for _ in range(3))
    a, start = torch.empty(k, n, 1, device=device), torch.empty(n, features, device=device)

    @torch.no_grad()
    def run(steps: int) -> None:
        for _ in range(math.ceil(steps / k)):
            torch.randint(len(mean), index.shape, generator=generator, out=index)
            torch.index_select(mean, 0, index, out=z_q)
            torch.index_select(std, 0, index, out=chosen_std)
            torch.randn(noise.shape, generator=generator, out=noise)
            z[:, 0] = z_q.addcmul_(chosen_std, noise).view(k, n, features)
            torch.randn(noise.shape, generator=generator, out=noise)
            z[:, 1] = sampler.push(noise).view(k, n, features)
            torch.rand(a.shape, generator=generator, out=a)
            torch.lerp(z[:, 1], z[:, 0], a, out=z[:, 2])
            for rows in z:
                energy.gradients(rows.view(3 * n, features))
                energy.parameters.adam()
            torch.randn(start.shape, generator=generator, out=start)
            sampler.gradients(start, energy)
            sampler.parameters.adam()

    return run


def check_arithmetic(features: int, generator: torch.Generator) -> None:
    """The gradients by hand are those of the suite's losses, at weights that are nothing special."""
    config, device, kl_weight = recipe(1), generator.device, 0.5
    k, n = config.energy_steps, config.batch_size
    energy = MLPEnergy(features, config.energy_width).to(device)
    sampler = CouplingFlow(features, config.couplings, config.sampler_width).to(device)
    with torch.no_grad():
        for parameter in [*energy.parameters(), *sampler.parameters()]:
            parameter.add_(torch.randn(parameter.shape, generator=generator, device=device), alpha=0.05)
    z_q, z_g = torch.randn(2, n, features, generator=generator, device=device)
    a = torch.rand(n, 1, generator=generator, device=device)
    between = torch.lerp(z_g, z_q, a)
    objective = sampler_loss(energy, sampler, z_q, kl_weight)[0]
    expected = {
        energy: energy_gradients(energy, torch.stack([z_q, z_g, between]), config.gp_weight)[0],
        sampler: torch.autograd.grad(objective, list(sampler.parameters())),
    }
    bare_energy = BareEnergy(energy, n, config.gp_weight, config.learning_rate)
    bare_sampler = BareSampler(sampler, config.couplings, n, k, kl_weight, config.learning_rate)
    with torch.no_grad():
        bare_sampler.gradients(z_q, bare_energy)
        bare_energy.gradients(torch.cat([z_q, z_g, between]))
    for module, bare in ((energy, bare_energy), (sampler, bare_sampler)):
        for wanted, (name, got) in zip(expected[module], bare.parameters.gradients.items()):
            if not (got - wanted).norm() <= 1e-4 * wanted.norm() + 1e-6:
                raise SystemExit(f"the arithmetic by hand is wrong: gradient of {type(module).__name__}'s {name}")


def rate(run: Run, steps: int, device: torch.device) -> float:
    start = time.perf_counter()
    run(steps)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return steps / (time.perf_counter() - start)


def chosen_bundle(name: str) -> Bundle:
    try:
        return find_bundle(None, ConvVAE.name, name)[0]
    except UsageError as error:
        print(f"{error}: taking {FALLBACK}")
        return find_bundle(None, ConvVAE.name, FALLBACK)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="mnist-conv_vae", help="name or folder (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2_000, help="energy steps of one repeat (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of each (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    generator = torch.Generator(device).manual_seed(0)
    bundle = chosen_bundle(arguments.bundle)
    posterior = AggregatePosterior(*(PosteriorSplit(*bundle.posterior(split, device)) for split in ("train", "val")))
    features, config = math.prod(bundle.latent_shape), recipe(1)
    steps = math.ceil(arguments.steps / config.energy_steps) * config.energy_steps
    check_arithmetic(features, generator)
    runs = {
        "suite": suite(posterior, bundle.latent_shape, generator),
        "plain + encoder": plain(encoding(bundle, config.batch_size, generator), features, generator),
        "plain + latents": plain(
            lambda: posterior.train.sample(config.batch_size, generator).flatten(1), features, generator
        ),
        "arithmetic": arithmetic(posterior, features, generator),
    }
    for run in runs.values():
        run(100)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.repeats):
        for name, run in runs.items():
            rates[name].append(rate(run, steps, device))
    suite_rate = statistics.median(rates["suite"])
    rows = []
    for name, taken in rates.items():
        median = statistics.median(taken)
        rows.append([name, f"{median:,.0f}", f"{min(taken):,.0f} to {max(taken):,.0f}", f"{suite_rate / median:.2f}"])
    width = bundle.card["backbone"]["config"].get("width")
    print(f"{device_name(device)}, {device.type}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{bundle.path.name}: {features} latents, encoder width {width}; {arguments.repeats} x {steps:,} steps\n")
    header = ["", "energy steps/s", "lowest to highest", "suite is x times as fast"]
    print(tabulate(rows, header, disable_numparse=True, colalign=["left", "right", "right", "right"]))


if __name__ == "__main__":
    main()
