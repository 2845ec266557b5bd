"""Whose failure it is: what a prior's or a metric's code raised is recorded, and whatever else went wrong is told."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil

import pytest
from commands import record_files

import benchmark.store.cache as cache
import benchmark.store.sealed as sealed
from benchmark.bundles.bundle import Bundle
from benchmark.extractors.api import Features
from benchmark.metrics.frechet import Frechet
from benchmark.store.places import cache_root
from priors.gaussian import Gaussian

CODES = ["EIO", "ESTALE", "EMFILE", "EROFS", "EACCES", "ENOSPC", "EDQUOT", "ETIMEDOUT", "ENODEV"]


def _error(code):
    return OSError(getattr(errno, code), os.strerror(getattr(errno, code)), "/somewhere/else")


@pytest.fixture
def run(small_bundle, tmp_path, cli):
    words = ["run", "--bundle", small_bundle, "--priors", "gaussian", "--seeds", 1, "--metrics", "fd,mmd"]
    return lambda *more: cli(*words, "--device", "cpu", "--results", tmp_path / "results", *more)


def statuses(tmp_path):
    return {json.loads(path.read_text())["status"] for path in record_files(tmp_path / "results")}


def refusing(error, usual, when):
    """A function that fails where its first argument is one that `when` names."""

    def call(*given, **named):
        if re.search(when, str(given[0])):
            raise error
        return usual(*given, **named)

    return call


#: what is refused -> where, and whether reading it needs a run before
REFUSED = {
    "a fit is written": (sealed.os, "replace", r"fits/.*safetensors", False),
    "its note is written": (sealed.os, "replace", r"fits/.*json", False),
    "latents are written": (cache, "write_atomic", "/latents/", False),
    "features are written": (cache, "write_atomic", "/features/", False),
    "latents are read": (cache, "safe_open", "/latents/", True),
    "features are read": (cache, "safe_open", "/features/", True),
    "posteriors are read": (Bundle, "posterior", "", False),
    "an extractor looks": (Features, "__call__", "", False),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("code", CODES[:2])
def test_what_the_system_refuses_is_told_and_tried_again(code, what, run, tmp_path, monkeypatch):
    where, name, when, before = REFUSED[what]
    if before:
        assert run("--metrics", "fd").code == 0
        for path in record_files(tmp_path / "results"):
            path.unlink()
        if what == "latents are read":  # which whoever has features does without
            shutil.rmtree(cache_root() / "features")
    with monkeypatch.context() as patch:
        patch.setattr(where, name, refusing(_error(code), getattr(where, name), when))
        done = run()
    assert done.code == 1, done.err
    assert re.search(r"FAILED .*not recorded, so the next run tries again", done.err)
    assert "Traceback" not in done.err
    assert statuses(tmp_path) <= {"ok"}
    again = run()
    assert again.code == 0, again.err
    assert statuses(tmp_path) == {"ok"}


@pytest.mark.parametrize("code", CODES)
def test_no_list_of_errors_decides(code, run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sealed.os, "replace", refusing(_error(code), os.replace, "fits/"))
        done = run("--metrics", "fd")
    assert done.code == 1
    assert os.strerror(getattr(errno, code)) in done.err
    assert statuses(tmp_path) <= {"ok"}


@pytest.mark.parametrize("cls, name", [(Gaussian, "fit"), (Gaussian, "sample"), (Frechet, "measure")])
def test_what_their_own_code_meets_is_theirs(cls, name, run, tmp_path, monkeypatch):
    def opens(*_):
        return open("/no/such/file")

    with monkeypatch.context() as patch:
        patch.setattr(cls, name, opens)
        done = run("--metrics", "fd")
    assert done.code == 1
    assert "FileNotFoundError" in done.err
    assert "not recorded" not in done.err
    assert "failed" in statuses(tmp_path)


def test_a_metric_that_asks_for_draws_is_not_blamed_for_the_disk_nor_the_disk_for_a_prior(run, tmp_path, monkeypatch):
    """The innermost decides: the metric asks the suite, the suite its cache, and that a prior."""
    with monkeypatch.context() as patch:
        patch.setattr(Gaussian, "sample", lambda *_: 1 / 0)
        assert run("--metrics", "fd").code == 1
    assert "failed" in statuses(tmp_path)
    assert "ZeroDivisionError" in (tmp_path / "results" / "leaderboard.md").read_text()
