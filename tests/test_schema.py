"""One bad file harms nothing else: what a record holds is checked, named and left out, whatever its seal says."""

from __future__ import annotations

import copy
import errno
import json
import os

import pytest
import torch
from boards import Results

from benchmark.errors import UsageError
from benchmark.jobs.forecast import _recorded_seconds
from benchmark.metrics.api import IMAGE_SETTINGS
from benchmark.metrics.samples import as_png
from benchmark.protocol import Protocol
from benchmark.report import board as board_module
from benchmark.report import pareto, sample_grids
from benchmark.report.board import Board
from benchmark.report.curves import curves_figure, describe_curves, find_curves
from benchmark.report.draws import find_draws
from benchmark.report.frame import results_frame
from benchmark.store import in_force, places, sealed
from benchmark.store.in_force import note_in_force
from benchmark.store.records import record_id
from benchmark.store.sealed import remove_leftovers, write_sealed

#: what stands where something else belongs; `GONE` is nothing at all
GONE = object()
ODD = [
    GONE,
    None,
    True,
    -1,
    3,
    1e308,
    10**400,
    "text",
    "",
    "../../escaped",
    "\ud800\n|<b>\x1b[31m",
    [],
    [1],
    {},
    {"a": 1},
]


@pytest.fixture
def results(tmp_path):
    made = Results(tmp_path / "results")
    made.references()
    made.scores("mine", [3.0, 4.0])
    return made


def _records(results):
    """One record of each kind that tables are made of."""
    machine = {"device": "a CPU", "threads": 1, "dtype": "float32"}
    column = {"value": "odd", "heading": "odd", "group": "main", "scale": 2.0, "digits": 1}
    timed = {"prior_seconds_1000": 0.1, "prior_seconds_1000_quartiles": [0.1, 0.2], "effective_sample_size": 2.0}
    log = [{"step": 1, "nll": 2.0, "held_out_nll": 2.5}, {"step": 2, "nll": 1.0, "held_out_nll": 1.5}]
    values = {"fit_seconds": 3.0, "best_step": 2, "runaway": "its bound ran away"}
    yield results.add("mine", "fit", {"status": "ok", "values": values, "log": log})
    yield results.add("mine", "fit", {"status": "diverged", "reason": "nan"}, seed=1)
    yield results.add("mine", "fd", {"fd": 3.5}, seed=2, reads=IMAGE_SETTINGS)
    yield results.add("mine", "fd", {"status": "failed", "reason": "no"}, seed=3, reads=IMAGE_SETTINGS)
    yield results.add("mine", "redraws", {"fd_redraws": [3.1, 3.2]}, reads=IMAGE_SETTINGS)
    yield results.add("mine", "sampling_time", timed, machine=machine)
    yield results.add("aggregate_posterior", "extraction_time", {"extraction_seconds": 1.0, "extraction_images": 9})
    yield results.add("mine", "samples", {"png": "iVBORw0KGgo="})
    yield results.add("mine", "odd", {"status": "ok", "values": {"odd": 1.0}, "columns": [column]})


def _spoilt(value):
    """Every copy of a JSON value in which one part is odd, with the place of that part."""
    places = [[]]
    for place in places:
        at = _at(value, place)
        inner = at.keys() if isinstance(at, dict) else range(len(at)) if isinstance(at, list) else []
        places += [[*place, key] for key in inner]
    for *place, key in places[1:]:
        for odd in ODD:
            spoilt = copy.deepcopy(value)
            if odd is GONE:
                del _at(spoilt, place)[key]
            else:
                _at(spoilt, place)[key] = odd
            yield [*place, key], odd, spoilt


def _at(value, place):
    for key in place:
        value = value[key]
    return value


def _seal(record, folder):
    """Write a record as if a run had: sealed, under the id of its identity."""
    record = {**record, **({"id": record_id(record["identity"])} if "identity" in record else {})}
    path = folder / f"{record.get('kind')!s:.20}-{record.get('id')}.json".replace("/", "_").replace(
        "\ud800\n|<b>\x1b", "_"
    )
    write_sealed(path, {name: value for name, value in record.items() if name != "seal"})
    return path


