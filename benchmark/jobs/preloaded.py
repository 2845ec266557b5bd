"""What a child finds imported: what runs a job, and the built-in plugins that jobs name. Nothing is computed."""

from __future__ import annotations

import torch._dynamo  # which the first optimiser of a process would import

from benchmark.jobs import task  # noqa: F401
from benchmark.machine.allocator import keep_freed_memory
from benchmark.registry import Registry
from benchmark.store.provenance import provenance

keep_freed_memory()
for _kind in ("prior", "backbone", "metric", "extractor"):
    Registry().at_hand(_kind)
provenance(torch.device("cpu"))  # the state of the code is read once, when it is imported
