"""Failure signatures: what recorded values give away about a row or about the whole table, in sentences.

One function a signature. A value that was not measured gives no sentence; a threshold is a constant with its reason.
"""

from __future__ import annotations

import math
import statistics

from benchmark.bundles.bundle import NO_PART
from benchmark.metrics.api import FIT, FULL_RECONSTRUCTION
from benchmark.report.statistics import mean_interval, paired_difference
from benchmark.report.tables import CEILING, FD, ZERO_LINE, Key, Table, TableRow
from benchmark.store.sealed import content_hash

IMQ_P: Key = ("mmd", "mmd_imq_p")
AUC: Key = ("c2st", "c2st_auc")
SAMPLE_SIZE: Key = ("sampling_time", "effective_sample_size")
IMQ: Key = ("mmd", "mmd_imq")
REPLAY: Key = ("latent_memorisation", "latent_memorisation")
FLD_GAP: Key = ("fld", "fld_gap")
FLD_GAP_ERROR: Key = ("fld", "fld_gap_error")
#: of what -> its coverage and its recall
COVERAGE: dict[str, tuple[Key, Key]] = {
    "latents": (("latent_neighbours", "latent_coverage"), ("latent_neighbours", "latent_recall")),
    "images": (("neighbours", "coverage"), ("neighbours", "recall")),
}

#: a row with under half of the coverage and recall of draws of q_agg has lost modes; both waver by hundredths
COVERED = 0.5
#: where q_agg itself covers less, coverage is the decoder's: little of what is decoded lies among real images
COVERAGE_TOLD = 0.2
#: resampling rests on so few proposals that the draw is all but decided by the best of them
EFFECTIVE = 5
#: the share of N(0, I)'s FD that a perfect prior must at least take away for the table to be one of priors
REPAIRABLE = 0.25
#: MMD² of N(0, I) with a median p above this tells nothing from held-out q_agg
UNTOLD = 0.05
#: a row that closes this share of the gap in FD has good images
GOOD_IMAGES = 0.75
#: and bad latents, where they are as far from q_agg as this share of what N(0, I)'s are, by classifier or MMD²
WRONG_LATENTS = 0.5
#: standard errors by which FLD's gap must lie above 0, seeds and its own sampling together
FLD_ERRORS = 2
#: where replay (draws of q_agg) is told from new items less often than this, it cannot be told in others either
REPLAY_TOLD = 0.6


def find_signatures(table: Table) -> list[str]:
    """All that a table shows: first what concerns the whole of it, then what concerns rows."""
    found = (
        deterministic_encoder,
        rank_deficient,
        weak_backbone,
        no_hole,
        several_sources,
        mode_collapse,
        runaway,
        blow_up,
        saturation,
        wrong_latents,
        memorisation,
        memorised_images,
    )
    return [sentence for signature in found for sentence in signature(table)]


def flags_of(table: Table) -> dict[str, list[str]]:
    """Label -> in two or three words each, what makes its FD say less than it seems to."""
    flags: dict[str, list[str]] = {}
    for flag, rows in (
        ("wrong latents", _wrong_latents(table)),
        ("latents memorised", _memorised(table)),
        ("images memorised", _memorised_images(table)),
    ):
        for label in rows:
            flags.setdefault(label, []).append(flag)
    return flags


def deterministic_encoder(table: Table) -> list[str]:
    """Posteriors are points: no KL term held them to N(0, I), which is the 0 % line by convention alone."""
    if not is_deterministic(table):
        return []
    return [
        (
            f"deterministic encoder: N(0, I), the 0 % line, {NO_PART}; q_agg is the set of its codes, so look at what "
            "is memorised beside how near a prior comes to it"
        )
    ]


def is_deterministic(table: Table) -> bool:
    """Whether the encoder gives points, as records of such a bundle say."""
    return any(record["row"].get("deterministic", False) for record in table.records)


def rank_deficient(table: Table) -> list[str]:
    """So few images that a covariance of their features has no full rank: n span n - 1 directions at most."""
    p = table.protocol
    counts = {"generated": p.generated, p.images: p.reference}
    alone = max((row.seeds for row in table.rows.values()), default=0) == 1
    blank = "; with one seed no gap is told from noise, so none is said to be closed" if alone else ""
    return [
        f"rank-deficient covariance: {count:,} {of} images span at most {count - 1:,} of {p.features:,} dimensions, so "
        f"{p.score} tells more of their number than of the images; KID has no such bias{blank}"
        for of, count in counts.items()
        if count <= p.features
    ]


