"""The report as Markdown and as a table for other programs."""

import csv
import io
import re
from collections.abc import Sequence
from html import escape

from alprune.errors import printable
from alprune.loop.csv_tables import to_cell
from alprune.runs.report.figures import Picture
from alprune.runs.report.groups import Group
from alprune.runs.report.page import Content
from alprune.runs.report.runs import OFF_CLOCK, PARTS
from alprune.runs.report.statistics import area, time_to
from alprune.runs.report.tables import Findings, Table

# Brackets make links, "://" and "@" do so without any; a line may begin a list or a heading.
_MARKUP = re.compile(r"([\\`*_{}\[\]#!|~$@]|:(?=//)|^[-+=])")


def markdown(content: Content, pictures: Sequence[Picture], folder: str) -> str:
    """Return the report as Markdown; `folder` holds the pictures."""
    lines = [f"# {_text(content.title)}", ""]
    lines += [part for fact in content.facts for part in (_text(fact), "")]
    lines += [f"- {_text(line)}" for line in content.lead] + [""]
    for picture in pictures:
        alt = _text(picture.title)
        lines += [f"![{alt}]({folder}/{picture.key}.png)", ""]
        lines += [_text(" ".join(filter(None, (picture.text, picture.note)))), ""]
    lines += [part for remark in content.remarks for part in (_text(remark), "")]
    for table in content.tables:
        lines += [*_table(table), "", _text(table.note), ""]
    if content.left_out:
        lines += ["## Left out", ""]
        lines += [f"- {_text(str(path))}: {_text(why)}" for path, why in content.left_out.items()]
        lines += [""]
    if content.warnings:
        lines += ["## Warnings that the runs gave", ""]
        lines += [
            f"- {_text(str(path))}: {_text(told)}"
            for path, messages in content.warnings.items()
            for told in messages
        ]
        lines += [""]
    return "\n".join(lines)


def summary(findings: Findings) -> str:
    """Return one row a run as CSV, numbers unrounded, text safe to open in a spreadsheet."""
    options = list(findings.groups[0].options) if findings.groups else []
    levels = [f"s_to_{100 * level:.0f}" for level in findings.levels]
    header = [
        *("run", "group", "seed", "state", "reason", "elapsed_s", "steps", "labelled"),
        *("test_accuracy", "mean_accuracy", "mean_accuracy_until_s", *levels),
        *(f"{part}_s" for part in (*PARTS, *OFF_CLOCK)),
        *("macs_before", "macs_after", "params_before", "params_after", "sparsity"),
        *(f"option_{option}" for option in options),
    ]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(map(_cell, header))
    for group in findings.groups:
        for row in _rows(group, findings, options):
            writer.writerow(map(_cell, row))
    return out.getvalue()


def _rows(group: Group, findings: Findings, options: Sequence[str]) -> list[list[object]]:
    rows: list[list[object]] = []
    for run in group.runs:
        last = run.tested[-1, 2] if len(run.tested) else None
        reached = [time_to(run, level) for level in findings.levels]
        cost = run.cost
        rows.append(
            [
                *(run.path, group.name, run.seed, run.state, run.reason, run.elapsed_s),
                len(run.labelled),
                int(run.labelled[-1]) if len(run.labelled) else None,
                *(last, area(run, findings.until_s), findings.until_s),
                *(seconds if seconds < float("inf") else None for seconds in reached),
                *(run.seconds[part] for part in (*PARTS, *OFF_CLOCK)),
                *((*cost.macs, *cost.params, cost.sparsity) if cost else [None] * 5),
                *(group.options[option] for option in options),
            ]
        )
    return rows


def _cell(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return repr(float(value))
    return to_cell(printable(str(value)))


def _table(table: Table) -> list[str]:
    head = "| " + " | ".join(map(_text, table.columns)) + " |"
    rule = "| --- |" + " ---: |" * (len(table.columns) - 1)
    rows = ["| " + " | ".join(_text(cell.text) for cell in row) + " |" for row in table.rows]
    return [f"### {_text(table.caption)}", "", head, rule, *rows]


def _text(text: str) -> str:
    """Escape whatever Markdown or HTML would read as markup; plain sentences stay as they are."""
    text = " ".join(printable(text).split())
    return escape(_MARKUP.sub(r"\\\1", text), quote=False)
