"""Records and the sealed JSON they are made of: whole or told apart, kept once, never half written."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmark.store import records, sealed
from benchmark.store.records import SCHEMA, RecordStore, record_id
from benchmark.store.sealed import (
    Damaged,
    content_hash,
    file_hash,
    read_sealed,
    remove_leftovers,
    write_atomic,
    write_sealed,
)

ROW = {"dataset": "digits", "backbone": "conv_vae", "bundle": "b" * 16, "prior": "evalp", "label": "evalp"}
ROW |= {"config": {}, "config_hash": "c" * 16, "seed": 0, "budget": "quick", "device": "cpu"}
IDENTITY = {"fit": "a" * 32, "metric": {"name": "fd", "version": 1}, "settings": {"generated": 500}}
MADE_BY = {"code": {"version": "1", "commit": None, "dirty": None}, "packages": {"torch": "2"}, "device": "a CPU"}
MADE_BY |= {"threads": 1, "command": "python -m benchmark run", "time": "2030-01-01T00:00:00Z"}
CONTENT = {"status": "ok", "values": {"fd": 0.1 + 0.2}, "provenance": MADE_BY}
FAILURE = {"status": "failed", "reason": "ValueError: no", "provenance": MADE_BY}


@pytest.fixture
def store(tmp_path):
    return RecordStore(tmp_path / "records")


def damaged(path):
    """The one sentence that says what is wrong with the file at `path`."""
    with pytest.raises(Damaged) as error:
        read_sealed(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"a": 1, "b": [1.5, -0.1, 1e-300, None, True], "c": {"d": 'ü \n "quoted" \u2028'}},
        {"large": 2**63, "float": math.pi, "empty": [], "nested": {"x": {"y": {"z": []}}}},
    ],
)
def test_sealed_json_comes_back_as_it_was(value, tmp_path):
    returned = write_sealed(tmp_path / "a.json", value)
    read = read_sealed(tmp_path / "a.json")
    assert read == returned
    assert {k: v for k, v in read.items() if k != "seal"} == value
    assert json.loads((tmp_path / "a.json").read_text())["seal"] == content_hash(value)


def test_sealing_again_does_not_seal_the_seal(tmp_path):
    first = write_sealed(tmp_path / "a.json", {"a": 1})
    assert write_sealed(tmp_path / "b.json", first) == first


def test_the_hash_of_content_is_that_of_its_meaning():
    assert content_hash({"a": 1, "b": {"c": 2, "d": 3}}) == content_hash({"b": {"d": 3, "c": 2}, "a": 1})
    different = [{}, {"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": [1]}, {"a": None}, {"a": True}, {"b": 1}, [{"a": 1}]]
    assert len({content_hash(value) for value in different}) == len(different)
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_hash({"a": float("nan")})


@pytest.mark.parametrize("keep", [0.0, 0.25, 0.5, 0.9, 0.99])
def test_every_truncation_is_told_apart(keep, tmp_path):
    path = tmp_path / "a.json"
    write_sealed(path, {"values": list(range(50)), "text": "x" * 50})
    text = path.read_bytes()
    path.write_bytes(text[: int(keep * len(text))])
    damaged(path)


@pytest.mark.parametrize(
    "edit", [("1.5", "1.6"), ('"a"', '"b"'), ("true", "false"), ('"seal": "', '"seal": "0'), ('"seal"', '"sea"')]
)
def test_every_edit_is_told_apart(edit, tmp_path):
    path = tmp_path / "a.json"
    write_sealed(path, {"a": 1.5, "flag": True})
    assert edit[0] in path.read_text()
    path.write_text(path.read_text().replace(*edit))
    damaged(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{}", b"\xff\xfe\x00", b"\x00" * 100, b"not json"])
def test_what_is_not_sealed_json_is_damaged(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    damaged(tmp_path / "a.json")


def test_formatting_alone_is_no_damage(tmp_path):
    value = write_sealed(tmp_path / "a.json", {"b": 1, "a": [1, 2]})
    (tmp_path / "a.json").write_text(json.dumps(value, sort_keys=True))
    assert read_sealed(tmp_path / "a.json") == value


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomic(path, b"old")

    def full(*_):
        raise OSError("No space left on device")

    for name in ("replace", "chmod"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(OSError, match="No space left"):
                write_atomic(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path):
    path, versions = tmp_path / "a.json", [{"v": v, "bulk": [v] * 2000} for v in range(40)]
    write_sealed(path, versions[0])
    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(lambda v=v: write_sealed(path, v)) for v in versions]
        reads = 0
        while not all(writer.done() for writer in writers) or not reads:
            read = read_sealed(path)
            assert read["bulk"] == [read["v"]] * 2000
            reads += 1
    assert all(writer.result() for writer in writers)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_hash_is_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_hash(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_record_is_found_again_by_its_identity(store):
    put = store.put(ROW, "fd", IDENTITY, CONTENT)
    found = store.get(ROW, "fd", record_id(IDENTITY))
    assert found == put
    assert (found["row"], found["identity"], found["kind"], found["schema"]) == (ROW, IDENTITY, "fd", SCHEMA)
    assert found["values"] == CONTENT["values"]
    assert found["status"] == "ok"
    path = store.root / "digits" / "conv_vae" / "evalp" / f"fd-{record_id(IDENTITY)}.json"
    assert path.is_file()
    assert [p for p in store.root.rglob("*") if p.is_file()] == [path]
    assert store.all() == ([found], [])
    assert store.get(ROW, "mmd", record_id(IDENTITY)) is None
    assert store.get(ROW, "fd", record_id({**IDENTITY, "settings": {}})) is None


def test_an_id_is_32_hex_digits_of_the_identity_in_any_order():
    assert re.fullmatch("[0-9a-f]{32}", record_id(IDENTITY))
    assert record_id(dict(reversed(IDENTITY.items()))) == record_id(IDENTITY)


def test_the_first_success_stays(store):
    first = store.put(ROW, "fd", IDENTITY, CONTENT)
    path = store.path(ROW, "fd", first["id"])
    before = path.read_bytes(), path.stat().st_mtime_ns
    for later in ({**CONTENT, "values": {"fd": 9.0}}, FAILURE):
        assert store.put(ROW, "fd", IDENTITY, later) == first
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_a_failure_is_kept_and_replaced_by_what_comes_later(status, store):
    assert store.put(ROW, "fd", IDENTITY, {**FAILURE, "status": status})["status"] == status
    assert store.get(ROW, "fd", record_id(IDENTITY))["reason"] == "ValueError: no"
    assert store.put(ROW, "fd", IDENTITY, {**FAILURE, "reason": "another"})["reason"] == "another"
    assert store.put(ROW, "fd", IDENTITY, CONTENT)["status"] == "ok"
    assert store.get(ROW, "fd", record_id(IDENTITY))["values"] == CONTENT["values"]
    assert len(store.all()[0]) == 1


def test_a_damaged_record_is_replaced(store):
    path = store.path(ROW, "fd", store.put(ROW, "fd", IDENTITY, CONTENT)["id"])
    path.write_text("{")
    assert store.put(ROW, "fd", IDENTITY, CONTENT)["status"] == "ok"
    assert store.get(ROW, "fd", record_id(IDENTITY))["values"] == CONTENT["values"]


def _reseal(path, **changes):
    write_sealed(path, {**read_sealed(path), **changes})


SPOILS = {
    "edited": lambda path: path.write_text(path.read_text().replace('"seed": 0', '"seed": 1')),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "empty": lambda path: path.write_bytes(b""),
    "wrong id": lambda path: _reseal(path, id="0" * 32),
    "wrong identity": lambda path: _reseal(path, identity={**IDENTITY, "fit": "b" * 32}),
    "wrong kind": lambda path: _reseal(path, kind="mmd"),
    "older schema": lambda path: _reseal(path, schema=SCHEMA - 1),
    "newer schema": lambda path: _reseal(path, schema=SCHEMA + 1),
    "no schema": lambda path: write_sealed(path, {k: v for k, v in read_sealed(path).items() if k != "schema"}),
    "no status": lambda path: write_sealed(path, {k: v for k, v in read_sealed(path).items() if k != "status"}),
    "no row": lambda path: write_sealed(path, {k: v for k, v in read_sealed(path).items() if k != "row"}),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_record_that_is_not_what_was_written_is_damaged_and_named(spoil, store):
    other = store.put({**ROW, "seed": 1}, "fd", {**IDENTITY, "fit": "c" * 32}, CONTENT)
    path = store.path(ROW, "fd", store.put(ROW, "fd", IDENTITY, CONTENT)["id"])
    SPOILS[spoil](path)
    with pytest.raises(Damaged, match=re.escape(str(path))):
        store.get(ROW, "fd", record_id(IDENTITY))
    good, told = store.all()
    assert good == [other]
    assert len(told) == 1
    assert str(path) in told[0]
    assert "\n" not in told[0]


def test_a_renamed_record_is_damaged_and_named(store):
    path = store.path(ROW, "fd", store.put(ROW, "fd", IDENTITY, CONTENT)["id"])
    renamed = path.with_name(f"fd-{'0' * 32}.json")
    path.rename(renamed)
    good, told = store.all()
    assert good == []
    assert len(told) == 1
    assert str(renamed) in told[0]
    with pytest.raises(Damaged, match=re.escape(str(renamed))):
        store.get(ROW, "fd", "0" * 32)


def test_records_are_read_in_one_order_whatever_the_order_of_writing(tmp_path):
    stores = [RecordStore(tmp_path / "a"), RecordStore(tmp_path / "b")]
    identities = [{**IDENTITY, "fit": f"{n:032x}"} for n in range(8)]
    for store, order in zip(stores, (identities, identities[::-1])):
        for identity in order:
            store.put(ROW, "fd", identity, CONTENT)
    assert stores[0].all() == stores[1].all()


def test_leftovers_of_a_killed_write_are_no_records(store):
    record = store.put(ROW, "fd", IDENTITY, CONTENT)
    path = store.path(ROW, "fd", record["id"])
    (path.parent / f".{path.name}.abc123.tmp").write_bytes(path.read_bytes()[:40])
    assert store.all() == ([record], [])


def test_no_records_yet_is_no_error(store):
    assert store.all() == ([], [])
    assert store.get(ROW, "fd", record_id(IDENTITY)) is None


@pytest.fixture
def reads(monkeypatch):
    """The names of the files that are read, one each time."""
    read, names = records.read_sealed, []
    monkeypatch.setattr(records, "read_sealed", lambda path: names.append(os.path.basename(path)) or read(path))
    return names


def test_a_record_is_read_once_and_again_when_it_changed(store, reads):
    made = [store.put({**ROW, "seed": seed}, "fd", {**IDENTITY, "fit": str(seed)}, FAILURE) for seed in range(3)]
    assert len(store.all()[0]) == 3
    reads.clear()
    assert len(store.all()[0]) == 3
    assert reads == []
    path = store.path(ROW, "fd", made[1]["id"])
    store.put(ROW, "fd", {**IDENTITY, "fit": "1"}, CONTENT)
    reads.clear()
    assert {record["id"]: record["status"] for record in store.all()[0]}[made[1]["id"]] == "ok"
    assert reads == [path.name]


def test_records_of_another_process_are_seen_and_removed_ones_are_not(store, reads):
    first = store.put(ROW, "fd", IDENTITY, CONTENT)
    assert store.all() == ([first], [])
    second = RecordStore(store.root).put(ROW, "fd", {**IDENTITY, "fit": "other"}, CONTENT)
    reads.clear()
    assert sorted(record["id"] for record in store.all()[0]) == sorted([first["id"], second["id"]])
    assert reads == [f"fd-{second['id']}.json"]
    store.path(ROW, "fd", first["id"]).unlink()
    assert store.all() == ([second], [])


def test_a_damaged_record_is_named_each_time_until_it_is_whole(store, reads):
    path = store.path(ROW, "fd", store.put(ROW, "fd", IDENTITY, CONTENT)["id"])
    whole = path.read_text()
    path.write_text(whole[:-30])
    first = store.all()
    assert first[0] == []
    assert str(path) in first[1][0]
    assert store.all() == first
    path.write_text(whole)
    assert len(store.all()[0]) == 1


def test_what_a_killed_process_had_begun_to_write_is_removed_and_nothing_else(tmp_path):
    write_atomic(tmp_path / "a" / "whole.json", b"whole")
    begins = "import os, sys; from pathlib import Path; from benchmark.store import sealed\n"
    begins += "sealed.os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
    begins += "sealed.write_atomic(Path(sys.argv[1]), b'half')"
    subprocess.run([sys.executable, "-c", begins, tmp_path / "a" / "half.json"], check=False)
    (tmp_path / "a" / ".whole.json.elsewhere-1.abc.tmp").write_bytes(b"another machine's")
    (tmp_path / "mine.tmp").write_bytes(b"a user's")
    living = tmp_path / f".x.json.{platform.node()}-{os.getpid()}.abc.tmp"
    living.write_bytes(b"this process's")
    assert len(list(tmp_path.rglob("*.tmp"))) == 4
    remove_leftovers(tmp_path)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"whole.json", ".whole.json.elsewhere-1.abc.tmp", "mine.tmp", living.name}


def begin_to_write(folder, machine):
    """What a process of a machine, of a number that none has, leaves where it is killed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealed.platform, "node", lambda: machine)
        patch.setattr(sealed.os, "getpid", lambda: 2**31 - 1)
        patch.setattr(sealed.os, "replace", lambda *_: None)
        write_atomic(folder / "a.json", b"half")


@pytest.mark.parametrize(
    "here, other",
    [("node1", "gpunode1"), ("node1", "gpu-node1"), ("uni.edu", "node1.uni.edu"), ("node1.uni.edu", "uni.edu")],
)
def test_what_another_machine_is_writing_stays_however_alike_their_names(here, other, tmp_path, monkeypatch):
    monkeypatch.setattr(sealed.platform, "node", lambda: here)
    begin_to_write(tmp_path, here)
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []
    begin_to_write(tmp_path, other)
    remove_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
