"""The files in which a round of questions is handed out: a table, a contact sheet, tasks."""

import base64
import contextlib
import io
import json
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from PIL import Image, ImageDraw, ImageFont

from alprune.data.image_cache.decode import Decoder
from alprune.data.mosaic import mosaic
from alprune.errors import DataError, printable, shell_word
from alprune.labelling.journal import Answer, Query
from alprune.labelling.opinions import Opinions
from alprune.labelling.pictures import Pictures
from alprune.labelling.read_answers import Given, read_answers
from alprune.loop import csv_tables
from alprune.loop.csv_tables import from_cell, to_cell
from alprune.loop.run_folder import RunFolder

QUERIES = "queries.csv"
SHEET = "queries.png"
TASKS = "label-studio.json"
INTERFACE = "label-studio.xml"
LABELS = "labels.csv"
DISAGREEMENTS = "disagreements.csv"
_IN_TASK = 512  # pixels a side, at most, of an image within a task
_TILE = 160  # pixels of a picture in the contact sheet
_GAP = 8  # pixels between pictures
_CAPTION = 18
_ACROSS = 8
_BOM = b"\xef\xbb\xbf"  # without it spreadsheets take UTF-8 for something else


def write_round(
    folder: RunFolder,
    queries: Sequence[Query],
    classes: Sequence[str],
    pictures: Pictures,
    says_more: Callable[[Sequence[Given]], bool],
) -> None:
    """Write a round's sheet, tasks and, last, its table.

    A queries.csv with answers that were not taken yet is kept, as queries-before-1.csv and so
    on.

    Args:
        folder: Takes the files.
        queries: Of this round.
        classes: Names that may be given.
        pictures: Shows the images.
        says_more: Tells whether some of these answers are not known.
    """
    folder.write(SHEET, contact_sheet(pictures, queries))
    write_tasks(folder, queries, classes, pictures)
    _keep_edited(folder, QUERIES, says_more)
    folder.write(QUERIES, table(queries))


def is_written(path: Path, queries: Sequence[Query]) -> bool:
    """Tell whether a folder's queries.csv is about these queries, filled in or not."""
    try:
        there = {entry.path for entry in read_answers(path / QUERIES)}
    except DataError:
        return False
    return there == {to_cell(query.path) for query in queries}


def write_labels(
    folder: RunFolder, answers: Sequence[Answer], ever: Container[tuple[str, str | None]]
) -> None:
    """Write labels.csv; one that was edited by hand is kept, with a warning.

    Args:
        folder: Takes the file.
        answers: What was answered.
        ever: `(path, label)` of every answer, also of those that were replaced.
    """
    path, content = folder.path / LABELS, labels_table(answers)
    if path.is_file() and path.read_bytes() == content:
        return
    kept = _keep_edited(folder, LABELS, lambda given: not all(_is_known(g, ever) for g in given))
    if kept is not None:
        warnings.warn(
            f"{path} was edited: it has labels that were never answered. It is kept as "
            f"{kept.name}, and written again from the record. To take its labels: alprune tell "
            f"{shell_word(str(folder.path))} {shell_word(str(kept))} --replace",
            stacklevel=3,
        )
    folder.write(LABELS, content)


def _is_known(given: Given, ever: Container[tuple[str, str | None]]) -> bool:
    paths = {given.path, from_cell(given.path)}
    return not given.label or any((p, label) in ever for p in paths for label in given.labels)


def _keep_edited(
    folder: RunFolder, name: str, says_more: Callable[[Sequence[Given]], bool]
) -> Path | None:
    """Keep a table that says more than is known under another name, and return that."""
    path = folder.path / name
    if not path.is_file():
        return None
    content = path.read_bytes()
    with contextlib.suppress(DataError):
        if not says_more(read_answers(path)):
            return None
    number = 1
    while (kept := path.with_name(f"{path.stem}-before-{number}.csv")).exists():
        number += 1
    folder.write(kept.name, content)
    return kept


def table(queries: Sequence[Query]) -> bytes:
    """Return queries.csv: its column `label` is to be filled in."""
    rows = [
        (q.path, "", q.guess or "", _digits(q.probability), _digits(q.entropy))
        if q.why != "random"  # accuracy is measured on these, and people agree with what they see
        else (q.path, "", "", "", "")
        for q in queries
    ]
    return _csv([("path", "label", "predicted", "probability", "entropy"), *rows])


