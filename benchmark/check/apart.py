"""A stranger's prior checked in a process of its own: what it prints or ends there is no word on itself.

For a debugger, call `benchmark.check.contract.check` with the class: that is this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple
from typing import Any

import torch

from benchmark.check.contract import Finding, check
from benchmark.errors import UsageError
from benchmark.jobs.failures import in_one_line
from benchmark.machine.threads import limit_threads
from benchmark.plugin_files import Plugin
from benchmark.processes.child import Answer, Child, Died, Raised, Told, tell
from benchmark.progress import say
from benchmark.registry import Registry


def check_apart(
    plugin: Plugin, name: str, settings: dict[str, Any], targets: list[str], device: torch.device
) -> Iterator[Finding]:
    """As `check`, of the prior that a plugin registers under this name."""
    try:
        with Child(lambda line: say(f"{name}: {line}")) as child:
            child.start(_check_there, plugin, name, settings, targets, device, torch.get_num_threads())
            while isinstance(message := child.receive(), Told):
                check_name, held, detail = message.value
                yield Finding(check_name, held, in_one_line(detail))
            refused = message.value["refused"]
    except (Died, Raised) as end:
        yield Finding("comes to an end", False, in_one_line(str(end).splitlines()[-1]))  # and no last words of its own
        return
    if refused is not None:
        raise UsageError(refused)


def _check_there(
    plugin: Plugin, name: str, settings: dict[str, Any], targets: list[str], device: torch.device, threads: int
) -> Answer:
    """In the child: tells each finding as it is made."""
    with limit_threads(threads):
        try:
            cls = Registry(plugins=[plugin]).get("prior", name)
            for finding in check(cls, settings, targets, device):
                tell("finding", list(astuple(finding)))
        except UsageError as error:
            return {"refused": str(error)}, {}
    return {"refused": None}, {}
