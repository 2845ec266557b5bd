"""The mathematics of metrics: pure functions of tensors, which know nothing of runs, records or plugins."""
