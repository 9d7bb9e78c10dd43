"""`alprune embed`."""

import json
from pathlib import Path
from typing import Any

import click

from alprune.cli.common import config_of
from alprune.cli.compare import ENGINES, resource_options, resources_of
from alprune.cli.options import Command, run_options
from alprune.errors import counted

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
On a cluster:       alprune embed --dataset folder:photos --engine slurm --jobs 8
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
                f"{value!r} is not a share; expected I/N with 1 <= I <= N, such as 1/4.", param, ctx
            )
        return int(part) - 1, int(parts)


@click.command("embed", cls=Command, epilog=_EXAMPLES)
@run_options(_NAMES, _HELPS)
@click.option("--jobs", type=int, metavar="N", help="Shares that are embedded at a time.")
@click.option(
    "--engine",
    metavar="NAME",
    help=f"What embeds the shares of --jobs: {', '.join(ENGINES)} [default: processes].",
)
@resource_options
@click.option("--share", type=_Share(), default=(0, 1), help="Embed one of N equal parts.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def embed_command(
    recipe: Path | None,
    jobs: int | None,
    engine: str | None,
    cpus_per_run: int | None,
    gpus_per_run: int | None,
    engine_options: tuple[str, ...],
    share: tuple[int, int],
    as_json: bool,
    **options: Any,
) -> None:
    """Embed the images of a data set beforehand, for runs and labelling with --learner frozen.

    Each image is embedded once and kept with the decoded images; what is known is not computed
    again, and an interrupted command resumes where it stopped. Several processes may embed the
    same images at once, on several machines where they share the folder --cache; --share divides
    the images among them in advance, and --jobs N has N shares embedded by processes of this
    machine, by Ray or by Slurm. A share that is killed is resumed.
    """
    from alprune.loop.embed import embed
    from alprune.runs.embed_shares import embed_in_shares

    config = config_of(recipe, options | {"learner": "frozen"})
    resources = resources_of(engine, cpus_per_run, gpus_per_run, engine_options)
    if jobs is None and engine is None:
        done = embed(config, share)
    else:
        if share != (0, 1):
            raise click.UsageError("give either --share, or --jobs and --engine.")
        done = embed_in_shares(config, 1 if jobs is None else jobs, engine or ENGINES[0], resources)
    if as_json:
        click.echo(json.dumps(done.record()))
    else:
        click.echo(
            f"embedded   {counted(done.embedded, 'image', 'images')} now, {done.known:,} of "
            f"{done.images:,} in all"
        )
        click.echo(f"kept in    {done.folder}")
