"""A hierarchical VAE after NVAE (Vahdat and Kautz 2020, arXiv 2007.03898), whose top latent group takes the prior.

    p(x, z) = N(z_0; 0, I)  prod_l N(z_l; mu_l(z_<l), sigma_l(z_<l))  p(x | z)
    q(z | x) = N(z_0; mu(x), sigma(x))  prod_l N(z_l; mu_l + dmu_l(z_<l, x), sigma_l * dsigma_l(z_<l, x))

so that a group that adds nothing to what is above it costs nothing: with dmu = 0 and dsigma = 1 its

    KL = 1/2 sum (dmu^2 / sigma^2 + dsigma^2 - 1) - log dsigma

is zero. The bottom-up network ends at the top scale, where z_0 is drawn; the top-down one starts from a learned
constant feature map, is joined by z_0 and by each further group, and doubles its resolution between scales. mu and
log sigma are kept in 5 tanh(. / 5). `encode` gives q(z_0 | x); `decode` draws the other groups from their conditionals.

    loss = -log p(x | z) + spectral_weight sum of singular values
           + beta (kl_weight_top balance_0 KL_0 + kl_weight_below sum_l balance_l KL_l)

beta rises from 0 to 1 over the first `warmup` of training; while it does, groups are weighted by the KL that they have
per latent, so that none dies early: the paper's balancing, whose release also divides by the groups of a scale. The
spectral term is of convolutions; batch norm's scales are left free. The decoder is Bernoulli for grey images and, for
colour, Gaussian with one standard deviation, learned unless `likelihood_std` sets it: a learned one shrinks to what the
lowest groups can explain, and they then hold nearly all that is said of an image. Rewritten from the paper; sizes are
settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from backbones.api import Backbone, BackboneConfig, Choose, Conditional, hookimpl, require_binary

BOUND = 5.0
BRANCH = 0.1  # a cell adds this share of its branch
READJUSTING_BATCH = 500


class NVAEConfig(BackboneConfig):
    """`groups`: latent groups per scale, coarsest first; each scale has twice the side of the one before.

    `top_side`: side of the coarsest scale. `width`: channels of the finest latent scale (a coarser one has twice as
    many, up to `max_width`). `z_channels`: channels of a group. `cells`: residual cells per group and per change of
    side. `likelihood_std`: of the pixels of colour images, in [0, 1] as they are; null to learn it.

    Of decoding alone: `temperature` scales the standard deviations of the lower groups' conditionals, and with
    `readjust_batch_norm` the norms that samples pass have the statistics of samples (the paper's section 3.4).
    """

    learning_rate: float = Field(1e-2, gt=0)
    groups: tuple[int, ...] = Field((2, 3), min_length=1)
    top_side: int = Field(4, ge=1)
    width: int = Field(32, ge=4)
    max_width: int = Field(128, ge=4)
    z_channels: int = Field(8, ge=1)
    cells: int = Field(1, ge=1)
    expansion: int = Field(3, ge=1)
    warmup: float = Field(0.3, ge=0, le=1)
    kl_weight_top: float = Field(1.0, ge=0)
    kl_weight_below: float = Field(1.0, ge=0)
    spectral_weight: float = Field(1e-2, ge=0)
    likelihood_std: float | None = Field(None, ge=1e-3)
    temperature: float = Field(1.0, ge=0)
    readjust_batch_norm: bool = False


def soft_bound(x: Tensor) -> Tensor:
    """5 tanh(x / 5): the identity near zero, never beyond 5."""
    return BOUND * torch.tanh(x / BOUND)


class SqueezeExcite(nn.Module):
    """Channels scaled by what their means say (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 4)
        self.layers = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.layers(x.mean((2, 3)))[:, :, None, None]


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, momentum=0.05)


