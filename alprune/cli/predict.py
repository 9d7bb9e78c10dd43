"""`alprune predict`."""

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from alprune.cli.options import METAVARS, Command, trust_option
from alprune.errors import counted, printable, shell_word
from alprune.loop.signals import Stopped
from alprune.loop.trust import trusted

if TYPE_CHECKING:
    from alprune.runs.predict import Tally

_EXAMPLES = """\b
A folder of photos:        alprune predict outputs/photos photos/new
After Ctrl-C or a reboot:  alprune predict outputs/photos photos/new --resume
Into another program:      alprune predict outputs/photos one.jpg --out -
"""


@click.command("predict", cls=Command, epilog=_EXAMPLES)
@click.argument("learner", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("images", metavar="IMAGES...", nargs=-1, required=True)
@click.option(
    "--out",
    default="predictions.csv",
    show_default=True,
    metavar="FILE",
    help="The table; - writes it to standard output.",
)
@click.option("--all", "every", is_flag=True, help="Add a column for each class's probability.")
@click.option("--resume", is_flag=True, help="Continue a table that was interrupted.")
@click.option(
    "--follow-links", is_flag=True, help="Read images behind links that leave the folder."
)
@click.option("--device", default="auto", show_default=True, metavar=METAVARS["device"])
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def predict_command(
    learner: Path,
    images: tuple[str, ...],
    out: str,
    every: bool,
    resume: bool,
    follow_links: bool,
    device: str,
    as_json: bool,
) -> None:
    """Classify images with the learner of the run in DIR, and write a table of them.

    IMAGES are folders (or folder:PATH), image files, npz:PATH with an array x, or csv:, parquet:,
    hf: and shards: as for --dataset. DIR may also be a file made by alprune export --format
    safetensors. The run's own images are not needed. Images that the run has decoded or embedded
    are not decoded or embedded again.

    One row per image: path, class, its probability (from the network), its confidence (calibrated;
    empty unless the run used --hold-out), the entropy in nats, the label if the image is in a
    folder with the name of a class, and the error if it could not be read.
    """
    from tqdm import tqdm

    from alprune.runs.load import find_learner
    from alprune.runs.predict import kept_embeddings, open_source, write_file, write_stream
    from alprune.training.device import pick_device

    if out == "-" and (as_json or resume):
        raise click.UsageError(
            "--out - prints the table: leave --json and --resume out, or name a file."
        )
    found = find_learner(learner)
    found.warn()
    classifier, kept = found.classifier, kept_embeddings(found)
    cache = found.config.cache if found.config else None
    source = open_source(images, classifier.inputs, follow_links, cache)
    if not source.is_described:
        click.echo(printable(source.described()), err=True)
    place = pick_device(device)
    if out == "-":
        write_stream(classifier, source, sys.stdout.buffer, place, every, kept)
        return
    begin = time.monotonic()
    bar = tqdm(total=source.total, desc="classifying", unit="img", disable=None)
    done = 0  # the bar counts nothing where it is not shown

    def tick(tally: "Tally") -> None:
        nonlocal done
        if not done:
            bar.initial = tally.images  # of a resumed table, so that the rate is right
        bar.update(tally.images - done)
        done = tally.images

    with _terminated(), bar:
        try:
            tally = write_file(classifier, source, Path(out), place, every, resume, tick, kept)
        except KeyboardInterrupt as interrupt:
            bar.close()
            again = _again(learner, images, out, every, follow_links)
            raise Stopped(
                getattr(interrupt, "signum", signal.SIGINT),
                f"Interrupted after {done:,} of {source.total:,} images. To resume: {again}",
            ) from None
    seconds = time.monotonic() - begin
    record = _record(tally, classifier.temperature, out, seconds)
    click.echo(json.dumps(record) if as_json else _text(record))


@contextmanager
def _terminated() -> Iterator[None]:
    """Let SIGTERM end the work as Ctrl-C does."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum, "")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _again(learner: Path, images: tuple[str, ...], out: str, every: bool, links: bool) -> str:
    words = ["alprune", "predict", str(learner), *images, "--out", out, "--resume"]
    words += ["--all"] * every + ["--follow-links"] * links
    words += ["--trust-code"] * trusted()
    return " ".join(map(shell_word, words))


def _record(tally: "Tally", temperature: float | None, out: str, seconds: float) -> dict[str, Any]:
    return {
        "out": out,
        "images": tally.images,
        "errors": tally.errors,
        "classes": tally.classes,
        "temperature": temperature,
        "labelled": tally.labelled,
        "accuracy": tally.accuracy,
        "seconds": round(seconds, 3),
    }


def _text(record: dict[str, Any]) -> str:
    most = sorted(record["classes"].items(), key=lambda item: -item[1])
    named = ", ".join(f"{name} {count:,}" for name, count in most[:8] if count)
    rest = sum(count for _, count in most[8:])
    rows = {"images": f"{record['images']:,} in {record['seconds']:.1f} s"}
    if record["errors"]:
        rows["unreadable"] = f"{record['errors']:,}, see the column error"
    rows["classes"] = (named or "none") + (f", others {rest:,}" if rest else "")
    if record["accuracy"] is not None:
        count = counted(record["labelled"], "image", "images") + " whose label is known"
        rows["accuracy"] = f"{record['accuracy']:.2%} of {count}"
    rows["confidence"] = (
        "not calibrated, which takes labels of images that --hold-out draws (100 are enough)"
        if record["temperature"] is None
        else f"calibrated (temperature {record['temperature']:.3g})"
    )
    rows["table"] = record["out"]
    lines = [f"{name:<12} {value}" for name, value in rows.items()]
    lines.append("Next: open the table; sorted by confidence, or entropy, the doubtful come first")
    return printable("\n".join(lines))