def labels_table(answers: Sequence[Answer]) -> bytes:
    """Return labels.csv: the labels, by path, without skips."""
    told = sorted((a for a in answers if a.label is not None), key=lambda answer: answer.path)
    rows = [(a.path, a.label, a.round, "yes" if a.held else "", a.content, a.user) for a in told]
    return _csv([("path", "label", "round", "held_out", "content", "user"), *rows])


def disagreements_table(answers: Mapping[str, Answer], opinions: Opinions) -> bytes:
    """Return disagreements.csv: what two people answered differently, settled or not."""
    rows = []
    for content, given in opinions.disagreements():
        if (answer := answers.get(content)) is not None:
            said = "; ".join(f"{who}: {_label(label)}" for who, label in given.items())
            settled = "" if content in opinions.unsettled else "yes"
            rows.append((answer.path, _label(answer.label), said, settled))
    return _csv([("path", "label", "answers", "settled"), *sorted(rows)])


def _label(label: str | None) -> str:
    return "skip" if label is None else label


def _csv(rows: Sequence[tuple[Any, ...]]) -> bytes:
    return _BOM + csv_tables.table(rows)


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def write_tasks(
    folder: RunFolder, queries: Sequence[Query], classes: Sequence[str], pictures: Pictures
) -> None:
    """Write what Label Studio imports: tasks, and the interface to paste into the project.

    The tasks name images as Label Studio serves them from local storage whose document root is
    the folder of images; images without files of their own are in the tasks. Guesses are left
    out: people agree with what they see too often.
    """
    decode = Decoder((_IN_TASK, _IN_TASK), threads=1, proportions=True)

    def address(query: Query) -> str:
        if pictures.are_files:
            return f"/data/local-files/?d={quote(query.path)}"
        try:
            image = pictures.show(query.path, decode, query.content)
        except DataError:
            return ""
        content = io.BytesIO()
        image.save(content, "PNG" if max(image.size) <= _TILE else "JPEG")
        kind = "png" if max(image.size) <= _TILE else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"

    tasks = [{"data": {"image": address(q), "path": q.path}} for q in queries]
    folder.write(TASKS, json.dumps(tasks, indent=1, ensure_ascii=False) + "\n")
    folder.write(INTERFACE, interface(classes))


def interface(classes: Sequence[str]) -> str:
    """Return the labelling interface of a Label Studio project, with a choice for each class."""
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in [*classes, "skip"])
    return (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <Choices name="label" toName="image" choice="single" showInLine="true">\n{choices}'
        "  </Choices>\n</View>\n"
    )


def contact_sheet(pictures: Pictures, queries: Sequence[Query]) -> bytes:
    """Return a PNG of a round's images, numbered as the rows of queries.csv, with file names.

    An image that cannot be read any more leaves its place empty.
    """
    decode = Decoder((_TILE, _TILE), threads=1, proportions=True)
    across = min(_ACROSS, max(1, len(queries)))
    tiles: list[Image.Image | None] = [_tile(decode, pictures, query) for query in queries]
    tiles += [None] * (-len(tiles) % across or across * (not tiles))
    rows = [tiles[begin : begin + across] for begin in range(0, len(tiles), across)]
    laid_out = mosaic(rows, (_TILE, _TILE), _GAP, _CAPTION)
    sheet = Image.new("RGB", laid_out.size, "white")
    sheet.paste(laid_out, mask=laid_out)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for place, query in enumerate(queries):
        left = place % across * (_TILE + _GAP) + _GAP // 2
        top = place // across * (_TILE + _GAP + _CAPTION) + _GAP // 2
        name = printable(query.path.rpartition("/")[2])
        caption = f"{place + 1}  {name if len(name) <= 20 else '...' + name[-17:]}"
        caption = caption.encode("ascii", "replace").decode()  # what the font has
        draw.text((left, top + _TILE + 2), caption, fill="black", font=font)
    content = io.BytesIO()
    sheet.save(content, "PNG")
    return content.getvalue()


def _tile(decode: Decoder, pictures: Pictures, query: Query) -> Image.Image:
    try:
        tile = pictures.show(query.path, decode, query.content)
    except DataError:
        return Image.new("RGB", (_TILE, _TILE), "lightgrey")
    tile.thumbnail((_TILE, _TILE))
    scale = _TILE // max(tile.size)
    if scale > 1:  # crisp, not blurred
        tile = tile.resize((tile.width * scale, tile.height * scale), Image.Resampling.NEAREST)
    return tile
