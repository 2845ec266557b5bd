"""Claims on things in a folder that machines share: one holder at a time, a lost one's are taken over."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path

import pytest
from commands import finish, numbers, only_line, start

from benchmark.coordinator import _Running
from benchmark.store import held
from benchmark.store.held import Claims, read_claim, read_claims
from benchmark.store.places import lock, made_root, sharing


@pytest.fixture
def quick(monkeypatch):
    """Signs of life in tenths of a second."""
    monkeypatch.setattr(held, "BEAT", 0.1)
    monkeypatch.setattr(held, "STALE", 1.0)


def make_silent(path, seconds):
    """As if its holder had not touched it for so long."""
    status = path.stat()
    os.utime(path, (status.st_atime, time.time() - seconds))


def a_lost_claim(folder, name):
    (folder / f"{name}.json").write_bytes(held._as_bytes(held.Claim("gone", "n", 1, None, "", "", "")))
    make_silent(folder / f"{name}.json", held.STALE + 1)


def test_one_holds_a_thing_until_it_gives_it_back(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    one, other = Claims(tmp_path), Claims(tmp_path)
    assert one.take("a", "gmm seed 0")
    assert not other.take("a")
    assert not one.take("a"), "not even itself"
    assert other.take("b")
    one.tell("a", "fd")
    (claim, age), _ = read_claims(tmp_path)[::-1]
    assert (claim.what, claim.doing, claim.job, claim.process) == ("gmm seed 0", "fd", "17_3", os.getpid())
    assert age < 5
    other.release("a")  # which is not its own
    assert read_claim(tmp_path / "a.json") == claim
    one.release("a")
    assert other.take("a")
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_a_holder_that_lives_is_left_alone_and_a_silent_one_is_not(quick, tmp_path):
    one, other = Claims(tmp_path), Claims(tmp_path)
    assert one.take("a")
    time.sleep(1.5)
    assert not other.take("a"), "it beats"
    one._ended.set()  # its machine is lost
    one._beating.join()
    assert not other.take("a"), "not at once"
    time.sleep(1.2)
    assert other.take("a")


def test_a_twin_that_goes_on_leaves_the_new_holder_alone(quick, tmp_path):
    lost, new, third = (Claims(tmp_path) for _ in range(3))
    assert lost.take("a")
    make_silent(tmp_path / "a.json", 2)
    assert new.take("a")
    before = (tmp_path / "a.json").read_bytes()
    new._ended.set()  # nobody but the twin would touch it now
    new._beating.join()
    stamp = (tmp_path / "a.json").stat().st_mtime_ns
    lost.tell("a", "fd")
    time.sleep(0.4)
    lost.close()
    assert (tmp_path / "a.json").read_bytes() == before
    assert (tmp_path / "a.json").stat().st_mtime_ns == stamp
    assert not third.take("a")


def test_of_many_who_find_a_lost_claim_one_takes_it(tmp_path):
    for attempt in range(20):
        name = f"a{attempt}"
        a_lost_claim(tmp_path, name)
        rivals, taken, ready = [Claims(tmp_path) for _ in range(6)], [], threading.Barrier(6)

        def race(rival):
            ready.wait()
            if rival.take(name):
                taken.append(rival)

        threads = [threading.Thread(target=race, args=(rival,)) for rival in rivals]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == 1
        assert read_claim(tmp_path / f"{name}.json").holder == taken[0]._holder
        taken[0].close()


def test_who_comes_late_to_a_lost_claim_leaves_the_new_one_alone(tmp_path, monkeypatch):
    """Two find a claim stale; the slower one goes on when the faster one has taken it over."""
    slower, faster, read = Claims(tmp_path), Claims(tmp_path), held.read_claim
    a_lost_claim(tmp_path, "a")

    def read_and_wait(path):
        claim = read(path)
        monkeypatch.setattr(held, "read_claim", read)
        assert faster.take("a")
        return claim

    monkeypatch.setattr(held, "read_claim", read_and_wait)
    monkeypatch.setattr(slower, "_is_stale", lambda path: path.name == "a.json")
    assert not slower.take("a")
    assert read_claim(tmp_path / "a.json").holder == faster._holder
    assert len(list(tmp_path.iterdir())) == 1


def test_who_is_lost_while_taking_over_keeps_nobody_out(tmp_path):
    a_lost_claim(tmp_path, "a")
    (tmp_path / ".a.gone").touch()
    assert not Claims(tmp_path).take("a"), "somebody may be at it"
    make_silent(tmp_path / ".a.gone", held.STALE + 1)
    assert Claims(tmp_path).take("a")


def test_no_two_clocks_are_compared(tmp_path, monkeypatch):
    """A machine whose clock is a day off neither loses its claims nor takes those of others."""
    usual = Claims(tmp_path)
    assert usual.take("a")
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 86_400)
    assert not Claims(tmp_path).take("a")
    (_, age), *_ = read_claims(tmp_path)
    assert age < 5
    usual.close()


def test_what_is_being_written_belongs_to_somebody(tmp_path, cli):
    folder = tmp_path / "claims"
    folder.mkdir()
    (folder / "a.json").write_bytes(b'{"holder": "x')
    assert not Claims(folder).take("a")
    assert "0 workers at 0 jobs; 0 records" in cli("status", "--results", tmp_path).out


def test_locks_of_a_shared_folder_are_claims(tmp_path):
    with sharing(tmp_path / "r"):
        assert made_root() == tmp_path / "r" / "cache"
        with lock("tables"):
            assert not Claims(tmp_path / "r" / "claims").take("tables")
        assert Claims(tmp_path / "r" / "claims").take("tables")
    assert made_root() == tmp_path / "cache"


# ---- runs ---------------------------------------------------------------------------------------------------------

PRIORS = "gaussian,fitted_gaussian,evalp[steps=50]"


def words_of(small_bundle, results, *more):
    words = ["run", "--bundle", small_bundle, "--priors", PRIORS, "--seeds", 2, "--device", "cpu"]
    return [*words, "--metrics", "fd,mmd", "--results", results, *more]


def test_workers_with_caches_of_their_own_share_a_folder(small_bundle, tmp_path, cli):
    alone = cli(*words_of(small_bundle, tmp_path / "alone"))
    assert alone.code == 0, alone.err
    assert not (tmp_path / "alone" / "claims").exists(), "an ordinary run leaves what it always did"
    words, logs = words_of(small_bundle, tmp_path / "r", "--shared"), [tmp_path / "0", tmp_path / "1"]
    started = [start(words, tmp_path / f"cache{log.name}", log) for log in logs]
    done = [finish(process, log) for process, log in zip(started, logs)]
    assert [each.code for each in done] == [0, 0], "\n".join(each.output for each in done)
    assert numbers(tmp_path / "r") == numbers(tmp_path / "alone")
    told = [re.findall(r"^\[\d+/\d+\] (.* seed \d): measured", each.output, re.MULTILINE) for each in done]
    assert len(told[0] + told[1]) == len(set(told[0] + told[1])) == 10, "each job by one of the two"
    assert list((tmp_path / "r" / "claims").iterdir()) == []
    assert len(list((tmp_path / "r" / "cache" / "fits").glob("*.safetensors"))) == 6
    assert not (tmp_path / "cache0" / "fits").exists()


def test_a_killed_workers_jobs_are_taken_over_and_status_shows_it(small_bundle, tmp_path, cli):
    words = ["run", "--bundle", small_bundle, "--priors", "evalp[steps=2_000_000]", "--seeds", 1, "--device", "cpu"]
    words += ["--metrics", "fd", "--results", tmp_path / "r", "--shared"]
    worker = start(words, tmp_path / "cache", tmp_path / "log")
    claims = tmp_path / "r" / "claims"

    def at_the_fit():
        return any("evalp" in claim.what and claim.doing == "fit" for claim, _ in read_claims(claims))

    while not (claims.exists() and at_the_fit()):
        assert worker.is_alive(), (tmp_path / "log").read_text()
        time.sleep(0.05)
    worker.kill()
    worker.join()
    shown = cli("status", "--results", tmp_path / "r").out
    assert re.search(r"evalp\[steps=2000000\] seed 0 +fit ", shown), shown
    assert "1 workers at 1 jobs; " in shown
    (path,) = claims.glob("*.json")
    make_silent(path, held.STALE + 1)
    assert "not heard of for 2m30s: others take their jobs over" in cli("status", "--results", tmp_path / "r").out
    assert Claims(claims).take(path.stem)


def test_status_of_a_folder_that_nobody_shares_is_one_line(tmp_path, cli):
    assert "no workers share this folder" in only_line(cli("status", "--results", tmp_path))


def test_a_run_that_ends_early_gives_back_what_it_holds(small_bundle, tmp_path, cli, monkeypatch):
    def fails(self, number, kind):
        assert len(list((tmp_path / "r" / "claims").glob("*.json"))) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(_Running, "began", fails)
    done = cli(*words_of(small_bundle, tmp_path / "r", "--shared"))
    assert done.code == 130, done.err
    assert list(Path(tmp_path / "r" / "claims").iterdir()) == []