def weak_backbone(table: Table) -> list[str]:
    """The backbone makes most of the FD: a perfect prior would take away less than `REPAIRABLE` of N(0, I)'s.

    Of a hierarchy, known by its full reconstructions, that is the conditionals of the lower groups as well.
    """
    seeds, (gaussian, ceiling) = table.paired(FD, ZERO_LINE, CEILING)
    if not seeds or (table.rank_deficient and len(seeds) == 1):
        return []
    share = 1 - statistics.fmean(ceiling) / statistics.fmean(gaussian)
    if share >= REPAIRABLE:
        return []
    if share <= 0:
        score = table.protocol.score
        return [
            f"weak backbone: the aggregate posterior's {score} is no lower than N(0, I)'s: there is nothing to repair"
        ]
    whole = table.rows.get(FULL_RECONSTRUCTION)
    of = "the decoder's"
    if whole is not None and whole.numbers(FD):
        of = f"the lower groups' and the decoder's ({whole.mean(FD):.3g} is left where every group is inferred)"
    return [
        (
            f"weak backbone: even the aggregate posterior's {table.protocol.score} is only {share:.0%} below "
            f"N(0, I)'s; most of it is {of}, which no prior on z repairs"
        )
    ]


def no_hole(table: Table) -> list[str]:
    """Nothing to close: the gap's interval reaches 0, or N(0, I)'s latents are not told from held-out ones.

    The second is said with the gap in FD, which more images may tell from 0. That a classifier tells nothing is
    that it does no better than on draws of q_agg (1/2, where those were not tried).
    """
    seeds, (gaussian, ceiling) = table.paired(FD, ZERO_LINE, CEILING)
    found, beside = [], ""
    if len(seeds) > 1:
        mean, low, high = paired_difference(gaussian, ceiling)
        if low > 0:
            beside = f"; the {table.protocol.score} of images tells a gap of {mean:.3g} ({low:.3g} to {high:.3g})"
        else:
            found.append(
                f"no hole in {table.protocol.score}: the gap from N(0, I) to the aggregate posterior may be 0 "
                f"({low:.3g} to {high:.3g})"
            )
    row = table.rows.get(ZERO_LINE)
    p_values, areas = (list(row.numbers(IMQ_P).values()), row.numbers(AUC)) if row else ([], {})
    if p_values and len(areas) > 1:
        of_q_agg = table.rows[CEILING].numbers(AUC) if CEILING in table.rows else {}
        p, auc = statistics.median(p_values), statistics.fmean(areas.values())
        _, low, high = mean_interval([area - of_q_agg.get(seed, 0.5) for seed, area in areas.items()])
        if p > UNTOLD and low <= 0 <= high:
            found.append(
                f"no hole seen in latents: neither MMD² (median p {p:.2g}) nor a classifier (AUC {auc:.2f}) "
                f"tells N(0, I) from held-out q_agg{beside}"
            )
    return found


def several_sources(table: Table) -> list[str]:
    """Rows of one prior were made by more than one source or version of it: a run makes again what it is asked for."""
    labels: dict[str, dict[str, set[str]]] = {}
    for record in table.records:
        if record["kind"] == FIT and record["row"]["label"] in table.rows:
            of_prior = labels.setdefault(record["row"]["prior"], {})
            source = content_hash(record["identity"].get("prior"))
            of_prior.setdefault(source, set()).add(record["row"]["label"])
    return [
        f"several sources of {prior}: its rows were made by {len(by_source)} versions of its code, the first by the "
        f"oldest ({'; '.join(', '.join(sorted(of)) for of in by_source.values())}); run them again to compare them"
        for prior, by_source in sorted(labels.items())
        if len(by_source) > 1
    ]


def mode_collapse(table: Table) -> list[str]:
    """A prior has less than `COVERED` of the coverage and of the recall of q_agg's draws, of latents or of images.

    Coverage alone falls also where draws lie between the data, as those of N(0, I) do; recall, in the balls of the
    draws, falls where they keep together.
    """
    ceiling, found = table.rows.get(CEILING), []
    for what, metrics in COVERAGE.items():
        if ceiling is None or not all(ceiling.numbers(metric) for metric in metrics):
            continue
        coverage = metrics[0]
        if ceiling.mean(coverage) < COVERAGE_TOLD:
            continue
        for row in table.priors:
            measured = all(row.numbers(metric) for metric in metrics)
            if measured and all(row.mean(metric) < COVERED * ceiling.mean(metric) for metric in metrics):
                found.append(
                    f"mode collapse of {row.label}: it covers {row.mean(coverage):.0%} of held-out {what}, the "
                    f"aggregate posterior {ceiling.mean(coverage):.0%}"
                )
    return found


