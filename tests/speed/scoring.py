"""One job's image metrics beside torch-fidelity called once for each of those that it has.

    given        our metrics (fd, fd_infinity, kid, neighbours, memorisation) on features that are there, as they are
                 for a job whose features are kept
    extracted    the same with the features of the generated images made first, once; those of the real images are
                 in the reference, whose making is no job's
    features     torch-fidelity's functions for FID, KID and PRC on features that are there
    calls        `calculate_metrics` with fid, then kid, then prc: each call extracts both sides

Values are compared on the same features: FD of all, KID at one subset of the full size of our pair of 2,000, and
precision and recall of that pair with 5 neighbours; torch-fidelity's own calls are timed as they come, with its
defaults (KID of 100 subsets, PRC of all). Images are smoothed noise. "MB" is how far the resident memory rose above
what was held before (Linux). `--dims` instead times every metric of ours on random features of those dimensions.

    PYTHONPATH=. python tests/speed/scoring.py --extractors digit-cnn efficientnet-lite0
    PYTHONPATH=. python tests/speed/scoring.py --dims 64 320 2048
    PYTHONPATH=. python tests/speed/scoring.py --latents 16 128 20x8x8
"""

from __future__ import annotations

import argparse
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch_fidelity
from tabulate import tabulate
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from benchmark.extractors.api import Features
from benchmark.jobs.evaluation import Evaluation
from benchmark.metrics.api import PAIR, Statistics
from benchmark.metrics.c2st import ClassifierTest
from benchmark.metrics.fd_infinity import FrechetAtInfinity
from benchmark.metrics.frechet import Frechet
from benchmark.metrics.kid import KID
from benchmark.metrics.memorisation import LatentMemorisation, Memorisation
from benchmark.metrics.mmd import MMD, ProjectedMMD
from benchmark.metrics.neighbours import ImageNeighbours, K, LatentNeighbours
from benchmark.metrics.sliced_wasserstein import SlicedWasserstein
from benchmark.protocol import Protocol
from benchmark.registry import Registry
from benchmark.scores.frechet import feature_statistics
from benchmark.store.provenance import device_name
from priors.api import PosteriorSplit

LATENTS, POSTERIORS = 2_000, 10_000
LATENT_METRICS = (MMD, ProjectedMMD, ClassifierTest, SlicedWasserstein, LatentNeighbours, LatentMemorisation)
METRICS = (Frechet, FrechetAtInfinity, KID, ImageNeighbours, Memorisation)


class InMemory(Dataset):
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def images(n: int, channels: int, seed: int) -> Tensor:
    noise = torch.randn(n, channels, 8, 8, generator=torch.Generator().manual_seed(seed))
    smooth = torch.cat([F.interpolate(part, 32, mode="bicubic").sigmoid() for part in noise.split(1_000)])
    return (255 * smooth * (1 - 0.02 * seed)).to(torch.uint8)


def evaluation(features: Tensor, real: Tensor, training: Tensor, statistics: Statistics) -> Evaluation:
    """What a job hands to its metrics, its features given."""
    reference = SimpleNamespace(statistics=lambda device: statistics, subsample=lambda device: real[:PAIR])
    seen = SimpleNamespace(subsample=lambda device: training[:PAIR])
    made = Evaluation(None, {}, None, None, None, reference, None, 0, features.device, None, seen)
    made.features = features
    return made


