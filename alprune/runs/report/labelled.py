"""What people labelled: a table of labelling folders, which are runs without steps."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from alprune.errors import StoreError
from alprune.labelling.accuracy import Estimate
from alprune.labelling.journal import Journal
from alprune.runs.report.cells import NONE, Cell, number_cell
from alprune.runs.report.runs import Run
from alprune.runs.report.tables import Table


def journals(runs: Sequence[Run]) -> tuple[dict[Run, Journal], dict[Path, str]]:
    """Read the records of those runs in which people labelled; return the damaged ones, too."""
    found: dict[Run, Journal] = {}
    damaged: dict[Path, str] = {}
    for run in runs:
        if run.is_labelling:
            try:
                found[run] = Journal(run.path)
            except StoreError as error:
                damaged[run.path] = str(error)
    return found, damaged


def labelled_tables(found: dict[Run, Journal]) -> list[Table]:
    """Tabulate what was labelled, and what each round came to; none without such folders."""
    return [_folders(found), _rounds(found)] if found else []


def _folders(found: dict[Run, Journal]) -> Table:
    rows = []
    for run, journal in found.items():
        labels = sum(count for name, count in journal.counts.items() if name is not None)
        learnt = journal.asked.get("learnt", {})
        agreement = journal.opinions.agreement()
        kappa = None if agreement is None else agreement.kappa
        rows.append(
            (
                Cell(str(run.path), str(run.path)),
                number_cell(labels, 0),
                number_cell(journal.counts[None], 0),
                number_cell(sum(journal.counts[name] > 0 for name in journal.classes), 0),
                number_cell(journal.round, 0),
                _estimate_cell(learnt.get("held_out_accuracy")),
                _percent_cell(learnt.get("test_accuracy")),
                number_cell(len(journal.opinions.by), 0),
                Cell(NONE) if agreement is None else Cell(str(agreement), agreement.share),
                number_cell(kappa, 2),
            )
        )
    columns = (
        *("Folder", "Labels", "Skipped", "Classes", "Rounds", "Right on images drawn at random"),
        *("Test accuracy (%)", "People with a name", "Agreement", "Cohen's kappa"),
    )
    note = (
        "Accuracies are of the last round. People agree where the first two who answered an image "
        "gave it the same label; kappa is 0 where they agree no more than by chance, and 1 at most."
    )
    return Table("labelled", "What people labelled", columns, tuple(rows), note)


def _rounds(found: dict[Run, Journal]) -> Table:
    rows = [
        (
            Cell(f"{run.path.name}, round {number}", f"{run.path} {number:09d}"),
            number_cell(asked["labelled"], 0),
            _estimate_cell(asked["learnt"].get("held_out_accuracy")),
            _percent_cell(asked["learnt"].get("test_accuracy")),
        )
        for run, journal in found.items()
        for number, asked in enumerate(journal.measured, start=1)
    ]
    columns = ("Round", "Labels", "Right on images drawn at random", "Test accuracy (%)")
    return Table("rounds", "What each round came to", columns, tuple(rows))


def _percent_cell(share: Any) -> Cell:
    return number_cell(100 * share if isinstance(share, float) else None, 1)


def _estimate_cell(record: Any) -> Cell:
    names = {field.name for field in fields(Estimate)}
    if not isinstance(record, dict) or not names <= record.keys():
        return Cell(NONE)
    found = Estimate(**{name: record[name] for name in names})
    return Cell(str(found), found.accuracy)


def labelled_text(found: dict[Run, Journal]) -> list[str]:
    """Say in sentences what people labelled, one for each folder."""
    told = []
    for run, journal in found.items():
        labels = sum(count for name, count in journal.counts.items() if name is not None)
        text = f"{run.path.name}: {labels:,} labels in {journal.round} rounds"
        accuracy = _estimate_cell(journal.asked.get("learnt", {}).get("held_out_accuracy"))
        if accuracy.text != NONE:
            text += f"; the learner is right on {accuracy.text} drawn at random"
        agreement = journal.opinions.agreement()
        if agreement is not None:
            text += f". People agree on {agreement}"
        told.append(f"{text}.")
    return told
