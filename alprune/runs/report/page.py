"""The page: one HTML file that needs nothing from elsewhere, and trusts no text of a run."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from alprune.errors import printable
from alprune.runs.report.cells import Cell
from alprune.runs.report.tables import Table

_TEXT = ' class="text"'


@dataclass(frozen=True)
class Shown:
    """A picture as the page takes it.

    Attributes:
        key: Of the picture, for its id.
        svg: Its SVG text, adapted to light and dark pages.
        title: What is seen.
        text: The same in words.
        note: How it was made.
        wide: Whether it takes the whole width.
    """

    key: str
    svg: str
    title: str
    text: str
    note: str
    wide: bool


@dataclass(frozen=True)
class Content:
    """What a report says, for the page and for Markdown.

    Attributes:
        title: Of the report.
        lead: What was found, in sentences.
        facts: What the runs have in common: hardware, data.
        tables: In order.
        left_out: `{run folder: why}`.
        remarks: Sentences on what is missing.
        warnings: `{run folder: its warnings}`.
    """

    title: str
    lead: Sequence[str]
    facts: Sequence[str]
    tables: Sequence[Table]
    left_out: Mapping[Path, str]
    remarks: Sequence[str]
    warnings: Mapping[Path, Sequence[str]]


def render(content: Content, pictures: Sequence[Shown]) -> str:
    """Return the page as HTML; every text is escaped, and a policy allows its own script only."""
    style, script = (_part(name) for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    body = [f"<h1>{_text(content.title)}</h1>"]
    body += [f'<p class="soft">{_text(fact)}</p>' for fact in content.facts]
    body += ['<ul class="lead">', *(f"<li>{_text(line)}</li>" for line in content.lead), "</ul>"]
    if pictures:
        body += ["<h2>Pictures</h2>", '<div class="figures">', *map(_figure, pictures), "</div>"]
    body += [f"<p>{_text(remark)}</p>" for remark in content.remarks]
    body += ["<h2>Tables</h2>", *map(_table, content.tables)]
    if content.left_out:
        body += ["<h2>Left out</h2>", "<ul>"]
        body += [_item(path, why) for path, why in content.left_out.items()]
        body += ["</ul>"]
    if content.warnings:
        body += ["<h2>Warnings that the runs gave</h2>", "<ul>"]
        body += [_item(path, w) for path, told in content.warnings.items() for w in told]
        body += ["</ul>"]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{_text(content.title)}</title>",
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            "<main>",
            *body,
            "</main>",
            f"<script>{script}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _part(name: str) -> str:
    return (files("alprune.runs.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _text(text: str) -> str:
    # Half characters, as Python reads bytes that are no UTF-8, cannot be written.
    return escape(printable(text), quote=True)


def _item(path: Path, text: str) -> str:
    return f"<li><code>{_text(str(path))}</code>: {_text(text)}</li>"


def _figure(picture: Shown) -> str:
    data = base64.b64encode(picture.svg.encode()).decode()
    # On a phone a wide picture keeps its size and is scrolled.
    kind = ' class="wide" tabindex="0"' if picture.wide else ""
    alt = _text(f"{picture.title}. {picture.text}")
    note = f" {_text(picture.note)}" if picture.note else ""
    return (
        f'<figure id="picture-{picture.key}"{kind}>'
        f'<img src="data:image/svg+xml;base64,{data}" alt="{alt}">'
        f"<figcaption>{_text(picture.text)}{note}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    texts = [
        any(isinstance(row[i].sort, str) for row in table.rows) for i in range(len(table.columns))
    ]
    heads = "".join(
        f'<th scope="col"{_TEXT if text else ""}>{_text(name)}</th>'
        for name, text in zip(table.columns, texts, strict=True)
    )
    rows = "\n".join(
        "<tr>" + "".join(_cell(cell, first=not i) for i, cell in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    caption = f"caption-{table.key}"
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{caption}">'
        f'<table id="{table.key}"><caption id="{caption}">{_text(table.caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>\n"
        f'<p class="note">{_text(table.note)}</p>'
    )


def _cell(cell: Cell, first: bool) -> str:
    sort = ""
    if cell.sort is not None:
        key = cell.sort if isinstance(cell.sort, str) else repr(float(cell.sort))
        sort = f' data-sort="{_text(key)}"'
    if first:
        return f'<th scope="row"{sort}>{_text(cell.text)}</th>'
    kind = _TEXT if isinstance(cell.sort, str) else ""
    return f"<td{kind}{sort}>{_text(cell.text)}</td>"
