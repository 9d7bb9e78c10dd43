"""`alprune ask` and `alprune tell`."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alprune.cli.common import fine_tuning_hint, tell
from alprune.cli.options import Command, given_options, run_options, trust_option
from alprune.errors import ConfigError, StoreError, counted, printable, shell_word
from alprune.loop.observers import Observer
from alprune.loop.recipe import read_recipe
from alprune.loop.run_folder import CONFIG
from alprune.loop.trust import check_trust
from alprune.loop.unused import LABELLING_OPTIONS

if TYPE_CHECKING:
    from alprune.labelling import Asking, Round, Told

_ASK_EXAMPLES = """\b
Start:      alprune ask birds --dataset folder:photos --budget 1m
Answer:     fill in the column label of birds/queries.csv, then
            alprune tell birds birds/queries.csv
Continue:   alprune ask birds
Try it out: alprune ask trial --dataset folder:labelled --initial 20
            alprune tell trial --simulate
"""
_HELPS = {
    "budget": "Time for learning and choosing per round: 90s, 10m, 2h, or seconds.",
    "dataset": "folder:PATH, the folder of images, or csv:, parquet:, npz:, hf: or shards:; needed "
    "the first time.",
    "learner": "trained: the network learns; frozen: only a head learns, on a pretrained network. "
    "[default: frozen for colour photographs, trained for other images]",
    "start": "How images are chosen before there are labels: typiclust, random or module:function.",
    "initial": "Try labelling on a labelled folder: hide all labels but this many.",
    "hold_out": "Images to draw at random, over several rounds, and keep out of training, to "
    "measure the accuracy.",
    "query_size": "Images to ask about per round.",
    "stop_labels": "Stop once this many images are labelled.",
    "stop_accuracy": "Stop once the accuracy on test or 50 held-out images reaches this, 0 to 1.",
    "stop_uncertainty": "Stop once the mean entropy of the images without a label is below this "
    "(nats).",
    "stop_plateau": "Stop after this many rounds without a better accuracy.",
    "score_share": "Share of the budget to keep for choosing.",
    "initial_epochs": "Passes over the labels in the first round, at most.",
    "epochs": "Passes over the labels in every later round, at most.",
}
_DIR = click.Path(path_type=Path, file_okay=False)


class _Training(Observer):
    """Shows the progress of the training on a terminal."""

    def __init__(self, stream_is_terminal: bool) -> None:
        self._shown = stream_is_terminal

    def event(self, name: str, fields: dict[str, Any]) -> None:
        if name == "note":
            click.echo(fields["text"], err=True)

    def tick(self, phase: str, done: int, planned: int, elapsed_s: float) -> None:
        if self._shown:
            tell(f"training: {elapsed_s:.0f} s, batch {done} of at most {planned}")


def asking_options(function: Any) -> Any:
    """Add the options that `alprune ask` and `alprune label` share."""
    function = run_options(LABELLING_OPTIONS, _HELPS, labelling=True)(function)
    return click.option(
        "--classes",
        metavar="A,B,C",
        help="Names of classes; class folders and labels may add others.",
    )(function)


def opened(
    command: str,
    path: Path,
    recipe: Path | None,
    classes: str | None,
    options: Mapping[str, Any],
) -> "Asking":
    """Open a folder with the options of the command line of `alprune ask` or `alprune label`."""
    from alprune.labelling import open_asking

    chosen = (read_recipe(recipe) if recipe else {}) | given_options(options)
    if recipe is not None:
        check_trust(chosen, recipe, given_options(options))
    if "dataset" not in chosen and not (path / CONFIG).exists():
        raise ConfigError(
            f"{path} is new, and there is no folder of images. To start: alprune {command} "
            f"{shell_word(str(path))} --dataset folder:PATH, with images without a label in "
            "PATH/unlabelled/ and the others in a folder for each class."
        )
    names = [name.strip() for name in (classes or "").split(",") if name.strip()]
    return open_asking(path, classes=names, observer=_Training(sys.stderr.isatty()), **chosen)


@click.command("ask", cls=Command, epilog=_ASK_EXAMPLES)
@click.argument("path", metavar="DIR", type=_DIR)
@asking_options
@click.option("--regardless", is_flag=True, help="Ask even if a stop rule (--stop-...) is met.")
@click.option("--json", "as_json", is_flag=True, help="Print the round as JSON.")
def ask_command(
    path: Path,
    recipe: Path | None,
    classes: str | None,
    regardless: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Learn from the labels so far, and choose the next images to label.

    DIR holds the questions and the answers. The images are in folder:PATH, those without a label
    in PATH/unlabelled/. The questions are written to DIR/queries.csv (fill in its column label),
    DIR/queries.png (the images) and DIR/label-studio.json. Until answers are read with alprune
    tell, the same questions are repeated. Once a stop rule is met, nothing is asked.
    """
    with opened("ask", path, recipe, classes, options) as asking:
        asked = asking.ask(regardless)
    tell("")
    click.echo(json.dumps(_record(path, asked)) if as_json else _table(path, asked))


@click.command("tell", cls=Command)
@click.argument("path", metavar="DIR", type=_DIR)
@click.argument("labels", metavar="[LABELS]", required=False, type=click.Path(path_type=Path))
@click.option("--new-classes", is_flag=True, help="Accept labels that name a new class.")
@click.option("--replace", is_flag=True, help="Accept answers that differ from earlier ones.")
@click.option("--unasked", is_flag=True, help="Accept images that were never asked about.")
@trust_option
@click.option("--encoding", help="Encoding, if not UTF-8: cp1251, shift_jis, utf-16-le, ...")
@click.option("--label-column", help="Column or Label Studio control that holds the label.")
@click.option("--user", default="", metavar="NAME", help="Who answered, to compare people.")
@click.option(
    "--simulate",
    is_flag=True,
    help="In a trial (--initial), answer by the folders' names.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was accepted as JSON.")
