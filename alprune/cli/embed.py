"""`alprune embed`."""

import json
from pathlib import Path
from typing import Any

import click

from alprune.cli.common import config_of
from alprune.cli.options import Command, run_options

_NAMES = (
    "dataset data_root skip_unreadable follow_links cache model pretrained image_size device seed"
).split()
_HELPS = {
    "model": "The network: a name from `alprune list`, torchvision:NAME or timm:NAME "
    "[default: the one whose weights come with alprune].",
    "pretrained": "Its weights: imagenet, or a file of tensors [default: imagenet].",
}
_EXAMPLES = """\b
All of a folder:    alprune embed --dataset folder:photos
A quarter of it:    alprune embed --dataset folder:photos --share 1/4
"""


class _Share(click.ParamType):
    """`i/n`: the i-th of n parts, i from 1."""

    name = "I/N"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Return `(i - 1, n)`."""
        if isinstance(value, tuple):
            return value
        part, _, parts = str(value).partition("/")
        if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
            self.fail(
                f"{value!r} is no share; expected I/N with 1 <= I <= N, such as 1/4.", param, ctx
            )
        return int(part) - 1, int(parts)


@click.command("embed", cls=Command, epilog=_EXAMPLES)
@run_options(_NAMES, _HELPS)
@click.option("--share", type=_Share(), default=(0, 1), help="Embed one of N equal parts.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def embed_command(
    recipe: Path | None, share: tuple[int, int], as_json: bool, **options: Any
) -> None:
    """Embed the images of a data set beforehand, for runs and labelling with --learner frozen.

    Each image is embedded once and kept with the decoded images; what is known is not computed
    again, and an interrupted command resumes where it stopped. Several processes may embed the
    same images at once, on several machines where they share the folder --cache; --share divides
    the images among them in advance.
    """
    from alprune.loop.embed import embed

    done = embed(config_of(recipe, options | {"learner": "frozen"}), share)
    if as_json:
        click.echo(json.dumps(done.record()))
    else:
        click.echo(
            f"embedded   {done.embedded:,} images now, {done.known:,} of {done.images:,} in all"
        )
        click.echo(f"kept in    {done.folder}")
