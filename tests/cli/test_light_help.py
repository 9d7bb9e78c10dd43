"""Help, version and completion import nothing that computes, and show the names that are known."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from alprune.cli import main
from alprune.cli.compare import ENGINES
from alprune.cli.export import FORMATS
from alprune.loop.option import CHOICES
from alprune.pruning import AFTER_PRUNING
from alprune.pruning.criteria.base import SCORE_MODES
from alprune.pruning.graph.tracing import NORMALISED
from alprune.runs import compare, export
from alprune.training import SCHEDULES
from alprune.training.device import DEVICES, PRECISIONS

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "numpy", "PIL", "matplotlib", "sklearn", "flask")
ASKED = """
import json, sys
from click.testing import CliRunner
from alprune.cli import main
asked = {"--version": 0, "--help": 0, "nonsense": 2, "run --nonsense": 2}
asked |= {f"{name} --help": 0 for name in main.list_commands(None)}
asked |= {"cache list --help": 0, "cache remove --help": 0, "run --help-all": 0}
found = {}
for words, code in asked.items():
    done = CliRunner().invoke(main, words.split())
    assert done.exit_code == code, (words, done.output)
    found[words] = [name for name in HEAVY if name in sys.modules]
print(json.dumps(found))
"""


def in_a_process(program, **environment):
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert not done.stderr, done.stderr
    return done.stdout


def test_help_of_every_command_imports_nothing_heavy():
    found = json.loads(in_a_process(f"HEAVY = {HEAVY!r}\n{ASKED}"))
    assert len(found) > 15
    assert not {words: names for words, names in found.items() if names}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("alprune co", "compare"),
        ("alprune run --weight-d", "--weight-decay"),
        ("alprune compare --schedule co", "cosine"),
        ("alprune label --qu", "--query-size"),
    ],
)
def test_shell_completion_imports_nothing_heavy(words, offered):
    program = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('heavy', [n for n in {HEAVY!r} if n in sys.modules]))\n"
        "from alprune.__main__ import main\nmain()"
    )
    said = in_a_process(
        program,
        _ALPRUNE_COMPLETE="bash_complete",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split()) - 1),
    )
    assert f"plain,{offered}\n" in said and said.endswith("heavy []\n")


def test_the_names_that_help_shows_are_those_that_are_known():
    assert CHOICES == {
        "after_pruning": tuple(AFTER_PRUNING),
        "device": DEVICES,
        "normalised": NORMALISED,
        "precision": PRECISIONS,
        "schedule": tuple(SCHEDULES),
        "score_mode": tuple(SCORE_MODES),
    }
    assert (compare.PROCESSES, *compare.ENGINES) == ENGINES
    assert list(export.FORMATS) == list(FORMATS)


def test_the_table_of_commands_names_them_as_they_are_defined():
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None and command.name == name