def test_no_odd_value_anywhere_in_a_sealed_record_breaks_the_tables(tmp_path):
    results = Results(tmp_path / "results")
    records = list(_records(results))
    results.references()  # newer ones, and so what they were measured by is in force
    before = _of_gaussian(results)
    folder, count = results.folder / "records" / "odd", 0
    for number, record in enumerate(records):
        for place, _, spoilt in _spoilt(record):
            shared = place[0] in ("row", "provenance", "schema") or place[:2] == ["identity", "prior"]
            if place[0] not in ("id", "seal") and not (number > 2 and shared):  # which all have
                count += 1
                _seal(spoilt, folder / str(count))
    board = Board(results.folder)
    damaged = board.write()
    board.tables = [table for table in board.tables if (table.dataset, table.bundle) == ("digits", "b" * 16)]
    board.draw()
    for table in board.tables:
        curves = find_curves(table)
        describe_curves(curves)
        curves_figure(curves).draw_without_rendering()
        assert find_draws(table) is None
    assert count > 1000
    assert 300 < len(damaged) < count
    assert not any("\n" in sentence or "\x1b" in sentence for sentence in damaged)
    assert _of_gaussian(results) == before
    assert len(results_frame(results.folder)) > 0
    assert len(_recorded_seconds(board._store.all()[0])) > 0


def test_no_odd_value_in_a_sealed_protocol_or_note_breaks_the_tables(results):
    before, content = _of_gaussian(results), results.protocol.model_dump(mode="json")
    folder = results.folder / "protocols" / ("b" * 16)
    for number, (_, _, spoilt) in enumerate(_spoilt(content)):
        try:
            name = Protocol(**spoilt).hash[:16]  # as if it were one
        except ValueError:
            name = f"{number:016x}"
        write_sealed(folder / f"{name}.json", spoilt)
    note = {"labels": {"mine": "0" * 16}, "metrics": {"fd": "1"}}
    for number, (_, _, spoilt) in enumerate(_spoilt(note)):
        write_sealed(results.folder / "in_force" / f"{number:016x}" / "quick-cpu.json", spoilt)
    board = Board(results.folder)
    damaged = board.write()
    board.draw()
    assert len(damaged) > 200
    assert before[0] in _of_gaussian(results)


def _of_gaussian(results):
    board = results.board()
    lines = board[(board["prior"] == "gaussian") & (board["dataset"] == "digits") & (board["metric"] == "FD digit-cnn")]
    return lines[["mean", "low", "high", "seeds"]].to_numpy().tolist()


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_number_that_json_does_not_have_is_damage(value, results):
    record = results.add("mine", "fd", {"fd": 1.0}, seed=5, reads=IMAGE_SETTINGS)
    path = results.store.path(record["row"], "fd", record["id"])
    path.write_text(json.dumps({**record, "values": {"fd": value}}))
    board = results.board()
    assert [str(path) in sentence for sentence in results.damaged] == [True]
    assert "mine" in set(board["prior"])


def _deep(path):
    path.write_text("[" * 100_000)


def _sparse(path):
    with path.open("wb") as file:
        file.truncate(2 * 2**30)


def _nowhere(path):
    path.symlink_to(path.parent / "nothing")


def _to_itself(path):
    path.symlink_to(path)


NO_FILES = {"pipe": os.mkfifo, "folder": os.mkdir, "deep": _deep, "sparse": _sparse}
NO_FILES |= {"link to nothing": _nowhere, "link to itself": _to_itself}


@pytest.mark.parametrize("what", NO_FILES)
@pytest.mark.parametrize("place", ["records/digits/conv_vae/mine", "protocols/" + "b" * 16, "in_force/" + "b" * 16])
def test_what_is_no_file_of_ours_is_one_line_and_harms_nothing(what, place, results):
    results.board()
    before = results.text
    name = {"in_force": "quick-cpu.json", "records": f"fd-{'0' * 32}.json"}.get(place.partition("/")[0], "x.json")
    path = results.folder / place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    NO_FILES[what](path)
    results.board()
    assert [str(path) in sentence for sentence in results.damaged] == [True]
    assert results.text.startswith(before.rstrip("\n"))


def test_a_loop_of_links_and_names_that_nothing_can_show_are_passed(results):
    pages, before = results.text, results.screen
    folder = results.folder / "records"
    (folder / "loop").symlink_to(folder)
    (folder / "also").symlink_to(folder / "digits")
    undecodable = os.fsencode(folder) + b"/caf\xe9"
    os.mkdir(undecodable)
    with open(undecodable + b"/x\n.json", "w") as file:
        file.write("{")
    assert results.text == pages
    assert results.screen.count("Left out: ") == before.count("Left out: ") + 1