class EncoderCell(nn.Module):
    """skip(x) + 0.1 SE(2 x [BN, swish, conv 3x3]); `stride` 2 halves the side."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.skip = nn.Identity() if stride == 1 and inputs == outputs else nn.Conv2d(inputs, outputs, stride, stride)
        self.branch = nn.Sequential(
            _norm(inputs),
            nn.SiLU(),
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            _norm(outputs),
            nn.SiLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            SqueezeExcite(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + BRANCH * self.branch(x)


class DecoderCell(nn.Module):
    """skip(x) + 0.1 SE(BN, 1x1 expand, BN, swish, depthwise 5x5, BN, swish, 1x1, BN); `up` doubles the side."""

    def __init__(self, inputs: int, outputs: int, expansion: int, up: bool = False) -> None:
        super().__init__()
        wide = inputs * expansion
        self.up = up
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.branch = nn.Sequential(
            _norm(inputs),
            nn.Conv2d(inputs, wide, 1, bias=False),
            _norm(wide),
            nn.SiLU(),
            nn.Conv2d(wide, wide, 5, 1, 2, groups=wide, bias=False),
            _norm(wide),
            nn.SiLU(),
            nn.Conv2d(wide, outputs, 1, bias=False),
            _norm(outputs),
            SqueezeExcite(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            x = F.interpolate(x, scale_factor=2)
        return self.skip(x) + BRANCH * self.branch(x)


def _make_cells(channels: int, config: NVAEConfig) -> nn.Sequential:
    return nn.Sequential(*[DecoderCell(channels, channels, config.expansion) for _ in range(config.cells)])


def _mean_and_log_std(parameters: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_std = soft_bound(parameters).chunk(2, dim=1)
    return mean, log_std


#: of one group, each (n,), in nats: KL(q || p), and log q - log p at the draw
Cost = tuple[Tensor, Tensor]


def residual_kl(shift: Tensor, log_ratio: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(mu + shift, (sigma exp(log_ratio))^2) || N(mu, sigma^2)) in nats, summed over all but the batch: (n,)."""
    kl = 0.5 * ((shift / log_std.exp()) ** 2 + (2 * log_ratio).exp() - 1) - log_ratio
    return kl.flatten(1).sum(1)


def _cost(shift: Tensor, log_ratio: Tensor, log_std: Tensor, noise: Tensor) -> Cost:
    from_prior = shift / log_std.exp() + log_ratio.exp() * noise  # the draw in standard deviations of the prior
    log_q_over_p = 0.5 * (from_prior**2 - noise**2) - log_ratio
    return residual_kl(shift, log_ratio, log_std), log_q_over_p.flatten(1).sum(1)


class Group(nn.Module):
    """One latent group below the top: cells, its prior, its residual posterior, and how it joins the features."""

    def __init__(self, channels: int, config: NVAEConfig) -> None:
        super().__init__()
        z = config.z_channels
        self.cells = _make_cells(channels, config)
        self.prior = nn.Sequential(nn.ELU(), nn.Conv2d(channels, 2 * z, 1))
        self.merge = nn.Conv2d(2 * channels, channels, 1)
        self.posterior = nn.Sequential(EncoderCell(channels, channels), nn.ELU(), nn.Conv2d(channels, 2 * z, 3, 1, 1))
        self.join = nn.Conv2d(channels + z, channels, 1)

    def condition(self, features: Tensor) -> Conditional:
        """Features of what is above -> what they say of this group."""
        features = self.cells(features)
        return Conditional(features, *_mean_and_log_std(self.prior(features)))

    def infer(
        self, above: Conditional, bottom_up: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Cost]:
        """A draw of the residual posterior: z, the same as eps, and its cost."""
        merged = self.merge(torch.cat([above.features, bottom_up], 1))
        shift, log_ratio = _mean_and_log_std(self.posterior(merged))
        noise = torch.randn(above.mean.shape, generator=generator, device=above.mean.device)
        z = above.mean + shift + (above.log_std + log_ratio).exp() * noise
        return z, shift / above.std + log_ratio.exp() * noise, _cost(shift, log_ratio, above.log_std, noise)

    def draw(self, above: Conditional, generator: torch.Generator | None, temperature: float) -> Tensor:
        """z of the conditional, with its standard deviation times `temperature`."""
        noise = torch.randn(above.mean.shape, generator=generator, device=above.mean.device)
        return above.mean + temperature * above.std * noise

    def joined(self, above: Conditional, z: Tensor) -> Tensor:
        """Features that know this group."""
        return self.join(torch.cat([above.features, z], 1))


