from benchmark.metrics.api import Metric, hookimpl


class MeanNorm(Metric):
    name = "mean_norm"
    reads = ("split",)
    reference_rows = ("aggregate_posterior",)

    def measure(self, evaluation):
        n = 2000 if hasattr(evaluation.source, "fit") else 60
        return {"mean_norm": evaluation.latents(n, "norm").norm(dim=1).mean().item()}

@hookimpl
def register_metrics():
    return [MeanNorm]
