"""`alprune label`."""

import json
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import click

from alprune.cli.ask import asking_options, opened
from alprune.cli.options import Command
from alprune.loop.signals import Stopped

_EXAMPLES = """\b
Start:     alprune label birds --dataset folder:photos --classes robin,wren,tit
Continue:  alprune label birds
"""


@click.command("label", cls=Command, epilog=_EXAMPLES)
@click.argument("path", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@asking_options
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Port [default: a free one]."
)
@click.option("--no-browser", is_flag=True, help="Print the address without opening a browser.")
@click.option("--json", "as_json", is_flag=True, help="Print the address as JSON.")
def label_command(
    path: Path,
    recipe: Path | None,
    classes: str | None,
    port: int,
    no_browser: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Label images on a page in the browser, while a learner trains in the background.

    DIR is a folder like that of alprune ask; both may use it in turn. Only this machine can open
    the page. Each answer is on the disk before the next image is shown: Ctrl-C, a closed browser
    or a power cut loses nothing.
    """
    from alprune.labelling.web import Server

    def ready(url: str) -> None:
        told = json.dumps({"url": url}) if as_json else f"Label here: {url}\nCtrl-C ends."
        click.echo(told)
        sys.stdout.flush()

    ended = int(signal.SIGINT)

    def end(signum: int, frame: FrameType | None) -> None:
        nonlocal ended
        ended = signum
        raise KeyboardInterrupt

    # Ctrl-C as well: a script's background job is started with that ignored.
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with opened("label", path, recipe, classes, given) as asking:
            server = Server(asking, port)
            try:
                server.run(ready, browse=not no_browser)
            finally:
                server.close()
            total = len(asking.labels)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    where = shlex.quote(str(path))
    raise Stopped(
        ended,
        f"Ended. {total} labels, in {path / 'labels.csv'}.\n"
        f"Next: alprune label {where}, or alprune predict {where} IMAGES",
    )