def runaway(table: Table) -> list[str]:
    """A fit that itself says that its bound ran away (`runaway`, a sentence)."""
    return [
        f"runaway of {row.label} seed {seed}: {sentence}"
        for row in table.priors
        for seed, sentence in sorted(row.values.get((FIT, "runaway"), {}).items())
    ]


def blow_up(table: Table) -> list[str]:
    """Fits that diverged: the row's numbers, if any, are of the seeds that survived."""
    diverged: dict[str, set[int]] = {}
    for record in table.records:
        if (record["kind"], record["status"]) == ("fit", "diverged"):
            diverged.setdefault(record["row"]["label"], set()).add(record["row"]["seed"])
    return [
        f"blow-up of {label}: its fit diverged with {'seed' if len(seeds) == 1 else 'seeds'} "
        f"{', '.join(map(str, sorted(seeds)))}" + (", its numbers are of the others" if label in table.rows else "")
        for label, seeds in sorted(diverged.items())
    ]


def saturation(table: Table) -> list[str]:
    """Few proposals carry the weight: of a saturated classifier, or of a target that proposals hardly meet."""
    proposals = {record["row"]["label"]: record["row"]["config"].get("proposals") for record in table.records}
    found = []
    for row in table.priors:
        sizes, tried = list(row.numbers(SAMPLE_SIZE).values()), proposals.get(row.label)
        if not sizes:
            continue
        size = statistics.fmean(sizes)
        if size < EFFECTIVE:
            of = f" of {tried:,}" if isinstance(tried, int) else ""
            found.append(
                f"saturation of {row.label}: {size:.3g}{of} proposals carry weight; its classifier or energy is "
                "over-confident, or proposals hardly meet q_agg"
            )
    return found


def wrong_latents(table: Table) -> list[str]:
    """Good images of wrong latents: off q_agg, and the decoder forgives it, so that FD tells of the decoder."""
    return [
        f"good images, wrong latents: {label} closes {table.gap_closed(table.rows[label])[0][0]:.0%} of the gap in "  # type: ignore[index]
        f"{table.protocol.score}, while its latents are {', '.join(said)} as far from q_agg as those of N(0, I)"
        for label, said in _wrong_latents(table).items()
    ]


def _wrong_latents(table: Table) -> dict[str, list[str]]:
    """Label -> by which scores of latents, and how far of N(0, I)'s way."""
    found: dict[str, list[str]] = {}
    for row in table.priors:
        gap, _ = table.gap_closed(row)
        if gap is None or gap[0] < GOOD_IMAGES:
            continue
        for name, score in (("C2ST", AUC), ("MMD²", IMQ)):
            closed, _ = table.gap_closed(row, score)
            if closed is not None and 1 - closed[0] >= WRONG_LATENTS:
                found.setdefault(row.label, []).append(f"by {name} {1 - closed[0]:.0%}")
    return found


def memorisation(table: Table) -> list[str]:
    """A prior's latents lie as near to the training posteriors as draws of these do, where that can be told."""
    of_ceiling = table.rows[CEILING].mean(REPLAY) if CEILING in table.rows else 0.0
    return [
        f"memorisation by {label}: its latents are as near to training posteriors "
        f"({table.rows[label].mean(REPLAY):.2f}) as draws of these are ({of_ceiling:.2f})"
        for label in _memorised(table)
    ]


def _memorised(table: Table) -> list[str]:
    ceiling = table.rows.get(CEILING)
    if ceiling is None or not ceiling.numbers(REPLAY) or ceiling.mean(REPLAY) < REPLAY_TOLD:
        return []
    return [row.label for row in table.priors if row.numbers(REPLAY) and row.mean(REPLAY) >= ceiling.mean(REPLAY)]


def memorised_images(table: Table) -> list[str]:
    """FLD's generalisation gap: generated images resemble training images more than held-out ones, beyond chance."""
    return [
        f"memorisation by {label}: its images resemble training images more than held-out ones (FLD gap "
        f"{table.rows[label].mean(FLD_GAP):.2f}, more than {FLD_ERRORS} standard errors above 0)"
        for label in _memorised_images(table)
    ]


def _memorised_images(table: Table) -> list[str]:
    return [row.label for row in table.priors if (low := _least_fld_gap(row)) is not None and low > 0]


def _least_fld_gap(row: TableRow) -> float | None:
    """The mean less `FLD_ERRORS` standard errors: of the mean over seeds, and of the images that all seeds share."""
    gaps, shared = list(row.numbers(FLD_GAP).values()), list(row.numbers(FLD_GAP_ERROR).values())
    if len(gaps) < 2 or not shared:
        return None
    over_seeds = statistics.stdev(gaps) / len(gaps) ** 0.5
    return statistics.fmean(gaps) - FLD_ERRORS * math.hypot(over_seeds, statistics.fmean(shared))