@pytest.mark.parametrize("of", ["dataset", "backbone", "prior"])
@pytest.mark.parametrize("name", ["../../../escaped", "/tmp/escaped", "..", ".", "", "a/b", "a\\b", "a\nb", "a\x00b"])
def test_a_row_writes_nowhere_but_below_the_records(of, name, results):
    good = results.add("mine", "fd", {"fd": 1.0}, seed=7, reads=IMAGE_SETTINGS)
    row = {**good["row"], of: name}
    with pytest.raises(UsageError, match="is that of a folder"):
        results.store.put(row, "fd", {**good["identity"], "other": 1}, {"status": "ok", "values": {}})
    with pytest.raises(UsageError, match="is that of a folder"):
        results.store.get(row, "fd", good["id"])


@pytest.mark.parametrize("spoil", ["{", '{"seal": 1}', "", "another"])
def test_what_a_run_knows_it_mends(spoil, results):
    row = results.add("mine", "fd", {"fd": 1.0}, seed=8, reads=IMAGE_SETTINGS)["row"]
    metrics = {"fd": {"name": "fd", "version": 1}}
    note_in_force(results.folder, "quick", [row], metrics)
    notes = [*results.folder.glob("protocols/*/*.json"), *results.folder.glob("in_force/*/*.json")]
    assert len(notes) == 2
    whole = [note.read_bytes() for note in notes]
    for note in notes:
        note.write_text(spoil)
        if spoil == "another":  # sealed well
            write_sealed(note, {"labels": {"mine": 3}, "preset": 1})
    results.board()
    assert len(results.damaged) == 2
    results.protocol.save(results.folder, row["bundle"])
    note_in_force(results.folder, "quick", [row], metrics)
    assert [note.read_bytes() for note in notes] == whole
    results.board()
    assert results.damaged == []


def test_a_note_of_a_protocol_under_another_s_name_is_left_out(results):
    (note,) = results.folder.glob("protocols/*/*.json")
    write_sealed(note, {**results.protocol.model_dump(mode="json"), "generated": 499})
    results.board()
    assert [str(note) in sentence for sentence in results.damaged] == [True]


@pytest.mark.parametrize("strip", ["", "text", "iVBORw0KGgo=", 3, ["a"]])
def test_a_strip_that_is_no_picture_is_named_and_the_others_are_drawn(strip, results):
    results.add("gaussian", "samples", {"png": as_png(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))})
    results.add("mine", "samples", {"png": strip})
    board = Board(results.folder)
    board.write()
    (said,) = board.draw()
    assert "mine" in said
    assert len(list((results.folder / "samples").glob("*.png"))) == 1


def test_where_there_is_nothing_to_change_nothing_is_written(results, monkeypatch):
    row = results.add("mine", "samples", {"png": as_png(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))})["row"]
    metrics = {"fd": {"name": "fd", "version": 1}}

    def finish():
        results.protocol.save(results.folder, row["bundle"])
        note_in_force(results.folder, "quick", [row], metrics)
        board = Board(results.folder)
        return board.write() + board.draw()

    finish()

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "read-only file system")

    for of in (places, sealed, board_module, in_force, sample_grids, pareto):  # whatever writes, and locks
        for name in {"FileLock", "write_atomic", "write_sealed"} & set(vars(of)):
            monkeypatch.setattr(of, name, refuse)
    assert finish() == []
    with pytest.raises(OSError, match="read-only"):
        note_in_force(results.folder, "quick", [{**row, "config_hash": "0" * 16}], metrics)


@pytest.mark.parametrize("value", ["0.1", None, 1e308, {"a": 1}])
def test_a_value_that_is_no_number_leaves_its_cell_blank_and_is_named(value, results):
    results.add("mine", "fd", {"fd": value}, seed=2, reads=IMAGE_SETTINGS)
    assert "mine seed 2: fd of fd is" in results.text
    board = results.board()
    assert set(board[board["metric"] == "FD digit-cnn"]["prior"]) == {"gaussian", "aggregate_posterior"}
    assert results.damaged == []


def test_what_nobody_will_finish_is_swept_by_age_alone_too(tmp_path):
    names = [".a.json.elsewhere-1.abc.tmp", f".b.json.elsewhere-{os.getpid()}.abc.tmp"]
    for name in names:
        (tmp_path / name).write_text("half")
    os.utime(tmp_path / names[0], (0, 0))
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == names[1:]
