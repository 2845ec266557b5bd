"""The Fréchet term alone, from statistics to number, beside torch-fidelity's on the same statistics.

    kept root      `frechet_distance` with the reference's root computed before (by the uncounted call), as it is
                   for every job but a run's first
    with root      the same on fresh reference statistics, root included
    torch-fidelity `fid_statistics_to_metric`: eigenvalues of the non-symmetric product, by numpy

Features are random, correlated, with a spectrum that falls by a factor of 1,000, n = 2 d + 1,000 of them; the
generated ones are scaled and shifted a little. Each is called once uncounted, then 200 times or for `--seconds`,
whichever comes first, and at least 3 times. The table has median seconds and quartiles, how many times as long
torch-fidelity takes, and |ours - theirs| / theirs.

    PYTHONPATH=. python tests/speed/frechet.py --dims 64 320
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from tabulate import tabulate
from threadpoolctl import threadpool_info
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

from benchmark.machine.stopwatch import measure_durations
from benchmark.metrics.api import Statistics
from benchmark.scores.frechet import feature_statistics, frechet_distance
from benchmark.store.provenance import device_name

REPEATS = 200


def made_statistics(d: int, device: torch.device) -> tuple[Statistics, Statistics]:
    """Statistics of generated and of real features of d dimensions."""
    generator = torch.Generator(device).manual_seed(d)
    n = 2 * d + 1_000
    mixing = torch.randn(d, d, generator=generator, device=device) / d**0.5
    mixing *= torch.logspace(0, -1.5, d, device=device)[:, None]
    real, generated = (torch.randn(n, d, generator=generator, device=device) @ mixing for _ in range(2))
    shift, scale = 0.1 * torch.randn(2, d, generator=generator, device=device)
    return feature_statistics(generated * (1 + scale) + shift), feature_statistics(real)


def as_numpy(of: Statistics) -> dict:
    return {"mu": of.mean.cpu().numpy(), "sigma": of.covariance.cpu().numpy()}


def measured(run: Callable[[], float], device: torch.device, seconds: float) -> tuple[float, str]:
    taken = measure_durations(run, device, REPEATS, seconds)
    low, median, high = statistics.quantiles(taken, n=4, method="inclusive")
    return median, f"{median:.4g} [{low:.4g}, {high:.4g}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 320, 768, 2048], help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each entry (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="of ours; torch-fidelity's is the CPU (default: %(default)s)")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    blas = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    print(
        f"{device_name(device)}, {device.type}, {torch.get_num_threads()} threads "
        f"(numpy: {', '.join(map(str, sorted(blas))) or '?'}), torch {torch.__version__}"
    )
    rows = []
    for d in arguments.dims:
        generated, reference = made_statistics(d, device)
        theirs = [as_numpy(generated), as_numpy(reference)]
        runs = {
            "kept": lambda: frechet_distance(generated, reference),
            "with": lambda: frechet_distance(generated, Statistics(reference.mean, reference.covariance)),
            "torch-fidelity": lambda: fid_statistics_to_metric(*theirs, verbose=False)[KEY_METRIC_FID],
        }
        taken = {name: measured(run, device, arguments.seconds) for name, run in runs.items()}
        values = {name: run() for name, run in runs.items()}
        difference = abs(values["kept"] - values["torch-fidelity"]) / values["torch-fidelity"]
        shares = [f"{taken['torch-fidelity'][0] / taken[name][0]:.1f}" for name in ("kept", "with")]
        rows.append([d, *(text for _, text in taken.values()), *shares, f"{difference:.1e}"])
    header = ["d", "kept root, s", "with root, s", "torch-fidelity, s", "x kept", "x with", "relative difference"]
    print(tabulate(rows, header, disable_numparse=True, colalign=["right"] * len(header)))


if __name__ == "__main__":
    main()
