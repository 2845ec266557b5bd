"""A job that ends the process of its run, or hangs there, does not keep the next run from those behind it."""

from __future__ import annotations

import os
import re
import shutil
from types import SimpleNamespace

import pytest
from commands import record_files, the_record

from benchmark.errors import UsageError
from benchmark.executors.here import Here
from benchmark.jobs.marks import Marks
from benchmark.store.places import fresh_cache
from priors.fitted_gaussian import FittedGaussian
from priors.latent_flow import LatentFlow

NO_PROCESS = 2**22 + 1  # above all numbers that there are
PRIORS = "latent_flow[steps=20],fitted_gaussian"


class Ended(BaseException):
    """Stands for the end of the process: nothing that catches errors sees it."""


@pytest.fixture
def run(small_bundle, tmp_path, cli):
    words = ["run", "--bundle", small_bundle, "--priors", PRIORS, "--seeds", 1, "--metrics", "fd", "--device", "cpu"]
    return lambda *more: cli(*words, "--results", tmp_path / "results", *more)


@pytest.mark.parametrize("what", ["fit", "sample"])
def test_a_job_at_which_a_run_ended_is_named_and_done_last(what, run, tmp_path, monkeypatch):
    def ends(*_):
        raise Ended

    usual = os.getpid()
    with monkeypatch.context() as patch:
        patch.setattr(LatentFlow, what, ends)
        patch.setattr(os, "getpid", lambda: NO_PROCESS)
        with pytest.raises(Ended):
            run()
    assert os.getpid() == usual
    assert not [path for path in record_files(tmp_path / "results") if "fitted_gaussian" in str(path)]
    order, fit = [], FittedGaussian.fit
    monkeypatch.setattr(FittedGaussian, "fit", lambda *given: order.append("fitted_gaussian") or fit(*given))
    measure = LatentFlow.sample
    monkeypatch.setattr(LatentFlow, "sample", lambda *given: order.append("latent_flow") or measure(*given))
    done = run()
    assert done.code == 0, done.err
    kind = "fit" if what == "fit" else "fd"
    assert re.search(rf"latent_flow\[steps=20\] seed 0: an earlier run ended at its {kind} .*it is done last", done.err)
    assert order[:2] == ["fitted_gaussian", "latent_flow"]
    again = run()
    assert "earlier run" not in again.err


def test_a_run_that_goes_on_is_no_earlier_one(tmp_path, monkeypatch):
    marks, job = Marks(tmp_path), SimpleNamespace(fit_id="f")
    marks.set(job, "fd")
    assert marks.find(job) is None  # this very process
    monkeypatch.setattr(os, "getpid", lambda: NO_PROCESS)
    marks.set(job, "fd")
    assert "ended at its fd" in marks.find(job)
    marks.remove(job)
    assert marks.find(job) is None


def test_results_that_vanish_under_a_run_are_not_fine(run, tmp_path, monkeypatch):
    submit, count = Here.submit, []

    def removing(self, number, task):
        submit(self, number, task)
        count.append(number)
        if len(count) == 2:
            shutil.rmtree(tmp_path / "results")

    monkeypatch.setattr(Here, "submit", removing)
    done = run()
    assert done.code == 1
    assert re.search(r"\d records are no longer in .*records: it was removed", done.err)
    monkeypatch.setattr(Here, "submit", submit)
    assert run().code == 0
    assert the_record(tmp_path / "results", "fd", "latent_flow")[0]["status"] == "ok"


def test_no_temporary_folder_is_one_line(monkeypatch):
    def refuses(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkdtemp", refuses)
    with pytest.raises(UsageError, match="no temporary folder: Read-only file system; name one with TMPDIR"):
        fresh_cache().__enter__()


def test_a_temporary_folder_that_is_emptied_is_no_error():
    with fresh_cache() as folder:
        shutil.rmtree(folder)
    assert not folder.exists()
