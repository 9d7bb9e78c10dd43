"""A message shows what was got, but not all of a megabyte of it, and does not steer a terminal."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from crafted import write_tree

from alprune.cli import main
from alprune.data import load
from alprune.errors import ConfigError, DataError, printable, quoted
from alprune.registry import lookup


def test_what_is_quoted_is_cut_where_it_is_long() -> None:
    assert quoted([1, "a"]) == "[1, 'a']"
    shown = quoted("x" * 10_000)
    assert shown.startswith("'xxx") and shown.endswith("... (10,002 characters)")
    assert len(shown) < 160


def test_what_cannot_be_shown_is_named_by_its_type() -> None:
    assert quoted(10**5000) == "a int that cannot be shown (ValueError)"
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert quoted(nested) == "a list that cannot be shown (RecursionError)"
    while nested:  # freeing it at once would end the process on some versions of Python
        nested = nested.pop()  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("as it is,\nin two lines: é ß 猫", "as it is,\nin two lines: é ß 猫"),
        ("\x1b[2J\r\a", r"\x1b[2J\r\x07"),
        ("\u202egnp.exe", r"\u202egnp.exe"),  # would be shown from right to left
        ("\udcff", r"\udcff"),
    ],
)
def test_what_would_steer_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    "name", ["a:b c", ":", "a:", ":b", "os:sy-stem", "../x:y", "a\0:b", "x" * 9**5]
)
def test_a_name_that_no_module_has_is_refused_without_importing(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lookup("method", name, {"3sp": 1})
    assert len(str(caught.value)) < 400


def test_a_module_that_ends_the_process_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quits_at_once.py").write_text("raise SystemExit(0)")
    (tmp_path / "quits_later.py").write_text("def load():\n    raise SystemExit(0)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="cannot be imported: SystemExit"):
        lookup("method", "quits_at_once:method", {})
    with pytest.raises(DataError, match="data set 'quits_later:load' failed with SystemExit"):
        load("quits_later:load")


def test_the_command_line_does_not_pass_on_what_steers_a_terminal(tmp_path: Path) -> None:
    write_tree(tmp_path / "data")
    (tmp_path / "data" / "train" / "dog" / "\x1b[2J.png").write_bytes(b"")
    place = str(tmp_path / "data")
    done = CliRunner().invoke(main, ["prune", "--dataset", f"folder:{place}", "--device", "cpu"])
    assert done.exit_code == 1
    assert "[2J.png" in done.stderr and "\x1b" not in done.stderr
    done = CliRunner().invoke(main, ["prune", "--dataset", "folder:\x1b[2J", "--device", "cpu"])
    assert done.exit_code == 1 and "\x1b" not in done.stderr
