"""`alprune export`."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alprune.cli.options import Command, trust_option
from alprune.errors import printable

if TYPE_CHECKING:
    from alprune.runs.export import Exported

FORMATS = {
    "onnx": "for ONNX Runtime, in any language; needs the packages onnx and onnxruntime",
    "pt2": "a program of torch.export, for PyTorch without alprune",
    "safetensors": "weights and plan, for alprune.load_learner",
}
_FORMATS = "\b\n" + "\n".join(f"{name:<12} {summary}" for name, summary in FORMATS.items())


@click.command("export", cls=Command, epilog=_FORMATS)
@click.argument("learner", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "formats",
    default="onnx",
    show_default=True,
    metavar="|".join(FORMATS),
    help="One or more formats, with commas.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file [default: learner.<format> in DIR].",
)
@click.option(
    "--check/--no-check", default=True, help="Compare its predictions with the learner's."
)
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def export_command(
    learner: Path, formats: str, out: Path | None, check: bool, as_json: bool
) -> None:
    """Write the learner of the run in DIR as a file that classifies images on its own.

    The input is images as they are stored, (n, height, width, channels) with values from 0 to 255;
    the output is probabilities, calibrated if the run used --hold-out. FILE.labels.json names the
    outputs. The run's images are not needed.

    The file is checked: if it does not predict what the learner does, it is removed and the exit
    code is 1.
    """
    from alprune.runs.export import export

    made = export(learner, formats.split(","), out, check=check)
    if as_json:
        click.echo(json.dumps([_record(one) for one in made]))
        return
    click.echo(printable("\n".join([*map(_text, made), _next(made[0])])))


def _next(made: "Exported") -> str:
    if made.format == "safetensors":
        return f"Next: alprune predict {shlex.quote(str(made.path))} IMAGES"
    return f"Next: load {made.path.name} in your program; {made.labels.name} names its outputs"


def _record(made: "Exported") -> dict[str, Any]:
    return asdict(made) | {"path": str(made.path), "labels": str(made.labels)}


def _text(made: "Exported") -> str:
    lines = [f"{made.path}: the learner of {made.state}; labels in {made.labels.name}"]
    if not made.calibrated:
        lines.append(
            "  probabilities are not calibrated: the run used no --hold-out (100 are enough)"
        )
    found = made.difference
    if found is None:
        lines.append("  not checked")
    else:
        lines.append(
            f"  checked on {found.source}: probabilities differ by at most {found.largest:.2g}, "
            f"{found.argmax} of {found.images} images get another class"
        )
    return "\n".join(lines)
