"""A prior packed into one folder, verified by somebody else, and shown with its author."""

import json
import shutil

import pytest
from boards import all_pages
from commands import finish, only_line, record_files, start

from benchmark.store.sealed import read_sealed, write_sealed

PRIOR = '''
import torch
from priors.api import LatentPrior, hookimpl

class Shifted(LatentPrior):
    """N(mean, I), fitted."""
    name = "shifted"
    def __init__(self, latent_shape, config):
        super().__init__(latent_shape, config)
        self.register_buffer("mean", torch.zeros(latent_shape))
    def fit(self, posterior, generator, progress):
        self.mean.copy_(posterior.train.sample(500, generator).mean(0))
    def sample(self, n, generator):
        noise = torch.randn(n, *self.latent_shape, generator=generator, device=generator.device)
        return self.mean + noise

@hookimpl
def register_priors():
    return [Shifted]
'''
RUN = ["run", "--priors", "shifted,gaussian", "--dataset", "digits", "--seeds", 1, "--metrics", "fd", "--device", "cpu"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a plugin, its results and what was packed of them."""
    folder, log = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("log") / "log"
    (folder / "mine.py").write_text(PRIOR)
    for words in ([*RUN, "--plugin", "mine.py"], ["pack", "mine.py", "--author", "A. Author"]):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            done = finish(start(words, folder / "cache", log), log)
        assert done.code == 0, done.output
    assert "python -m benchmark verify mine-packed" in done.output
    return folder


@pytest.fixture
def packed(made, tmp_path):
    return shutil.copytree(made / "mine-packed", tmp_path / "packed")


def test_the_folder_holds_all_that_is_needed_and_no_more(packed):
    note = read_sealed(packed / "submission.json")
    assert (note["author"], note["plugin"], note["priors"]) == ("A. Author", "mine.py", ["shifted"])
    assert note["environment"]["torch"]
    rows = {json.loads(path.read_text())["row"]["prior"] for path in record_files(packed)}
    assert {"shifted", "gaussian", "aggregate_posterior"} <= rows
    assert "shifted" in all_pages(packed)


def test_a_results_folder_is_no_packed_one(tmp_path, cli):
    (tmp_path / "records").mkdir()
    assert "not a packed folder (expected submission.json); a results folder is --results" in only_line(
        cli("verify", tmp_path)
    )


def test_its_tables_alone_are_no_verification(packed, cli):
    assert cli("verify", packed, "--share", 0).code == 0
    assert not (packed / "verified.json").exists()


def test_it_is_verified_where_nothing_but_it_is_known_and_shown_with_its_author(packed, tmp_path, cli):
    done = cli("verify", packed, "--share", 1)
    assert done.code == 0, done.err + done.out
    assert "shifted by A. Author: verified on" in done.err
    results = tmp_path / "board"
    for part in ("records", "protocols", "in_force"):
        shutil.copytree(packed / part, results / part)
    place = results / "submissions" / "shifted"
    place.mkdir(parents=True)
    shutil.copy(packed / "submission.json", place)
    assert cli("leaderboard", "--results", results).code == 0
    assert "From elsewhere: shifted by A. Author: not verified." in all_pages(results)
    shutil.copy(packed / "verified.json", place)
    cli("leaderboard", "--results", results)
    assert "100% of the fits made again" in all_pages(results)
    assert "From elsewhere: shifted by A. Author: verified on" in (results / "leaderboard.md").read_text()


def tamper_number(packed):
    path = next(p for p in record_files(packed) if p.name.startswith("fd-") and p.parent.name == "shifted")
    record = json.loads(path.read_text())
    record["values"]["fd"] *= 0.5
    write_sealed(path, record)


def tamper_note_too(packed):
    """As one who knows how: the record, the hash of records in the note, and the tables made from it."""
    from benchmark.report.board import Board
    from benchmark.store.records import RecordStore
    from benchmark.submission import _hash_of

    tamper_number(packed)
    note = read_sealed(packed / "submission.json")
    write_sealed(packed / "submission.json", note | {"ids": _hash_of(RecordStore(packed / "records").all()[0])})
    Board(packed).write()


def tamper_plugin(packed):
    path = packed / "mine.py"
    path.write_text(path.read_text().replace("self.mean + noise", "self.mean + 0.5 * noise"))


def tamper_table(packed):
    path = packed / "leaderboard.csv"
    path.write_text("\n".join(line.replace("shifted", "better") for line in path.read_text().splitlines()))


@pytest.mark.parametrize(
    "tamper, code, said",
    [
        (tamper_number, 2, "not the"),
        (tamper_note_too, 1, "DISAGREES"),
        (tamper_plugin, 2, "not the file that was packed"),
        (tamper_table, 1, "no record says so"),
    ],
)
def test_what_was_changed_is_found(tamper, code, said, packed, cli):
    tamper(packed)
    done = cli("verify", packed, "--share", 1)
    assert done.code == code, done.err + done.out
    assert said in done.err + done.out
    if tamper is tamper_note_too:
        assert "disagree" in done.out


def test_what_cannot_be_packed_is_one_line(made, tmp_path, cli):
    words = ["--author", "A", "--results", made / "results", "--out", tmp_path / "out"]
    other = tmp_path / "other.py"
    other.write_text(PRIOR.replace("shifted", "unrun").replace("Shifted", "Unrun"))
    assert "no records of unrun" in cli("pack", other, *words).err
    newer = tmp_path / "mine.py"
    newer.write_text(PRIOR.replace("500", "501"))
    done = cli("pack", newer, *words)
    assert done.code == 2
    assert "fitted by another version" in done.err
    assert "no such file" in cli("pack", tmp_path / "none.py", *words).err
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "scale.py").write_text("SCALE = 1.0\n")
    several = tmp_path / "several.py"
    several.write_text(f"from parts.scale import SCALE\n{PRIOR}")
    assert "it imports parts/scale.py, and only one file is packed" in only_line(cli("pack", several, *words))
    empty = tmp_path / "empty.py"
    empty.write_text("")
    assert "registers nothing" in cli("pack", empty, *words).err
    assert "exists already" in cli("pack", made / "mine.py", *words[:4], "--out", made).err
    assert not (tmp_path / "out").exists()
