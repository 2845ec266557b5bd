"""A whole metric in one file: how far the mean norm of a prior's latents lies from that of held-out ones."""

from benchmark.metrics.api import LATENT_SETTINGS, Column, Metric, hookimpl


class NormGap(Metric):
    name = "norm_gap"
    reads = LATENT_SETTINGS
    reference_rows = ("aggregate_posterior",)

    @classmethod
    def columns(cls, protocol):
        return [Column("norm_gap", "norm gap", "latents", better="lower")]

    def measure(self, evaluation):
        _, drawn, real = next(evaluation.latent_pairs("norm gap"))
        mean, expected = (part.norm(dim=1).mean().item() for part in (drawn, real))
        return {"norm_gap": abs(mean - expected)}


@hookimpl
def register_metrics():
    return [NormGap]