def tell_command(
    path: Path,
    labels: Path | None,
    new_classes: bool,
    replace: bool,
    unasked: bool,
    encoding: str | None,
    label_column: str | None,
    user: str,
    simulate: bool,
    as_json: bool,
) -> None:
    """Read the labels of a file: all of them, or none if one is invalid.

    LABELS is a CSV file with the columns path and label (DIR/queries.csv, filled in), or an export
    of Label Studio (JSON, JSON-MIN or CSV). An empty label leaves an image open; skip, unsure or ?
    means that its class cannot be determined.
    """
    if simulate == (labels is not None):
        raise click.UsageError("give either the file LABELS or --simulate.")
    from alprune.labelling import open_asking

    if not (path / CONFIG).exists():
        raise StoreError(
            f"{path} is not a folder of alprune ask or alprune label (looked in {Path.cwd()}). "
            "Give the folder that was named there, or change to the folder that it is in."
        )
    with open_asking(path) as asking:
        if labels is None:
            told = asking.tell_truth()
        else:
            told = asking.tell(
                labels,
                new_classes=new_classes,
                replace=replace,
                unasked=unasked,
                encoding=encoding,
                label_column=label_column,
                by="file",
                user=user,
            )
        total, in_folders = len(asking.labels), asking.journal.asked.get("in_folders", 0)
    hint = fine_tuning_hint(shell_word(str(path)), total, asking.config.learner)
    click.echo(json.dumps(asdict(told)) if as_json else _told(path, told, total, in_folders) + hint)


def _record(path: Path, asked: "Round") -> dict[str, Any]:
    from alprune.labelling.question_files import QUERIES, SHEET, TASKS

    return {
        "round": asked.number,
        "again": asked.again,
        "labelled": asked.labelled,
        "in_folders": asked.in_folders,
        "pool": asked.pool,
        "classes": list(asked.classes),
        "queries": [asdict(query) for query in asked.queries],
        "learnt": dict(asked.learnt),
        "stop": asked.stop or None,
        "agreement": None if asked.agreement is None else asdict(asked.agreement),
        "changes": asdict(asked.changes),
        "table": str(path / QUERIES),
        "contact_sheet": str(path / SHEET),
        "tasks": str(path / TASKS),
    }


def _table(path: Path, asked: "Round") -> str:
    from alprune.labelling.accuracy import in_words
    from alprune.labelling.question_files import QUERIES, SHEET, TASKS

    again = " (repeated: no answers were read since)" if asked.again else ""
    classes = ", ".join(asked.classes[:10]) + (", ..." if len(asked.classes) > 10 else "")
    by_folder = f", {asked.in_folders:,} of them by their folders" if asked.in_folders else ""
    rows = {
        "round": f"{asked.number}{again}",
        "asked": counted(len(asked), "image", "images"),
        "labelled": f"{asked.labelled:,} of {asked.pool:,}{by_folder}",
        "classes": classes or "none yet; the first labels name them",
        **in_words(asked.learnt),
    }
    if asked.agreement is not None:
        rows["agreement"] = str(asked.agreement)
    if asked.changes.arrived:
        rows["new images"] = f"{asked.changes.arrived:,} since the last round"
    if asked.changes.gone:
        gone = counted(asked.changes.gone, "image", "images")
        rows["gone"] = f"{gone} since the last round"
    where, table = shell_word(str(path)), shell_word(str(path / QUERIES))
    if asked.stop:
        rows["stop rule"] = f"met: {asked.stop}"
    if asked.stop and not len(asked):
        lines = [f"{name:<14} {printable(str(value))}" for name, value in rows.items()]
        return "\n".join([*lines, f"To continue regardless: alprune ask {where} --regardless"])
    files = {"table": QUERIES, "images": SHEET, "Label Studio": TASKS}
    rows |= {title: str(path / name) for title, name in files.items()}
    lines = [f"{name:<14} {printable(str(value))}" for name, value in rows.items()]
    advice = f"Next: fill in the column label, save, and alprune tell {where} {table}"
    return "\n".join([*lines, advice])


def _told(path: Path, told: "Told", total: int, in_folders: int) -> str:
    by_class = ", ".join(f"{name} {count}" for name, count in sorted(told.labels.items()))
    taken = counted(sum(told.labels.values()), "label", "labels")
    rows = {"accepted": taken + (f": {by_class}" if by_class else "")}
    if told.new_classes:
        rows["new classes"] = ", ".join(told.new_classes)
    for name, count in (
        ("skipped", told.skipped),
        ("known before", told.known),
        ("replaced", told.replaced),
        ("still open", told.left),
    ):
        if count:
            rows[name] = str(count)
    if told.seconds:
        rows["second answers"] = f"{told.seconds:,}, compared with those of others, which hold"
    if told.absent:
        rows["not here"] = (
            counted(told.absent, "label", "labels") + " of images not here to learn from"
        )
    if told.guessed:
        rows["guesses"] = f"right on {told.right} of {told.guessed}"
    given = f"{total:,}, in {path / 'labels.csv'}"
    rows["labels in all"] = (
        f"{total + in_folders:,}: {given}, {in_folders:,} by folders" if in_folders else given
    )
    lines = [f"{name:<14} {printable(str(value))}" for name, value in rows.items()]
    where = shell_word(str(path))
    return "\n".join([*lines, f"Next: alprune ask {where}, or alprune predict {where} IMAGES"])
