"""Put a report together and write it."""

import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path

from alprune.data import atomic_io
from alprune.errors import AlpruneError, StoreError, counted
from alprune.runs.report import contact_sheet as contact
from alprune.runs.report import sentences as words
from alprune.runs.report.figures import (
    LAYERS_MOST,
    ON_DARK,
    Picture,
    accuracy_curves,
    cost_points,
    label_curves,
    time_bars,
    width_steps,
)
from alprune.runs.report.groups import Group, baseline_of, group_runs, option_text
from alprune.runs.report.labelled import journals, labelled_tables, labelled_text
from alprune.runs.report.markdown import markdown, summary
from alprune.runs.report.page import Content, Shown, render
from alprune.runs.report.runs import Run, find_runs
from alprune.runs.report.statistics import GAP
from alprune.runs.report.tables import Findings, tables

PAGE = "report.html"
_PICTURES = "pictures"
_DRAWN = 10  # groups in a picture at most
_SHEETS = 3  # contact sheets at most, of 120 images each
# What decides which images a run has, beside where they are.
_OF_DATA = ("dataset", "model", "image_size", "skip_unreadable", "follow_links", "imbalance")
_WARNINGS = 10  # of a run that are shown


def write_report(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    baseline: str | None = None,
    images: bool = True,
) -> Path:
    """Compare runs: a page, Markdown, a CSV file and pictures.

    Args:
        paths: Run folders, or folders of run folders. Unfinished runs are shown as far as they
            came; damaged ones are named and left out.
        out: Folder for `report.html`, `report.md`, `summary.csv` and `pictures/`; made if
            missing. It replaces an earlier report in it, but for pictures that only that one had.
        baseline: Name of the group that the others are compared with; None: the dense learner's.
        images: Whether to load the data set and show what was acquired.

    Returns:
        The page.

    Raises:
        StoreError: None of the runs is readable, or `out` cannot be written.
        ConfigError: There is no group with the baseline's name.
    """
    out = Path(out)
    runs, left_out = find_runs(paths)
    people, damaged = journals(runs)
    left_out |= damaged
    runs = [run for run in runs if run.path not in damaged]
    if not runs:
        told = "; ".join(f"{path}: {why}" for path, why in list(left_out.items())[:3])
        raise StoreError(f"there is no run to report on. {told or 'No folder was given.'}")
    groups = group_runs([run for run in runs if run not in people])
    findings = Findings.of(groups, baseline_of(groups, baseline) if groups else {})
    pictures = _pictures(findings) if groups else []
    remarks = []
    if len(groups) > _DRAWN:
        remarks.append(
            f"Of {len(groups)} groups the pictures show the {_DRAWN} with the highest final "
            "accuracy, baselines first; the tables show all."
        )
    again = sum(len(group.runs) - len(group.seeds) for group in groups)
    if again:
        remarks.append(
            counted(again, "run has", "runs have")
            + " the options and the seed of another one. Means, and all that is said of seeds, "
            "are of the first run of each seed that has ended, by the names of the folders."
        )
    remarks += _of_other_data([run for group in groups for run in group.runs])
    if images and groups:
        sheets, missing = _sheets(groups)
        pictures, remarks = pictures + sheets, remarks + missing
    content = Content(
        title=_title(groups, people),
        lead=[*labelled_text(people), *words.headline(findings)],
        facts=_facts([*(run for group in groups for run in group.runs), *people]),
        tables=[*labelled_tables(people), *(tables(findings) if groups else [])],
        left_out=left_out,
        remarks=remarks,
        warnings={run.path: _cut(run.warnings) for run in runs if run.warnings},
    )
    try:
        (out / _PICTURES).mkdir(parents=True, exist_ok=True)
        shown = [_drawn(picture, out / _PICTURES) for picture in pictures]
        atomic_io.replace(out / "report.md", markdown(content, pictures, _PICTURES).encode())
        atomic_io.replace(out / "summary.csv", summary(findings).encode())
        atomic_io.replace(out / PAGE, render(content, shown).encode())
    except OSError as error:
        raise StoreError(f"cannot write a report to {out}: {error}.") from error
    return out / PAGE


def _cut(told: Sequence[str]) -> list[str]:
    """Return the first warnings, and how many more there are."""
    more = len(told) - _WARNINGS
    return [*told[:_WARNINGS], *[f"... and {more} more; events.jsonl has all."] * (more > 0)]


def _pictures(findings: Findings) -> list[Picture]:
    groups = _drawn_groups(findings)
    findings = replace(findings, groups=tuple(groups))
    bands = (
        "Bold: the mean; band: one standard deviation over seeds; thin: single runs. Lines join "
        f"tests that follow on each other or are at most {GAP:.0%} of a run apart; where the mean "
        "is known at the end only, it is a point with its deviation."
    )
    said = words.curve_text(findings)
    by_time, by_labels = accuracy_curves(groups), accuracy_curves(groups, by_labels=True)
    pictures = [
        Picture("accuracy-time", "Test accuracy against time", said, by_time, bands),
        Picture("accuracy-labels", "Test accuracy against labelled points", said, by_labels),
        Picture(
            "labels-time",
            "Labelled points against time",
            words.labels_text(findings),
            label_curves(groups),
        ),
    ]
    if any(run.cost and run.final is not None for group in groups for run in group.ended):
        said = words.cost_text(findings)
        note = "Bars are one standard deviation; small marks are single runs."
        title = "Final accuracy against FLOPs left"
        pictures.append(Picture("accuracy-flops", title, said, cost_points(groups), note))
    if any(run.elapsed_s > 0 for group in groups for run in group.sound):
        said = words.time_text(findings)
        title = "Where the time went"
        note = "Means over runs. Dashed: testing and saving, which are not on the clock."
        pictures.append(Picture("time", title, said, time_bars(groups), note))
    return pictures + _width_pictures(groups)


