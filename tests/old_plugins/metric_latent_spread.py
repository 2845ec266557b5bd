"""How far a prior's latents spread beside held-out ones: 1 where as far. Of vectors, for priors and their first seed."""

from benchmark.metrics.api import LATENT_SETTINGS, Metric, hookimpl


class LatentSpread(Metric):
    name = "latent_spread"
    reads = LATENT_SETTINGS
    reference_rows = ("aggregate_posterior", "reconstruction")

    def applies(self, job, work):
        if job.row.prior is None or job.seed > 0:
            return False
        if work.protocol.reference_split is not None or work.train_reference is None:
            return False
        return len(work.bundle.latent_shape) == 1

    def measure(self, evaluation):
        n = min(evaluation.protocol.mmd_latents, len(evaluation.held_out))
        held_out = evaluation.held_out.one_each(n, evaluation.stream("latent spread"))
        drawn = evaluation.latents(n, "latent spread")
        return {"latent_spread": (drawn.std(0).mean() / held_out.std(0).mean()).item()}


@hookimpl
def register_metrics():
    return [LatentSpread]
