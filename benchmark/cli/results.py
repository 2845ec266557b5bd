"""`leaderboard`, `report`, `pack`, `verify`: what is made of records, and records computed again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.options import PluginOption, ResultsOption
from benchmark.errors import UsageError
from benchmark.machine.importing import importing
from benchmark.progress import say, show
from benchmark.store.arms import records_in
from benchmark.suggestion import spell

#: sentences of one kind that `verify` shows
SHOWN = 10


def leaderboard(results: ResultsOption = Path("results")) -> None:
    """Rebuild tables, pages of suites and of `joint`, and pictures from the records; exit 1 if any is damaged."""
    with importing():
        from benchmark.report.board import Board
        from benchmark.store.sealed import remove_leftovers
        from benchmark.suites.pages import write_pages

    if not any((results / "suites").glob("*.json")):  # a suite whose VAEs are all its own has its records below it
        _require_records(results)
    remove_leftovers(results)
    board = Board(results)
    damaged = board.write()
    damaged += board.draw()
    damaged += write_pages(results, tables=board.tables)
    for sentence in damaged:
        say(f"left out: {sentence}")
    say(f"written: {results / 'leaderboard.md'}")
    raise typer.Exit(1 if damaged else 0)


def report(
    results: ResultsOption = Path("results"),
    out: Annotated[
        Path | None, typer.Option(help="The file to write (default: report.html in the results folder).")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="A folder for its figures as PNG and PDF.")] = None,
) -> None:
    """Write the leaderboard as one HTML file that opens from disk: tables that sort, figures, samples, provenance."""
    with importing():
        from benchmark.report.html.page import report_html
        from benchmark.store.sealed import write_atomic

    _require_records(results)
    path = out or results / "report.html"
    content = report_html(results, figures, folder=path.parent).encode(errors="backslashreplace")
    write_atomic(path, content)
    say(f"written: {path} ({len(content) / 1e6:.1f} MB)" + (f"; figures in {figures}" if figures else ""))


def pack(
    plugin: Annotated[Path, typer.Argument(help="The Python file of your prior.")],
    author: Annotated[str, typer.Option(help="Your name, as it is to stand beside the row.")],
    results: ResultsOption = Path("results"),
    out: Annotated[Path | None, typer.Option(help="A new folder (default: NAME-packed, after the file).")] = None,
) -> None:
    """Collect a prior with its records and environment into one folder, for others to verify and to show."""
    with importing():
        from benchmark.submission import pack

    _require_records(results)
    folder = out or Path(f"{plugin.stem}-packed")
    submission = pack(plugin, results, folder, author)
    say(f"written: {folder}, {submission.packed.records:,} records; whoever has it: {spell('verify', str(folder))}")


def verify(
    folder: Annotated[Path | None, typer.Argument(help="A packed folder, in place of --results and --plugin.")] = None,
    results: ResultsOption = Path("results"),
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the fits to repeat, at least one; 0: none, the tables alone.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Decides which are drawn.")] = 0,
    plugin: PluginOption = None,
) -> None:
    """Hold the tables against the records, and compute a random share of the scores again; exit 1 if any disagrees.

    With --share 0 nothing is fitted or measured: the tables alone are worked out again.
    """
    with importing():
        from benchmark.names import open_registry
        from benchmark.recount import find_differences
        from benchmark.store.records import RecordStore
        from benchmark.submission import note_verified, open_submission
        from benchmark.verify import VERDICTS, Finding, describe, verify

    submission = None
    _require_records(folder or results)
    if folder is not None:
        submission = open_submission(folder)
        results, plugin = folder, [*(plugin or []), folder / submission.packed.plugin]
    registry = open_registry(plugin or [], apart=True)
    differences, words, compared = find_differences(results, RecordStore(results / "records"))
    for of, sentences in (("DISAGREES", differences), ("unknown  ", words)):
        for sentence in sentences[:SHOWN]:
            show(f"{of} {sentence}")
        if len(sentences) > SHOWN:
            show(f"{of} ... and {len(sentences) - SHOWN} more")
    advice = f"; {spell('leaderboard', results=results)} makes them from the records"
    agree = f"the tables have {len(differences)} differences{advice}" if differences else "the tables are the records'"
    say(f"{agree} ({compared:,} numbers of leaderboard.csv were worked out again)")
    if not share:
        raise typer.Exit(1 if differences else 0)
    counts, interrupted = dict.fromkeys(VERDICTS, 0), False
    alike: list[Finding] = []
    try:
        for finding in verify(registry, results, share, seed):
            counts[finding.verdict] += 1
            if alike and finding.said != alike[0].said:
                show(describe(alike))
                alike = []
            alike.append(finding)
    except KeyboardInterrupt:
        interrupted = True
    if alike:
        show(describe(alike))
    if interrupted:
        say("interrupted: this is what was verified so far")
    show(", ".join(f"{count} {VERDICTS[verdict]}" for verdict, count in counts.items()))
    if submission is not None and folder is not None and not interrupted and not differences:
        say(note_verified(folder, submission, share, seed, counts).sentence)
    raise typer.Exit(130 if interrupted else 1 if counts["DISAGREES"] or differences else 0)


def _require_records(results: Path) -> None:
    if not ((results / "records").is_dir() or records_in(results).is_dir()):
        raise UsageError(f"{results}: no records here (expected a folder 'records')")
