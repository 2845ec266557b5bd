"""A results folder as a run would have left it, and what its leaderboard shows."""

from __future__ import annotations

import re

import pandas as pd
import torch

from benchmark.metrics.api import IMAGE_SETTINGS
from benchmark.protocol import Protocol
from benchmark.report.board import Board
from benchmark.store.provenance import provenance
from benchmark.store.records import RecordStore, record_id
from benchmark.store.sealed import content_hash

REFERENCES = ("aggregate_posterior", "reconstruction")
GAUSSIAN = [10.0, 12.0, 11.0, 10.5, 11.5]
CEILING = [2.0, 3.0, 2.5, 2.2, 2.8]


def draw_pictures(results):
    """As `leaderboard` does, once the tables are written."""
    board = Board(results)
    board.write()
    board.draw()


def tables_of(text):
    """A page's tables, each a list of rows of cells, header first."""
    groups = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in g.splitlines()] for g in groups]


def all_pages(results):
    """The pages of all tables as one text, each a section."""
    boards = [path for path in sorted((results / "boards").glob("*.md")) if path.name != "across.md"]
    pages = [path.read_text().replace("\n# ", "\n## ", 1) for path in boards]
    tuning = results / "tuning.md"
    return "\n".join([*pages, *([tuning.read_text()] if tuning.exists() else [])])


class Results:
    """A results folder, and the records that a run would have left in it."""

    def __init__(self, folder, **protocol):
        self.folder, self.store, self.written = folder, RecordStore(folder / "records"), 0
        self.protocol = self.new_protocol(**protocol)

    def new_protocol(self, **change):
        extractor = {"name": "digit-cnn", "version": 1, "weights": "0" * 64}
        settings = dict(preset="quick", version=2, budget="quick", split="test", features=64)
        settings |= dict(extractor=extractor, score="FD digit-cnn", generated=500)
        settings |= dict(reference=500, preparation="padded", mmd_latents=500, timing_seconds=2.0)
        return Protocol(**settings | change)

    def add(
        self,
        label,
        kind,
        values,
        seed=0,
        machine=None,
        protocol=None,
        code="one",
        reads=("split",),
        threads=1,
        source="one",
        **row,
    ):
        """One record; `code` tells configurations apart, and each record is a second newer than the one before."""
        protocol, prior = protocol or self.protocol, label.partition("[")[0]
        is_reference = prior in REFERENCES
        facts = dict(dataset="digits", backbone="conv_vae", bundle="b" * 16, prior=prior, label=label, config={})
        facts |= dict(seed=seed, budget=None if is_reference else protocol.budget, device="cpu") | row
        protocol.save(self.folder, facts["bundle"])
        fit = {"fit": content_hash([facts["bundle"], facts["device"], label, code, seed, facts["budget"]])}
        facts["config_hash"] = content_hash([facts["bundle"], facts["device"], label, code, facts["budget"]])[:16]
        fit["prior"] = {"name": prior, "source": source}
        of_fit = {"fit": record_id(fit), "metric": {"name": kind, "version": 1}, "settings": protocol.part(reads)}
        identity = fit if kind == "fit" else of_fit
        identity |= {"machine": machine} if machine else {}
        self.written += 1
        origin = provenance(torch.device("cpu"))
        moment = f"2030-01-01T{self.written // 3600:02}:{self.written // 60 % 60:02}:{self.written % 60:02}Z"
        origin = {**origin, "command": "python -m benchmark run", "time": moment, "threads": threads}
        origin["code"] = {"version": "0", "commit": "c" * 40, "dirty": False}
        content = values if "status" in values else {"status": "ok", "values": values}
        return self.store.put(facts, kind, identity, {**content, "provenance": origin})

    def scores(self, label, values, **more):
        for seed, value in enumerate(values):
            self.add(label, "fd", {"fd": value}, seed, reads=IMAGE_SETTINGS, **more)

    def references(self, gaussian=GAUSSIAN, ceiling=CEILING, **more):
        self.scores("gaussian", gaussian, **more)
        self.scores("aggregate_posterior", ceiling, **more)

    def board(self):
        self.damaged = Board(self.folder).write()
        return pd.read_csv(self.folder / "leaderboard.csv")

    def line(self, label, metric="FD digit-cnn"):
        board = self.board()
        found = board[(board["prior"] == label) & (board["metric"] == metric)]
        assert len(found) == 1
        return found.iloc[0]

    @property
    def screen(self):
        """The first screen."""
        Board(self.folder).write()
        return (self.folder / "leaderboard.md").read_text()

    @property
    def text(self):
        """The pages of all tables, each a section."""
        Board(self.folder).write()
        return all_pages(self.folder)

    @property
    def across(self):
        """The page of ranks over data sets; empty without one."""
        Board(self.folder).write()
        page = self.folder / "boards" / "across.md"
        return page.read_text() if page.exists() else ""

    def sections(self):
        return self.text.split("\n## ")[1:]

    def tables(self):
        """The markdown's tables, each a list of rows of cells, header first."""
        return tables_of(self.text)

    def further(self, caption):
        """The header and the cells, by label, of the table below a line that starts so; None without one."""
        found = re.search(rf"^{re.escape(caption)}.*\n\n((?:\|.*\n)+)", self.text, re.MULTILINE)
        if found is None:
            return None
        header, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]
        return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in body}
