"""The page: one HTML file that needs nothing from elsewhere, and trusts no text of a run."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template

from alprune.errors import printable
from alprune.runs.report.tables import Table


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
        folded: Whether a reader has to open it.
    """

    key: str
    svg: str
    title: str
    text: str
    note: str
    wide: bool
    folded: bool


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
    return _template().render(
        content=content, pictures=pictures, policy=policy, style=style, script=script
    )


def _template() -> Template:
    pages = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    # Half characters, as Python reads bytes that are no UTF-8, cannot be written.
    pages.filters["shown"] = lambda value: printable(str(value))
    pages.filters["base64"] = lambda text: base64.b64encode(text.encode()).decode()
    return pages.from_string(_part("page.html.jinja"))


def _part(name: str) -> str:
    return (files("alprune.runs.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