def memory(field: str) -> float:
    """MB of this process: VmRSS now, VmHWM at most since the last reset."""
    status = Path("/proc/self/status")
    found = re.search(rf"{field}:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else float("nan")


def measured(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """What `run` returns, its seconds, and the MB by which the resident memory rose meanwhile."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")
    before, start = memory("VmRSS"), time.perf_counter()
    value = run()
    return value, time.perf_counter() - start, memory("VmHWM") - before


def ours(given: Evaluation) -> dict[str, float]:
    return {name: value for metric in METRICS for name, value in metric().measure(given).items()}


def of_features(given: Evaluation, real: Tensor) -> dict[str, float]:
    """torch-fidelity's functions on the same features, with settings under which they define the same numbers."""
    statistics = [fid_features_to_statistics(part) for part in (given.features, real)]
    fid = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    pair = [part.double() for part in given.feature_pair]
    kid = kid_features_to_metric(*pair, kid_subsets=1, kid_subset_size=len(pair[0]), verbose=False)
    prc = prc_features_to_metric(*pair, prc_neighborhood=K, verbose=False)
    scores = {"precision": prc[KEY_METRIC_PRECISION], "recall": prc[KEY_METRIC_RECALL]}
    return {"fd": fid, "kid": kid[KEY_METRIC_KID_MEAN], **scores}


def calls(extractor: str, generated: Tensor, real: Tensor) -> None:
    for metric in ("fid", "kid", "prc"):
        torch_fidelity.calculate_metrics(
            **{"input1": InMemory(generated), "input2": InMemory(real), metric: True},
            feature_extractor=extractor,
            cuda=False,
            cache=False,
            verbose=False,
            kid_subset_size=min(1_000, len(generated)),
        )


def compared(name: str, n: int) -> list[list[Any]]:
    extractor = Registry().get("extractor", name)(None)
    features_of = Features(extractor, torch.device("cpu"))
    generated, real, training = (images(n, extractor.channels, seed) for seed in (1, 0, 2))
    real_features, training_features = features_of(real), features_of(training[:PAIR])
    statistics = feature_statistics(real_features)
    _ = statistics.root  # kept from here on: a job finds it with its reference

    features, extraction, _ = measured(lambda: features_of(generated))
    given = evaluation(features, real_features, training_features, statistics)
    values, seconds, megabytes = measured(lambda: ours(given))
    theirs, their_seconds, their_megabytes = measured(lambda: of_features(given, real_features))
    _, call_seconds, call_megabytes = measured(lambda: calls(name, generated, real))
    worst = max(abs(values[key] - theirs[key]) / abs(theirs[key]) for key in theirs)
    print(f"{name}: " + ", ".join(f"{key} {values[key]:.6g} ({theirs[key]:.6g})" for key in theirs))
    print(f"largest relative difference: {worst:.1e}")
    rows = [
        ["ours, given", seconds, megabytes, call_seconds / seconds],
        ["ours, extracted", extraction + seconds, float("nan"), call_seconds / (extraction + seconds)],
        ["torch-fidelity, features", their_seconds, their_megabytes, call_seconds / their_seconds],
        ["torch-fidelity, calls", call_seconds, call_megabytes, 1.0],
    ]
    return [[name, n, what, f"{s:.2f}", f"{m:.0f}", f"{ratio:.1f}"] for what, s, m, ratio in rows]


def by_dimension(d: int, n: int) -> list[list[Any]]:
    generator = torch.Generator().manual_seed(d)
    features, real, training = (torch.randn(size, d, generator=generator) for size in (n, PAIR, PAIR))
    given = evaluation(features, real, training, Statistics(torch.zeros(d).double(), torch.eye(d).double()))
    measured_ones = [(metric.name, *measured(lambda: metric().measure(given))[1:]) for metric in METRICS]
    return [[d, n, name, f"{seconds:.2f}", f"{megabytes:.0f}"] for name, seconds, megabytes in measured_ones]


def by_shape(shape: tuple[int, ...]) -> list[list[Any]]:
    generator, device = torch.Generator().manual_seed(0), torch.device("cpu")
    held_out, train = (
        PosteriorSplit(torch.randn(n, *shape, generator=generator), torch.full((n, *shape), 0.3))
        for n in (2 * LATENTS, POSTERIORS)
    )
    protocol = Protocol(
        preset="rae",
        version=2,
        budget="full",
        split="test",
        extractor={},
        features=0,
        score="",
        generated=1,
        reference=1,
        preparation="",
        mmd_latents=LATENTS,
        timing_seconds=0,
    )
    backbone = SimpleNamespace(latent_shape=shape)
    given = Evaluation(None, {}, backbone, held_out, None, None, protocol, 0, device, lambda: (train._mean, train._std))
    drawn = torch.randn(LATENTS, *shape, generator=generator)
    given.latents = lambda n, purpose: drawn
    spatial = len(shape) == 3
    rows = [("principal axes", *measured(lambda: given.principal_axes)[1:])] if spatial else []
    metrics = [metric for metric in LATENT_METRICS if spatial or metric is not ProjectedMMD]
    rows += [(metric.name, *measured(lambda: metric().measure(given))[1:]) for metric in metrics]
    return [
        ["x".join(map(str, shape)), what, f"{seconds:.2f}", f"{megabytes:.0f}"] for what, seconds, megabytes in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extractors", nargs="*", default=["digit-cnn", "efficientnet-lite0"])
    parser.add_argument("--images", type=int, default=10_000, help="generated, and as many real (default: %(default)s)")
    parser.add_argument("--dims", type=int, nargs="+", help="time our metrics on random features of these dimensions")
    parser.add_argument("--latents", nargs="+", help="time metrics of latents of these shapes, such as 20x8x8")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="torch.utils.data")  # torch-fidelity's workers
    print(f"{device_name(torch.device('cpu'))}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    if arguments.dims:
        rows = [row for d in arguments.dims for row in by_dimension(d, arguments.images)]
        print(tabulate(rows, ["d", "n", "metric", "s", "MB"], disable_numparse=True))
    elif arguments.latents:
        rows = [row for shape in arguments.latents for row in by_shape(tuple(map(int, shape.split("x"))))]
        print(tabulate(rows, ["latents", "what", "s", "MB"], disable_numparse=True))
    else:
        rows = [row for name in arguments.extractors for row in compared(name, arguments.images)]
        print(tabulate(rows, ["extractor", "n", "what", "s", "MB", "calls / this"], disable_numparse=True))


if __name__ == "__main__":
    main()
