"""The four arms of a comparison, for each seed: what is trained, what is fitted, and a sealed record of its scores.

    arm                      5/6 of the epochs                     the last 1/6
    two-stage                VAE under N(0, I)                     the same; then the prior is fitted as usual
    two-stage, then joint    that very training; prior fitted      VAE and prior together: a fifth of stage 1
    joint                    VAE and prior together                the same
    joint, prior refitted    the VAE of `joint`, frozen; its prior is fitted from scratch as usual

So all VAEs take equally many steps, on the same networks, with the same seed, images, order of images and learning
rates, which begin anew with each part; and priors take as many updates as the joint ones, where `steps` is not typed.
What is there is not done again: bundles lie in the cache, a training that was killed goes on, and a score has its
record.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from backbones.api import Backbone
from backbones.training import validation_loss
from benchmark.bundles.bundle import Bundle
from benchmark.bundles.joint import PriorChoice, TrainingFailed, active_units
from benchmark.bundles.making import Asked
from benchmark.bundles.pretrain import find_or_pretrain
from benchmark.datasets.api import Images
from benchmark.datasets.content import load_images
from benchmark.errors import UsageError
from benchmark.jobs.contract import BadSample
from benchmark.jobs.evaluation import Source
from benchmark.jobs.failures import Failed
from benchmark.jobs.fit import find_or_fit, load_fit
from benchmark.jobs.identity import Job
from benchmark.jobs.reference_rows import REFERENCES, PosteriorDraws
from benchmark.jobs.task import make_evaluation
from benchmark.jobs.workspace import Workspace
from benchmark.joint.bound import NORMALISER_DRAWS, bound_with_prior
from benchmark.machine.devices import DeviceName
from benchmark.machine.threads import limit_threads
from benchmark.metrics.api import AGGREGATE_POSTERIOR
from benchmark.progress import say, track
from benchmark.protocol import Budget
from benchmark.request import Request, resolve
from benchmark.settings import format_value
from benchmark.store.arms import JOINT, REFITTED, THEN_JOINT, TWO_STAGE, records_in
from benchmark.store.provenance import provenance
from benchmark.store.sealed import content_hash, write_sealed
from benchmark.streams import stream
from priors.api import LatentPrior

#: raised when what a record says would be another
VERSION = 1
#: one of so many parts of the epochs is the last one, in which arms differ
PARTS = 6
METRICS = ("fd", "mmd", "cross_entropy")
#: test images that are bounded, and draws for each, by budget
BOUND = {"quick": (200, 16), "full": (1_000, 32)}
#: training images under the quick budget, where no number is typed
QUICK_IMAGES = 2_000


@dataclass(frozen=True)
class Comparison:
    """What is compared: a prior, trained with a VAE of these settings or after it. `asked` has the first seed."""

    asked: Asked
    backbone: type[Backbone]
    settings: dict[str, Any]
    choice: PriorChoice
    seeds: tuple[int, ...]
    budget: Budget
    device: DeviceName
    data_root: Path | None
    plugins: tuple[Path, ...]

    @property
    def label(self) -> str:
        given = ",".join(f"{name}={format_value(value)}" for name, value in self.choice.settings.items())
        return self.choice.cls.name + (f"[{given}]" if given else "")


def compare(comparison: Comparison, results: Path) -> int:
    """Train, fit and score what has no record yet, seed by seed; returns how many arms failed. Raises `UsageError`."""
    epochs = comparison.settings.get("epochs", PARTS)
    if not isinstance(epochs, int) or epochs < PARTS or epochs % PARTS:
        raise UsageError(f"--set epochs={epochs}: expected a multiple of {PARTS}, of which the last part is one")
    comparison.choice.require(comparison.backbone)
    whole, _ = load_images(comparison.asked.dataset, comparison.asked.roots)
    if comparison.budget == "quick" and comparison.asked.images is None and len(whole.train) > QUICK_IMAGES:
        comparison = replace(comparison, asked=replace(comparison.asked, images=QUICK_IMAGES))
    failed = 0
    with limit_threads(1):
        for seed in comparison.seeds:
            one = _Seed(comparison, seed, epochs, whole, results)
            failed += sum(not done for done in one.run())
    return failed


@dataclass
class _Seed:
    """The arms of one seed."""

    of: Comparison
    seed: int
    epochs: int
    images: Images
    results: Path
    _of_vaes: dict[str, dict[str, float]] = field(default_factory=dict)

    def run(self) -> list[bool]:
        """Each arm's success, in an order in which what costs least comes first."""
        last, choice = self.epochs // PARTS, self.of.choice
        start = self._train(self.epochs - last)
        alone = self._train(last, start=start)
        steps = self._prior_steps(start, self.epochs)
        first = PriorChoice(choice.cls, self._with_steps(self._prior_steps(start, self.epochs - last)), choice.source)

        @functools.cache
        def together() -> Bundle:
            return self._train(last, choice, self._train(self.epochs - last, choice))

        arms: dict[str, Callable[[], None]] = {
            TWO_STAGE: lambda: self._score_fit(TWO_STAGE, alone, steps),
            THEN_JOINT: lambda: self._score_own(THEN_JOINT, self._train(last, first, start)),
            JOINT: lambda: self._score_own(JOINT, together()),
            REFITTED: lambda: self._score_fit(REFITTED, together(), steps),
        }
        return [self._try(arm, do, alone) for arm, do in arms.items()]

    def _try(self, arm: str, do: Callable[[], None], alone: Bundle) -> bool:
        """Do what an arm asks. That its training, fit or draws failed is a record, a fault of the machine is none."""
        try:
            do()
        except (TrainingFailed, BadSample) as failure:
            content = {"values": {}, "reason": str(failure)}
            self._write(arm, self._resolve(alone, 1)[1], {"failed": True}, lambda: content)
            say(f"{arm}, seed {self.seed}: {failure}")
        except Failed as fault:
            say(f"{arm}, seed {self.seed}: {fault}")
        else:
            return True
        return False

    def _train(self, epochs: int, choice: PriorChoice | None = None, start: Bundle | None = None) -> Bundle:
        asked = replace(self.of.asked, seed=self.seed)
        return find_or_pretrain(asked, self.of.backbone, {**self.of.settings, "epochs": epochs}, choice, start)

    def _with_steps(self, steps: int) -> dict[str, Any]:
        """The settings that were typed, with so many `steps` where the prior has them and none were."""
        own = {"steps": steps} if "steps" in self.of.choice.cls.Config.model_fields else {}
        return {**own, **self.of.choice.settings}

    def _prior_steps(self, bundle: Bundle, epochs: int) -> int:
        """How many of its `steps` a prior takes while the VAE takes so many epochs."""
        device = torch.device("cpu")
        updates = self.of.choice.build(bundle.dataset, bundle.latent_shape, self.seed, device).updates()
        assert updates is not None
        images = self.of.asked.images or len(self.images.train)
        return updates.steps * epochs * (images // bundle.card["backbone"]["config"]["batch_size"])

    def _resolve(self, bundle: Bundle, steps: int) -> tuple[dict[str, Job], Workspace]:
        """The jobs of the usual run on a bundle by the names of their rows, and what they share."""
        request = Request(
            bundle=str(bundle.path),
            priors=((self.of.choice.cls.name, self._with_steps(steps)),),
            seeds=(self.seed,),
            budget=self.of.budget,
            metrics=METRICS,
            device=self.of.device,
            results=self.results,
            data_root=self.of.data_root,
            plugins=self.of.plugins,
        )
        resolved = resolve(request, self.of.asked.registry)
        # of rows of one name the first: companions of a bare one stand behind it
        return {job.row.name: job for job in reversed(resolved.jobs)}, resolved.work

    def _score_fit(self, arm: str, bundle: Bundle, steps: int) -> None:
        """Of the prior as it is fitted to a bundle by the usual run. Raises `TrainingFailed`, and `Failed`."""
        jobs, work = self._resolve(bundle, steps)
        job = jobs[self.of.choice.cls.name]
        made = find_or_fit(job, work)
        if made["status"] != "ok":
            raise TrainingFailed(f"fit {made['status']}: {made['reason']}")
        self._score(arm, jobs, work, load_fit(job, work), job.source_identity)

    def _score_own(self, arm: str, bundle: Bundle) -> None:
        """Of the prior that was trained with the VAE."""
        jobs, work = self._resolve(bundle, 1)
        prior = bundle.open_prior(self.of.asked.registry, work.device)
        self._score(arm, jobs, work, prior, {"prior of": bundle.id})

    def _score(
        self, arm: str, jobs: dict[str, Job], work: Workspace, prior: LatentPrior, source: dict[str, Any]
    ) -> None:
        images, draws = BOUND[self.of.budget]

        def measure() -> dict[str, Any]:
            say(f"scoring {arm}, seed {self.seed}")
            test = self.images.test.to(work.device)
            with track(f"bound of {arm}, seed {self.seed}") as progress:
                noise = stream(work.device, "joint bound", self.seed)
                bounds = bound_with_prior(work.backbone, prior, test[:images], draws, noise, progress)
            training = work.bundle.card["training"]
            values = {**bounds, **_usual_scores(jobs, work, prior, source), **self._scores_of_vae(jobs, work, test)}
            return {
                "values": values,
                "bundle": work.bundle.id,
                **{name: training[name] for name in ("watched", "val_terms") if name in training},
            }

        settings = {"images": images, "draws": draws, "normaliser": NORMALISER_DRAWS, "version": VERSION}
        self._write(arm, work, {"source": source, "bound": settings}, measure)

    def _write(self, arm: str, work: Workspace, of: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
        """Write an arm's record where there is none; `of`: what decides it beside its arm, seed and experiment."""
        experiment = self._experiment(work)
        identity = {"experiment": experiment, "arm": arm, "seed": self.seed, **of}
        path = records_in(self.results) / f"{content_hash(identity)[:16]}.json"
        if not path.exists():
            record = {"identity": identity, "arm": arm, "seed": self.seed, "experiment": experiment, **measure()}
            write_sealed(path, {**record, "provenance": provenance(work.device)})

    def _experiment(self, work: Workspace) -> dict[str, Any]:
        """What all arms and seeds of one table share."""
        card = work.bundle.card
        config = {name: value for name, value in card["backbone"]["config"].items() if name != "epochs"}
        return {
            "dataset": card["dataset"]["name"],
            "pixels": card["dataset"]["sha256"],
            "images": self.of.asked.images or len(self.images.train),
            "backbone": {"name": card["backbone"]["name"], "version": card["backbone"]["version"], "config": config},
            "epochs": self.epochs,
            "prior": {**self.of.choice.identity(), "label": self.of.label},
            "protocol": work.protocol.hash,
            "score": work.protocol.score,
            "device": work.device.type,
        }

    def _scores_of_vae(self, jobs: dict[str, Job], work: Workspace, test: torch.Tensor) -> dict[str, float]:
        """What no prior decides: measured once of a VAE, whichever arms share it."""
        known = self._of_vaes.get(work.bundle.id)
        if known is None:
            known = self._of_vaes[work.bundle.id] = {**_framing_scores(jobs, work), **_state_of_q(work, test)}
        return known


def _usual_scores(
    jobs: dict[str, Job], work: Workspace, prior: LatentPrior, source: dict[str, Any]
) -> dict[str, float]:
    """What a run measures of a prior."""
    drawn_by = {**source, "device": work.device.type}  # of one bundle's prior each type of device draws other latents
    evaluation = replace(make_evaluation(jobs["gaussian"], work, prior), identity=drawn_by)
    values: dict[str, float] = {}
    for metric in work.metrics:
        values |= metric.measure(evaluation)
    return values


def _framing_scores(jobs: dict[str, Job], work: Workspace) -> dict[str, float]:
    """FD of the two rows that frame a run's table."""
    fd = next(metric for metric in work.metrics if metric.name == "fd")
    find_or_fit(jobs["gaussian"], work)
    framing: dict[str, tuple[Job, Source]] = {
        "fd_normal": (jobs["gaussian"], load_fit(jobs["gaussian"], work)),
        "fd_aggregate": (
            jobs[AGGREGATE_POSTERIOR],
            PosteriorDraws(work.split(REFERENCES[AGGREGATE_POSTERIOR].decodes(work.protocol.split))),
        ),
    }
    return {name: fd.measure(make_evaluation(job, work, draws))["fd"] for name, (job, draws) in framing.items()}


def _state_of_q(work: Workspace, test: torch.Tensor) -> dict[str, float]:
    """Rate under N(0, I) and distortion of test images, active units and the mean deviation of their posteriors."""
    _, terms = validation_loss(work.backbone, test)
    mean, std = work.bundle.posterior("test", work.device)
    return {
        "kl": sum(value for name, value in terms.items() if name.startswith("kl")),
        "distortion": sum(value for name, value in terms.items() if not name.startswith("kl")),
        "active_units": float(active_units(mean)),
        "std": std.mean().item(),
    }
