"""Help in groups, durations, --set, warnings beside a progress bar, and what to do next."""

import json
import re
import sys

import click
import pytest
from click.testing import CliRunner
from tqdm import tqdm

from alprune.cli import main
from alprune.cli.common import show_warning
from alprune.loop.config import OPTIONS, RunConfig
from alprune.loop.option import GROUPS
from alprune.loop.option_text import duration, seconds_of
from alprune.loop.progress import prune_line

FAST = "--model tiny_learner:build --dataset digits --device cpu --initial-epochs 1".split()


def call(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def flags(text):
    return re.findall(r"^  (?:-h, )?(--[a-z-]+)", text, re.MULTILINE)


def test_help_shows_the_common_options_in_groups_and_help_all_every_one():
    short, whole = call("run", "--help"), call("run", "--help-all")
    assert short.exit_code == whole.exit_code == 0
    headings = [f"{name.capitalize()}:" for name in GROUPS]
    for done in (short, whole):
        places = [done.stdout.index(f"\n{heading}\n") for heading in headings]
        assert places == sorted(places)
    common = {f"--{n.replace('_', '-')}" for n, e in OPTIONS.items() if e.metadata["common"]}
    assert common <= set(flags(short.stdout)) and len(flags(short.stdout)) <= 25
    every = {f"--{name.replace('_', '-')}" for name in OPTIONS}
    assert every <= set(flags(whole.stdout))


@pytest.mark.parametrize("command", ["compare", "ask", "label", "prune", "embed"])
def test_no_group_is_empty_and_help_all_is_longer(command):
    short, whole = call(command, "--help").stdout, call(command, "--help-all").stdout
    assert not re.search(r":\n\n[A-Z]\w+:\n", short)
    assert set(flags(short)) < set(flags(whole))


def test_every_command_is_listed_once_in_the_order_of_use():
    text = call("--help").stdout
    names = re.findall(r"^  (\w+)  +[A-Z].*\.$", text, re.MULTILINE)
    assert names == main.list_commands(click.Context(main))
    assert names[:8] == "run compare report label ask tell classes predict".split()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1h30m", 5400), ("1 min 5 s", 65)],
)
def test_a_duration_is_read_with_its_unit(text, seconds):
    assert seconds_of(text, "budget") == seconds
    assert RunConfig(budget=text).budget == seconds
    assert seconds_of(duration(seconds), "budget") == seconds


@pytest.mark.parametrize("text", ["soon", "", "5 parsecs", "1m2", "-", "s", "9" * 30_000 + "x"])
def test_what_is_no_duration_is_refused_with_examples(tmp_path, text):
    done = call("run", *FAST, "--budget", text, "--out", tmp_path / "run")
    assert done.exit_code == 2 and "as in 90s, 10m, 2h" in done.stderr
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'budget = "{text}"')
    done = call("run", *FAST, "--recipe", recipe)
    assert done.exit_code == 1 and "budget takes a duration" in done.stderr


def test_set_sets_any_option_and_the_end_says_what_to_do_next(tmp_path):
    out = tmp_path / "run"
    done = call("run", *FAST, "--set", "steps=1", "--set", "weight-decay=0.01", "--out", out)
    assert done.exit_code == 0, done.output
    start = json.loads((out / "events.jsonl").read_text().split("\n")[0])
    assert (start["config"]["steps"], start["config"]["weight_decay"]) == (1, 0.01)
    last = done.stdout.strip().split("\n")[-1]
    assert last.startswith("Next: ") and f"alprune export {out}" in last
    written = call("export", out, "--format", "safetensors", "--no-check")
    assert f"Next: alprune predict {out / 'learner.safetensors'} IMAGES" in written.stdout


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["lr"], "--set takes OPTION=VALUE"),
        (["weight_decai=1"], "unknown option 'weight_decai'. Did you mean 'weight_decay'?"),
        (["lr=fast"], "lr takes a number, got 'fast'"),
        (["lr=0.1", "lr=0.2"], "lr is set twice"),
        (["batch_size=1.5"], "batch_size takes a whole number"),
        (["sync_batchnorm=perhaps"], "sync_batchnorm takes true or false"),
    ],
)
def test_a_wrong_setting_is_refused(settings, message):
    done = call("run", *FAST, *[word for each in settings for word in ("--set", each)])
    assert done.exit_code == 1 and done.stderr.startswith(f"Error: {message}"), done.stderr


def test_few_names_follow_an_unknown_one():
    done = call("run", "--dataset", "digits", "--method", "qqqqq", "--steps", 1)
    known = re.search(r"known: (.*?), \.\.\. \(`alprune list` shows all\)\.", done.stderr)
    assert done.exit_code == 1 and len(known[1].split(", ")) == 5


def test_a_warning_leaves_a_progress_bar_whole(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with tqdm(total=10, file=sys.stderr, desc="working") as bar:
        bar.update(5)
        show_warning("something\x1b[2J odd")
    text = capsys.readouterr().err
    line = next(part for part in text.split("\n") if "odd" in part)
    assert line.endswith("Warning: something\\x1b[2J odd")  # on a line of its own
    assert "working" in text[text.index("odd") :]  # and the bar is drawn again below


def test_layers_at_their_minimum_width_are_counted_and_named_on_request():
    fields = {
        **{"method": "3sp", "prune_s": 1.0, "sparsity": 0.0, "macs_before": 9, "macs_after": 3},
        **{"flops_reduction": 0.6, "params_before": 9, "params_after": 3},
        **{"floored": ["a", "b"], "widths": {"a": 4, "b": 4, "c": 9}},
    }
    assert prune_line(fields).endswith("; minimum width reached in 2 of 3 layers")
    assert prune_line(fields, verbose=False).endswith("of 3 layers; --verbose lists them")
    assert prune_line(fields, verbose=True).endswith("of 3 layers: a, b")
