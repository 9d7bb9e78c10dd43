"""The command line: a table of the commands, each in a module that is imported when it is used."""

import importlib
import warnings
from typing import Any

import click
import cloup

import alprune
from alprune.cli.common import ending, show_warning
from alprune.cli.options import FORMATTING

# section: {command: (module, attribute, what it does)}, in the order of use.
_COMMANDS: dict[str, dict[str, tuple[str, str, str]]] = {
    "Run active learning on labelled data": {
        "run": ("run", "run_command", "Label, train, score and acquire until the budget ends."),
        "compare": ("compare", "compare_command", "Make the runs of a grid and compare them."),
        "report": ("report", "report_command", "Write a page that compares runs."),
    },
    "Label your own images": {
        "label": ("label", "label_command", "Label images on a page in the browser."),
        "ask": ("ask", "ask_command", "Choose the next images to label, as a table."),
        "tell": ("ask", "tell_command", "Read the labels that were filled in."),
        "classes": ("classes", "classes_command", "List, rename, merge or remove classes."),
    },
    "Use a trained learner": {
        "predict": ("predict", "predict_command", "Classify images and write a table."),
        "export": ("export", "export_command", "Write a learner as an ONNX or PyTorch file."),
    },
    "Look closer": {
        "prune": ("prune", "prune_command", "Prune a learner and print what is left of it."),
        "list": ("listing", "list_command", "List methods, models, data sets and functions."),
        "watch": ("watch", "watch_command", "Follow a run of another process until it ends."),
        "bench": ("bench", "bench_command", "Measure the throughput of this machine."),
        "embed": ("embed", "embed_command", "Embed images beforehand for a frozen learner."),
        "cache": (
            "cache",
            "cache_command",
            "List or remove decoded images and embeddings.",
        ),
        "rerun": ("run", "rerun_command", "Repeat a run and compare the two."),
    },
}


class LazyGroup(cloup.Group):
    """Commands that are imported when they are used, listed by a table.

    An AlpruneError ends the program with a message and exit code 1, an interruption with 128 and
    the number of the signal.
    """

    def __init__(self, *args: Any, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self._modules: dict[str, tuple[str, str]] = {}
        for title, commands in _COMMANDS.items():
            shown = []
            for name, (module, attribute, text) in commands.items():
                self._modules[name] = (f"alprune.cli.{module}", attribute)
                shown.append(click.Command(name, short_help=text))
            self.section(title, *shown)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of a name."""
        if cmd_name not in self._modules:
            return None
        module, attribute = self._modules[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of use."""
        return list(self._modules)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the words of the command line."""
        with ending():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with ending():
            return super().invoke(ctx)


@cloup.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "formatter_settings": FORMATTING},
    epilog="`alprune COMMAND --help` explains a command.",
)
@click.version_option(alprune.__version__, prog_name="alprune")
def main() -> None:
    """Active learning under a wall-clock budget, with learners pruned before training."""
    warnings.showwarning = show_warning


__all__ = ["main"]