def _drawn_groups(findings: Findings) -> list[Group]:
    """Return the groups that pictures show, in their order."""
    bases = {base.name for base in findings.baselines.values()}

    def rank(group: Group) -> tuple[bool, float]:
        final = [run.final for run in group.ended if run.final is not None]
        return group.name not in bases, -sum(final) / len(final) if final else 0.0

    chosen = {group.name for group in sorted(findings.groups, key=rank)[:_DRAWN]}
    return [group for group in findings.groups if group.name in chosen]


def _width_pictures(groups: Sequence[Group]) -> list[Picture]:
    """Draw one picture for all groups whose learners have the same layers."""
    alike: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        if group.runs[0].widths:
            alike.setdefault(tuple(group.runs[0].widths), []).append(group)
    pictures = []
    for number, same in enumerate(alike.values()):
        numbers = [groups.index(group) for group in same]
        key = "widths" if number == 0 else f"widths-{number + 1}"
        note = "Marks are means over seeds; upright bars go from the fewest to the most."
        if (layers := len(same[0].runs[0].widths)) > LAYERS_MOST:
            note += f" The first {LAYERS_MOST:,} of {layers:,} layers."
        figure = width_steps(same, numbers)
        text = words.width_text(same)
        title = "Channels of each layer before and after pruning"
        pictures.append(Picture(key, title, text, figure, note, wide=True))
    return pictures


def _sheets(groups: Sequence[Group]) -> tuple[list[Picture], list[str]]:
    pictures: list[Picture] = []
    remarks: list[str] = []
    for same in contact.of_same_data(groups, _SHEETS):
        try:
            train = contact.load_pool(same[0].sound[0])
        except AlpruneError as error:
            remarks.append(contact.why_not(error))
            continue
        for group in same:
            drawn = contact.sheet(group, train)
            if drawn is not None:
                title = f"Images acquired by {group.name}"
                key = f"images-{groups.index(group) + 1}"
                pictures.append(Picture(key, title, drawn[1], drawn[0], wide=True, folded=True))
    if len(groups) > _SHEETS:
        remarks.append(f"Acquired images are shown of the first {_SHEETS} groups only.")
    return pictures, remarks


def _drawn(picture: Picture, folder: Path) -> Shown:
    """Write a picture as PNG and SVG, and return it for the page."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        png, svg = BytesIO(), StringIO()
        picture.figure.savefig(png, format="png", dpi=160)
        picture.figure.set_layout_engine("none")  # all has its place by now
        picture.figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    atomic_io.replace(folder / f"{picture.key}.png", png.getvalue())
    text = svg.getvalue()
    drawing = text[text.index("<svg ") :]
    opening, _, rest = drawing.partition(">")
    white = f'{opening}><rect width="100%" height="100%" fill="#ffffff"/>{rest}'
    atomic_io.replace(folder / f"{picture.key}.svg", white.encode())
    adapted = _adapted(opening, rest)
    return Shown(
        picture.key,
        adapted,
        picture.title,
        picture.text,
        picture.note,
        wide=picture.wide,
        folded=picture.folded,
    )


def _adapted(opening: str, rest: str) -> str:
    """Let an SVG's colours follow the page, light or dark."""
    light = dark = ""
    for number, (colour, other) in enumerate(ON_DARK.items()):
        rest = rest.replace(colour, f"var(--c{number})")
        light += f"--c{number}:{colour};"
        dark += f"--c{number}:{other};"
    style = f"svg{{color-scheme:light dark;{light}}}"
    style += f"@media (prefers-color-scheme:dark){{svg{{{dark}}}}}"
    return f"{opening}><style>{style}</style>{rest}"


def _title(groups: Sequence[Group], people: Collection[Run]) -> str:
    if not groups:
        return f"Labelling: {', '.join(run.path.name for run in people)}"
    runs = sum(len(group.runs) for group in groups)
    number = f"{runs} run" + "s" * (runs > 1)
    if len(groups) <= 4:
        return f"{', '.join(group.name for group in groups)}: {number}"
    return f"{len(groups)} groups, {number}"


def _of_other_data(runs: Sequence[Run]) -> list[str]:
    """Name the data sets that changed from one run to another with the same options of data."""
    digests: dict[tuple[str, ...], set[str]] = {}
    for run in runs:
        thinned = run.seed if run.config["imbalance"] != 1 else None  # each seed by itself
        key = (*(str(run.config[option]) for option in _OF_DATA), str(thinned))
        digests.setdefault(key, set()).update({run.digest} - {""})
    changed = {key[0] for key, found in digests.items() if len(found) > 1}
    return [
        f"The data of {option_text(name)} were not the same in all of its runs, or recorded by "
        "different versions: data_digest in their events.jsonl differs. Means and comparisons mix "
        "them."
        for name in sorted(changed)
    ]


def _facts(runs: Sequence[Run]) -> list[str]:
    """Say what was learnt, how long and on what, if it is the same for all."""
    told = []
    for option, form in (("dataset", "Data set {}"), ("model", "learner {}")):
        found = {str(run.config[option]) for run in runs}
        if len(found) == 1:
            told.append(form.format(found.pop()))
    where = sorted({run.facts for run in runs if run.facts})
    computed = [f"Computed on {where[0]}."] if len(where) == 1 else []
    if len(where) > 1:
        computed = ["The runs were computed on different machines or versions: compare their "
                    "times with care.", *where[:5]]  # fmt: skip
    return ([", ".join(told) + "."] if told else []) + computed
