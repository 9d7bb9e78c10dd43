"""`alprune export`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alprune.cli.options import Command, Duration, trust_option
from alprune.errors import ConfigError, printable, shell_word
from alprune.loop.config import given

if TYPE_CHECKING:
    from alprune.runs.export import Exported, FineTuned, FineTuneOptions, Shrunk, SmallOptions

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
    help="The file [default: learner.<format> in DIR; -small, -tuned in its name if asked for].",
)
@click.option(
    "--check/--no-check", default=True, help="Compare its predictions with the learner's."
)
@click.option(
    "--small",
    is_flag=True,
    help="Write a smaller network, taught to do the same; for learners on a frozen backbone.",
)
@click.option(
    "--fine-tune",
    is_flag=True,
    help="Let the backbone learn from the labels, too, if cross-validation finds that it helps.",
)
@click.option(
    "--flops-reduction",
    type=float,
    metavar="X",
    help="With --small: share of the FLOPs to remove [default: 0.5].",
)
@click.option(
    "--image-size",
    type=int,
    metavar="PX",
    help="With --small: side of the images that it sees [default: what leaves least to prune].",
)
@click.option(
    "--budget",
    type=Duration(),
    metavar="TIME",
    help="With --small or --fine-tune: time to learn, at most; with both, half each "
    "[default: 10m].",
)
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def export_command(
    learner: Path,
    formats: str,
    out: Path | None,
    check: bool,
    small: bool,
    fine_tune: bool,
    flops_reduction: float | None,
    image_size: int | None,
    budget: float | None,
    as_json: bool,
) -> None:
    """Write the learner of the run in DIR as a file that classifies images on its own.

    The input is images as they are stored, (n, height, width, channels) with values from 0 to 255;
    the output is probabilities, calibrated if the run used --hold-out. FILE.labels.json names the
    outputs. The run's images are not needed, except with --small and --fine-tune.

    --small lets the network see smaller images, prunes the backbone and teaches what is left to
    embed the run's images, labelled or not, as the whole one does. It prints how often both agree
    on images that were set aside, and the accuracy of both where the run has test images. An
    interrupted command resumes.

    --fine-tune trains copies of the network, backbone and head, on two thirds of the labels each,
    and compares them with frozen heads on the other third. Unless they are better, the learner
    stays as it is. Result and reason are printed and in FILE.labels.json. With --small, the small
    network is fine-tuned.

    The file is checked: if it does not predict what the learner does, it is removed and the exit
    code is 1.
    """
    from alprune.runs.export import export

    shrinking, tuning = _options(
        small, fine_tune, budget, {"flops_reduction": flops_reduction, "image_size": image_size}
    )
    names = [name.strip() for name in formats.split(",")]
    made = export(learner, names, out, check=check, small=shrinking, tune=tuning)
    if as_json:
        click.echo(json.dumps([_record(one) for one in made]))
        return
    said = [] if made[0].small is None else [_shrunk(made[0].small)]
    said += [] if made[0].tuned is None else [_tuned(made[0].tuned)]
    click.echo(printable("\n".join([*said, *map(_text, made), _next(made[0])])))


def _options(
    small: bool, fine_tune: bool, budget_s: float | None, of_small: dict[str, Any]
) -> "tuple[SmallOptions | None, FineTuneOptions | None]":
    from alprune.runs.export import FineTuneOptions, SmallOptions
    from alprune.runs.export.resumable import BUDGET_S

    asked = given(of_small)
    if asked and not small:
        flag = f"--{next(iter(asked)).replace('_', '-')}"
        raise ConfigError(f"{flag} is for --small. Add --small, or leave {flag} out.")
    if budget_s is not None and not (small or fine_tune):
        raise ConfigError(
            "--budget is for --small and --fine-tune. Add one of them, or leave --budget out."
        )
    each_s = (BUDGET_S if budget_s is None else budget_s) / max(1, small + fine_tune)
    return (
        SmallOptions(budget_s=each_s, **asked) if small else None,
        FineTuneOptions(budget_s=each_s) if fine_tune else None,
    )


def _shrunk(found: "Shrunk") -> str:
    cut = 1 - found.macs_after / found.macs_before
    lines = [
        f"small      {cut:.0%} fewer FLOPs per image: {found.macs_before / 1e6:,.1f} million "
        f"multiply-accumulates before, {found.macs_after / 1e6:,.1f} after",
        f"size       images of {found.size_after[0]} x {found.size_after[1]} pixels, of "
        f"{found.size_before[0]} x {found.size_before[1]} before",
        f"taught     on {found.images:,} images, {found.passes:g} times each",
        f"agreement  the same class for {found.agreement:.1%} of {found.compared:,} images that it "
        "was not taught on",
    ]
    if found.accuracy_before is not None and found.accuracy_after is not None:
        lines.append(
            f"accuracy   {found.accuracy_before:.1%} before, {found.accuracy_after:.1%} after, of "
            f"{found.tested:,} test images"
        )
    return "\n".join(lines)


def _tuned(found: "FineTuned") -> str:
    lines = [f"chosen     {found.chosen}: {found.reason}"]
    if found.trained < 1:
        lines.append("Next: a larger --budget, which lets the networks learn to the end")
    if found.passes and found.accuracy_before is not None and found.accuracy_after is not None:
        lines.append(
            f"accuracy   {found.accuracy_before:.1%} before, {found.accuracy_after:.1%} after "
            f"fine-tuning, of {found.tested:,} {found.tested_on}"
        )
    return "\n".join(lines)


def _next(made: "Exported") -> str:
    if made.format == "safetensors":
        return f"Next: alprune predict {shell_word(str(made.path))} IMAGES"
    return f"Next: load {made.path.name} in your program; {made.labels.name} names its outputs"


def _record(made: "Exported") -> dict[str, Any]:
    return asdict(made) | {"path": str(made.path), "labels": str(made.labels)}


def _text(made: "Exported") -> str:
    lines = [f"{made.path}: the learner of {made.state}; labels in {made.labels.name}"]
    if not made.calibrated:
        lines.append(
            "  probabilities are not calibrated, which takes labels of --hold-out (100 are enough)"
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