class NVAE(Backbone):
    name = "nvae"
    Config = NVAEConfig
    config: NVAEConfig
    _sizes: Tensor
    optimiser = torch.optim.Adamax

    def __init__(self, image_shape: tuple[int, int, int], config: NVAEConfig) -> None:
        super().__init__(image_shape, config)
        colours, height, side = self.image_shape
        finest = config.top_side << (len(config.groups) - 1)
        if height != side or side % finest or side // finest & (side // finest - 1):
            raise ValueError(
                f"nvae with {len(config.groups)} scales from {config.top_side} takes square images whose side is "
                f"{finest} times a power of two; these are {height}x{side}"
            )
        scales = len(config.groups)
        widths = [min(config.width << (scales - 1 - scale), config.max_width) for scale in range(scales)]
        downs = (side // finest).bit_length() - 1
        outer = [max(config.width >> i, 8) for i in range(downs, 0, -1)] + [config.width]
        self.latent_shape = (config.z_channels, config.top_side, config.top_side)
        self._widths = widths

        self.stem = nn.Conv2d(colours, outer[0], 3, 1, 1)
        self.shrink = nn.Sequential(*[EncoderCell(i, o, 2) for i, o in pairwise(outer)])
        self.bottom_up = nn.ModuleList()  # finest scale first, one module for each group from the last to the first
        for scale in reversed(range(scales)):
            above = widths[scale + 1] if scale + 1 < scales else widths[scale]
            for number in range(config.groups[scale]):
                stride, inputs = (2, above) if number == 0 and scale + 1 < scales else (1, widths[scale])
                first = EncoderCell(inputs, widths[scale], stride)
                rest = [EncoderCell(widths[scale], widths[scale]) for _ in range(config.cells - 1)]
                self.bottom_up.append(nn.Sequential(first, *rest))
        self.to_posterior = nn.Sequential(nn.ELU(), nn.Conv2d(widths[0], 2 * config.z_channels, 3, 1, 1))

        self.constant = nn.Parameter(torch.randn(widths[0], config.top_side, config.top_side))
        self.join_top = nn.Conv2d(widths[0] + config.z_channels, widths[0], 1)
        self.groups, self.rises = nn.ModuleList(), nn.ModuleList()
        for scale in range(scales):
            self.groups.append(
                nn.ModuleList(Group(widths[scale], config) for _ in range(config.groups[scale] - (scale == 0)))
            )
            if scale + 1 < scales:
                self.rises.append(DecoderCell(widths[scale], widths[scale + 1], config.expansion, up=True))
        self.grow = nn.Sequential(
            *[DecoderCell(i, o, config.expansion, up=True) for i, o in pairwise(outer[::-1])],
            _make_cells(outer[0], config),
            nn.ELU(),
        )
        self.to_image = nn.Conv2d(outer[0], colours, 3, 1, 1)
        if colours != 3 and config.likelihood_std is not None:
            raise ValueError(
                "the decoder of grey images is Bernoulli: leave likelihood_std out, which is of colour ones"
            )
        self.log_scale = nn.Parameter(torch.zeros(())) if colours == 3 else None

        sides = [config.top_side << scale for scale, count in enumerate(config.groups) for _ in range(count)]
        self.register_buffer("_sizes", torch.tensor([config.z_channels * side**2 for side in sides]), persistent=False)
        alike: dict[tuple[int, int], list[str]] = {}
        for path, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and module.groups == 1:
                rows, columns = module.weight.flatten(1).shape
                alike.setdefault((rows, columns), []).append(f"{path}.weight")
        self._alike = list(alike.values())
        for number, ((rows, _), names) in enumerate(alike.items()):
            vectors = torch.randn(len(names), rows, 1)
            self.register_buffer(f"spectral_{number}", F.normalize(vectors, dim=1))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = _mean_and_log_std(self.to_posterior(self._bottom_up(x)[-1]))
        return mean, log_std.exp()

    def decode(self, z: Tensor, generator: torch.Generator | None = None, temperature: float | None = None) -> Tensor:
        """The other groups are drawn at `temperature` (None: the setting's)."""
        return self.image(self._walk(lambda number, _: None if number else z, len(z), generator, temperature))

    @property
    def group_shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple((self.config.z_channels, side, side) for _, side in self._places())

    @property
    def context_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the top group: the learned constant."""
        return tuple((self._widths[scale], side, side) for scale, side in self._places())

    def walk(
        self, choose: Choose, n: int, generator: torch.Generator | None = None, groups: int | None = None
    ) -> Tensor:
        return self._walk(choose, n, generator, None, groups)

    def image(self, walked: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self._image(self.grow(walked))

    def draw_all(self, x: Tensor, generator: torch.Generator) -> list[Tensor]:
        return self._infer(x, generator)[1]

    def reconstruct(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return self.image(self._infer(x, generator)[0])

    def loss(self, x: Tensor, generator: torch.Generator, progress: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        log_likelihood, costs = self.bound_terms(x, generator)
        kls = torch.stack([kl.mean() for kl, _ in costs])
        beta = min(1.0, progress / self.config.warmup) if self.config.warmup else 1.0
        weights = torch.ones_like(kls) if beta == 1 else _balance(kls.detach(), self._sizes)
        weights[0] *= self.config.kl_weight_top
        weights[1:] *= self.config.kl_weight_below
        loss = beta * (weights * kls).sum() - log_likelihood.mean()
        if self.training:
            loss = loss + self.config.spectral_weight * self._spectral_norms()
        terms = {"negative_log_likelihood": -log_likelihood.mean()}
        return loss, terms | {f"kl_{number}": kl for number, kl in enumerate(kls)}

    def bound_terms(self, x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, list[Cost]]:
        """log p(x | z) (n,) in nats for one z ~ q(z | x), and the cost of each group, the top one first."""
        walked, _, costs = self._infer(x, generator)
        return self._log_likelihood(self.grow(walked), x), costs

    def log_weight(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if self.log_scale is None:
            require_binary(x)
        log_likelihood, costs = self.bound_terms(x, generator)
        return log_likelihood - sum(log_q_over_p for _, log_q_over_p in costs)

    def finish(self, z: Tensor, generator: torch.Generator) -> None:
        if self.config.readjust_batch_norm:
            self.readjust_batch_norm(z.split(READJUSTING_BATCH), generator)

    @torch.no_grad()
    def readjust_batch_norm(
        self, z: Iterable[Tensor], generator: torch.Generator, temperature: float | None = None
    ) -> None:
        """Running statistics of the norms that decoding passes, taken anew from images of batches of z, (n, C, H, W).

        Sampling sees other features than training did, the more so at other temperatures (the paper's section 3.4).
        """
        decoding = [self.groups, self.rises, self.grow]
        norms = [
            module
            for part in decoding
            for name, module in part.named_modules()
            if isinstance(module, nn.BatchNorm2d) and ".posterior." not in name
        ]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None  # the plain average over all batches
        for batch in z:
            self.decode(batch, generator, temperature)
        for norm, momentum in zip(norms, momenta):
            norm.eval()
            norm.momentum = momentum

    def _infer(self, x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, list[Tensor], list[Cost]]:
        """Every group drawn from its posterior: what has walked down, eps and the cost of each, the top one first."""
        rising = self._bottom_up(x)
        eps: list[Tensor] = []
        costs: list[Cost] = []

        def infer(number: int, above: Conditional) -> Tensor:
            if number == 0:
                mean, log_std = _mean_and_log_std(self.to_posterior(rising[-1]))
                noise = torch.randn(mean.shape, generator=generator, device=mean.device)
                cost = _cost(mean, log_std, torch.zeros_like(mean), noise)
                z = its_eps = mean + log_std.exp() * noise
            else:
                z, its_eps, cost = self._group(number).infer(above, rising[-1 - number], generator)
            eps.append(its_eps)
            costs.append(cost)
            return z

        return self._walk(infer, len(x), generator), eps, costs

    def _bottom_up(self, x: Tensor) -> list[Tensor]:
        """Features for each group, the last group's first."""
        features = self.shrink(self.stem(2 * x.to(memory_format=torch.channels_last) - 1))
        rising = []
        for cells in self.bottom_up:
            features = cells(features)
            rising.append(features)
        return rising

    def _places(self) -> list[tuple[int, int]]:
        """Scale and side of each group, the top one first."""
        top = self.config.top_side
        return [(scale, top << scale) for scale, count in enumerate(self.config.groups) for _ in range(count)]

    def _group(self, number: int) -> Group:
        """Of those below the top, from 1 on."""
        return [group for of_scale in self.groups for group in cast(Iterable[Group], of_scale.children())][number - 1]

    def _walk(
        self,
        choose: Choose,
        n: int,
        generator: torch.Generator | None,
        temperature: float | None = None,
        groups: int | None = None,
    ) -> Tensor:
        """Features above the image; groups that are not chosen are drawn at `temperature` (None: the setting's)."""
        temperature = self.config.temperature if temperature is None else temperature
        constant = self.constant.expand(n, -1, -1, -1)
        zero = constant.new_zeros(n, *self.latent_shape)
        z = choose(0, Conditional(constant, zero, zero))
        if z is None:
            z = torch.randn(zero.shape, generator=generator, device=zero.device)
        features = self.join_top(torch.cat([constant, z], 1)).contiguous(memory_format=torch.channels_last)
        number = 1
        for scale, below in enumerate(self.groups):
            if number == groups:
                return features
            if scale:
                features = self.rises[scale - 1](features)
            for group in cast(Iterable[Group], cast(nn.ModuleList, below).children()):
                if number == groups:
                    return features
                above = group.condition(features)
                z = choose(number, above)
                features = group.joined(above, group.draw(above, generator, temperature) if z is None else z)
                number += 1
        return features

    def _image(self, features: Tensor) -> Tensor:
        """The likelihood's mean."""
        output = self.to_image(features)
        return output.sigmoid() if self.log_scale is None else output.clamp(0, 1)

    def _log_likelihood(self, features: Tensor, x: Tensor) -> Tensor:
        output = self.to_image(features)
        if self.log_scale is None:
            each = -F.binary_cross_entropy_with_logits(output, x, reduction="none")
        else:
            std = self.config.likelihood_std
            log_std = self.log_scale if std is None else torch.full_like(self.log_scale, math.log(std))
            each = -0.5 * ((x - output) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
        return each.flatten(1).sum(1)

    def _spectral_norms(self) -> Tensor:
        """Sum over all convolutions (but the depthwise) of their matrix's largest singular value.

        One step of power iteration a call, for all matrices of one shape at once; its vectors are kept as buffers.
        """
        total = self.constant.new_zeros(())
        for number, names in enumerate(self._alike):
            matrices = torch.stack([self.get_parameter(name).flatten(1) for name in names])
            left = self.get_buffer(f"spectral_{number}")
            with torch.no_grad():
                right = F.normalize(matrices.transpose(1, 2) @ left, dim=1)
                left.copy_(F.normalize(matrices @ right, dim=1))
            total = total + (left * (matrices @ right)).sum()
        return total


def _balance(kls: Tensor, sizes: Tensor) -> Tensor:
    """Weights of the groups' KLs in proportion to KL per latent, with mean 1: a group that says little pays little."""
    per_latent = (kls + 0.01) / sizes
    return per_latent / per_latent.mean()


@hookimpl
def register_backbones() -> list[type[Backbone]]:
    return [NVAE]
