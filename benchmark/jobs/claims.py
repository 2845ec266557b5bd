"""Whose a value is: one name, one metric.

A table keeps values apart by the metric that measured them, and a reader, who asks for `fd`, means one of them. So no
metric measures under a name that another has as its own, be it declared or returned.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from benchmark.errors import UsageError
from benchmark.metrics.api import Metric
from benchmark.protocol import Protocol
from benchmark.registry import Registry

#: what the suite itself works out or times, and no metric
OF_THE_SUITE = ("fit_seconds", "gap_closed")
BUILT_IN = "built-in"


def require_distinct(registry: Registry, metrics: Iterable[Metric], protocol: Protocol) -> None:
    """Raises `UsageError` where a metric declares what another one at hand, asked for or not, has as its own."""
    for metric in metrics:
        cls = type(metric)
        taken = find_owner(registry, cls, _own(cls, protocol), protocol)
        if taken is not None:
            value, owner = taken
            raise UsageError(
                f"the metrics {cls.name} ({registry.origin(cls)}) and {owner} both claim the value '{value}': "
                f"give it another name in {cls.name}"
            )


def find_owner(
    registry: Registry, metric: type[Metric], values: Iterable[str], protocol: Protocol
) -> tuple[str, str] | None:
    """The first of a metric's values that another one at hand has as its own, and who that is.

    A stranger's has nothing of its own against a built-in.
    """
    others = [registry.get("metric", name) for name in registry.at_hand("metric") if name != metric.name]
    if registry.origin(metric) == BUILT_IN:
        others = [cls for cls in others if registry.origin(cls) == BUILT_IN]
    owners = {cls.name: _own(cls, protocol) for cls in others} | {"the suite": list(OF_THE_SUITE)}
    for value in values:
        for name, own in owners.items():
            if any(fnmatchcase(value, each) or fnmatchcase(each, value) for each in own):
                return value, name
    return None


def _own(cls: type[Metric], protocol: Protocol) -> list[str]:
    """The names of a metric's values, as far as it says them; what a stranger does not say shows when it measures."""
    try:
        columns = cls.columns(protocol) or []
        return [*dict.fromkeys(str(column.value) for column in columns), *map(str, cls.values)]
    except (Exception, SystemExit):
        return []
