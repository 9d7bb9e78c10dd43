"""`alprune label`."""

import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import click

from alprune.cli.ask import asking_options, opened
from alprune.cli.common import fine_tuning_hint
from alprune.cli.options import Command
from alprune.errors import ConfigError, counted, shell_word
from alprune.loop.signals import Stopped

_EXAMPLES = """\b
Start:     alprune label birds --dataset folder:photos --classes robin,wren,tit
Continue:  alprune label birds
Together:  alprune label birds --host 0.0.0.0 --port 8000 --user anna
"""
_OPEN_TO_OTHERS = (
    "Phones and colleagues in this network open the same address. It lets in everybody who knows "
    "it, and the connection is not encrypted: others in the network can read it. In a network "
    "that you do not trust, put a proxy with TLS in front (recipes/labelling/README.md says how)."
)
_LABEL_STUDIO = """\
Label Studio: make a project with the interface {path}/label-studio.xml, import
{path}/label-studio-all.json, and connect a model called alprune (Settings, Model):
{url}
"""


class _Port(click.IntRange):
    """A port, or DIR where the user left the port out before it."""

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Return the number."""
        try:
            int(value)
        except ValueError:
            self.fail(f"{value!r} is not a port. Give DIR first: alprune label DIR --label-studio.")
        return int(super().convert(value, param, ctx))


@click.command("label", cls=Command, epilog=_EXAMPLES)
@click.argument("path", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@asking_options
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Port [default: a free one]."
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 lets phones and colleagues in.",
)
@click.option(
    "--origin",
    "origins",
    multiple=True,
    metavar="URL",
    help="Address of the page behind a proxy, as in https://labels.example.org.",
)
@click.option("--user", default="", metavar="NAME", help="Your name, recorded with your answers.")
@click.option(
    "--overlap",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="Share of the images that go to two people, whose agreement is reported [default: as "
    "last time; 0 at first].",
)
@click.option(
    "--label-studio",
    is_flag=False,
    flag_value=9090,
    type=_Port(0, 65535),
    metavar="[PORT]",
    help="Also sort and fill in the tasks of Label Studio, as its model on this port [9090].",
)
@click.option("--no-browser", is_flag=True, help="Print the address without opening a browser.")
@click.option("--json", "as_json", is_flag=True, help="Print the address as JSON.")
def label_command(
    path: Path,
    recipe: Path | None,
    classes: str | None,
    port: int,
    host: str,
    origins: tuple[str, ...],
    user: str,
    overlap: float | None,
    label_studio: int | None,
    no_browser: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Label images on a page in the browser, while a learner trains in the background.

    DIR is a folder like that of alprune ask; both may use it in turn. Without --host, only you,
    on this machine, can open the page. Each answer is sent and saved at once, while the next
    image shows: a closed browser loses nothing; Ctrl-C or a power cut, at most the answers that
    were being sent.
    """
    from alprune.labelling.web import Server
    from alprune.labelling.web.access import is_loopback

    def ready(url: str, server: "Server") -> None:
        said = f"Label here: {url}\n" + f"{_OPEN_TO_OTHERS}\n" * server.shared
        record = {"url": url}
        if server.label_studio:
            said += _LABEL_STUDIO.format(path=path, url=server.label_studio)
            record["label_studio"] = server.label_studio
        click.echo(json.dumps(record) if as_json else f"{said}Press Ctrl-C to stop.")
        sys.stdout.flush()

    ended = int(signal.SIGINT)

    def end(signum: int, frame: FrameType | None) -> None:
        nonlocal ended
        if ended == signum == signal.SIGTERM:
            return  # the same wish again
        ended = signum
        raise Stopped(signum, "Interrupted.")

    # Ctrl-C as well: a script's background job is started with that ignored.
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with opened("label", path, recipe, classes, given) as asking:
            if overlap is not None:
                named = user or origins or not is_loopback(host) or label_studio is not None
                if overlap and not named:
                    raise ConfigError(
                        "--overlap compares people, and nobody has a name here. Add --user NAME, "
                        "or --host to let others in, who give theirs."
                    )
                asking.set_overlap(overlap)
            server = Server(asking, port, host, origins, user, label_studio)
            try:
                server.run(lambda url: ready(url, server), browse=not no_browser)
            finally:
                server.close()
            total, agreement = len(asking.labels), asking.journal.opinions.agreement()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    where = shell_word(str(path))
    agreed = f"Agreement: {agreement}.\n" if agreement else ""
    raise Stopped(
        ended,
        f"Ended. {counted(total, 'label', 'labels')}, in {path / 'labels.csv'}.\n{agreed}"
        f"Next: alprune label {where}, or alprune predict {where} IMAGES"
        + fine_tuning_hint(where, total, asking.config.learner),
    )
