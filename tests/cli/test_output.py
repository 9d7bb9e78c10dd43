"""What cannot be printed, on a full device or into a closed pipe, ends in a line or in silence."""

import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import photos
import pytest
from click.testing import CliRunner
from tiny_run import options

import alprune
from alprune.__main__ import main
from alprune.cli import main as command_line
from alprune.labelling import open_asking

FULL = Path("/dev/full")
COMMANDS = [
    ["--version"],
    ["run", "--help"],
    ["list"],
    ["cache", "list"],
    ["watch", "run"],
    ["report", "run", "--out", "report"],
    ["compare", "--methods", "dense,3sp", "--dataset", "digits", "--out", "grid", "--dry-run"],
    ["run", "--resume", "run"],
    ["predict", "run", "photos", "--out", "-"],
    ["prune", "--model", "lenet-300-100", "--dataset", "digits"],
    ["export", "run", "--format", "safetensors"],
    ["ask", "asked", "--dataset", "folder:pile"],
    ["label", "labelled", "--dataset", "folder:pile", "--no-browser"],
    ["tell", "told", "told.csv"],
    ["classes", "told"],
    ["rerun", "run"],
    ["compare", "--resume", "made"],
    pytest.param(
        [*"bench --model lenet-300-100 --methods dense --seconds 1 --pool 0".split()],
        marks=pytest.mark.slow,
    ),
    ["embed", "--dataset", "folder:pile", "--model", "efficientnet-lite0", "--image-size", "32"],
]

DEAR = ("report", "rerun", "embed", "compare --resume")  # one place handles both errors


def piped() -> list[Any]:
    """Leave the dear commands, which the full device sees, to `-m slow`."""
    return [
        pytest.param(command, marks=pytest.mark.slow)
        if isinstance(command, list) and " ".join(command).startswith(DEAR)
        else command
        for command in COMMANDS
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from crafted import write_tree

    path = tmp_path_factory.mktemp("output")
    alprune.run(options(path / "run", steps=0, initial_epochs=1.0))
    write_tree(path / "photos")
    photos.make(path / "pile", each=2)
    with open_asking(path / "told", classes=photos.NAMES, dataset=f"folder:{path}/pile") as asking:
        [first, *_] = asking.ask()
    (path / "told.csv").write_text(f"path,label\n{first.path},dark\n")
    grid = "compare --dataset digits --model lenet-300-100 --methods dense --steps 0 --seeds 1"
    assert (
        CliRunner().invoke(command_line, [*grid.split(), "--out", str(path / "made")]).exit_code
        == 0
    )
    return path


@pytest.fixture(autouse=True)
def surroundings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder)
    for name in ("stderr", "unraisablehook"):  # main() puts others in their place
        monkeypatch.setattr(sys, name, getattr(sys, name))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(command: list[str], out: TextIO, monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["alprune", *command])
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
@pytest.mark.filterwarnings("ignore:the run in")
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_full_device_is_one_message(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, open(FULL, "w"), monkeypatch) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "No space left on device" in said and "cannot write" in said


@pytest.mark.filterwarnings("ignore:the run in")
@pytest.mark.parametrize("command", piped(), ids=" ".join)
def test_a_closed_pipe_is_no_traceback(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert run(command, open(writer, "w"), monkeypatch) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
def test_a_run_ends_well_though_nobody_can_read_how_it_goes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", open(FULL, "w"))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(options(tmp_path / "new", steps=0, initial_epochs=1.0).to_toml())
    with open(os.devnull, "w") as out:
        assert run(["run", "--recipe", str(recipe)], out, monkeypatch) in (0, None)
    assert alprune.load_run(tmp_path / "new").reason == "steps"


def test_a_console_that_lacks_a_letter_still_says_what_was_taken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_asking(tmp_path / "d", dataset=f"folder:{folder}/pile") as asking:
        rows = "".join(f"{question.path},猫 кошка\n" for question in asking.ask())
    (tmp_path / "filled.csv").write_text(f"path,label\n{rows}", encoding="utf-8")
    out, err = (io.TextIOWrapper(io.BytesIO(), "cp1252") for _ in range(2))
    monkeypatch.setattr(sys, "stderr", err)
    command = ["tell", str(tmp_path / "d"), str(tmp_path / "filled.csv")]
    assert run(command, out, monkeypatch) in (0, None)
    assert rb"\u732b" in out.buffer.getvalue() and b"Traceback" not in err.buffer.getvalue()


def test_without_any_output_a_command_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # as `>&- 2>&-` leaves them
    monkeypatch.setattr(sys, "argv", ["alprune", "list"])
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
