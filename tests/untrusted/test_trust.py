"""Code that a recipe or a run folder names runs only where the user said that it may."""

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import tomli_w
from click.testing import CliRunner
from crafted import write_tree
from tiny_run import options

import alprune
from alprune.cli import main
from alprune.errors import ConfigError, DataError
from alprune.labelling import open_asking
from alprune.loop.setup import complete
from alprune.loop.trust import check_trust, code_name
from alprune.runs.compare.grid import Cell
from alprune.runs.compare.runs import state_of
from alprune.runs.export.run_images import images_of
from alprune.runs.load import find_learner

# Writes a file when it is imported, and has whatever attribute it is asked for.
TRAP = """\
import pathlib
pathlib.Path("ran").touch()
def __getattr__(name): return lambda *args, **options: 1
"""
NAMED = ("model", "method", "acquisition", "start", "dataset")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run"
    alprune.run(options(path, model="lenet-300-100", steps=1, initial_epochs=1.0))
    return path


@pytest.fixture
def here(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a run in `run` and a module that betrays that it was imported."""
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "trap.py").write_text(TRAP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALPRUNE_TRUST_CODE")
    monkeypatch.delitem(sys.modules, "trap", raising=False)
    return tmp_path


def change(path: Path, **changes: Any) -> None:
    config = alprune.RunConfig.from_toml(path, trust_code=True)
    record = {k: v for k, v in vars(config).items() if v is not None} | changes
    path.write_text(tomli_w.dumps(record))


def command(*args: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(args))
    return done.exit_code, done.output


def asking(here: Path) -> None:
    write_tree(here / "photos")
    with open_asking(here / "people", dataset=f"folder:{here / 'photos'}", model="lenet-300-100"):
        pass


def flags(name: str) -> list[str]:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    return [flag for parameter in found.params for flag in parameter.opts]


COMMANDS: dict[str, list[str]] = {
    "resume": ["run", "--resume", "run"],
    "rerun": ["rerun", "run"],
    "run a recipe": ["run", "--recipe", "run/config.toml", "--out", "new"],
    "prune a recipe": ["prune", "--recipe", "run/config.toml"],
    "compare a recipe": "compare --recipe run/config.toml --seeds 1 --out new".split(),
    "embed by a recipe": ["embed", "--recipe", "run/config.toml"],
    "ask by a recipe": "ask new --recipe run/config.toml --dataset folder:photos".split(),
}


@pytest.mark.parametrize("option", NAMED)
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_imports_what_a_file_names(here: Path, name: str, option: str) -> None:
    change(here / "run" / "config.toml", **{option: "trap:thing"})
    code, said = command(*COMMANDS[name])
    if not (name == "ask by a recipe" and option == "dataset"):  # given on the command line
        assert code == 1 and f"{option} = 'trap:thing'" in said and "--trust-code" in said
        assert str(here / "trap.py") in said.replace("\n", "")
        if advised := re.search(r"name it yourself: (--[a-z-]+) trap:thing", said):
            assert advised[1] in flags(COMMANDS[name][0])
    assert not (here / "ran").exists()


def test_only_what_can_be_named_on_the_command_line_is_advised(here: Path) -> None:
    change(here / "run" / "config.toml", model="trap:net")
    for name in COMMANDS:
        code, said = command(*COMMANDS[name])
        assert code == 1
        assert ("name it yourself" in said) == (name not in ("resume", "rerun")), said
    change(here / "run" / "config.toml", model="lenet-300-100", acquisition="trap:best")
    for name in ("prune a recipe", "embed by a recipe"):
        assert "name it yourself" not in command(*COMMANDS[name])[1]


def test_the_help_of_a_command_without_help_all_shows_every_option() -> None:
    for name in ("predict", "export", "rerun", "tell", "classes"):
        assert "--trust-code" in command(name, "--help")[1]
    assert "--trust-code" not in command("run", "--help")[1]
    assert "--trust-code" in command("run", "--help-all")[1]


PYTHON: dict[str, Callable[[Path], object]] = {
    "load_learner": alprune.load_learner,
    "predict": lambda path: alprune.predict(path, path),
    "export": lambda path: alprune.export(path, "safetensors"),
    "resume": alprune.resume,
    "from_toml": lambda path: alprune.RunConfig.from_toml(path / "config.toml"),
}


@pytest.mark.parametrize("name", PYTHON)
def test_no_function_imports_what_a_folder_names(here: Path, name: str) -> None:
    change(here / "run" / "config.toml", model="trap:net")
    with pytest.raises(ConfigError, match="names code: model = 'trap:net' would import .*trap.py"):
        PYTHON[name](here / "run")
    assert not (here / "ran").exists()


@pytest.mark.parametrize("args", [["predict", "run", "x"], ["ask", "people"],
                                  ["export", "run", "--format", "safetensors"],
                                  ["export", "run", "--small", "--format", "safetensors"],
                                  ["export", "run", "--fine-tune", "--format", "safetensors"],
                                  ["label", "people"], ["tell", "people", "answers.csv"],
                                  ["compare", "--resume", "grid"]])  # fmt: skip
def test_neither_do_the_other_commands(here: Path, args: list[str]) -> None:
    asking(here)
    for folder in ("run", "people"):
        change(here / folder / "config.toml", model="trap:net")
    (here / "grid").mkdir()
    grid = {"grid": {"acquisition": ["random", "balanced:trap:best"]}}
    (here / "grid" / "compare.toml").write_text(tomli_w.dumps(grid))
    code, said = command(*args)
    assert code == 1 and "would import the module 'trap'" in said, said
    assert not (here / "ran").exists()


@pytest.mark.parametrize("option", NAMED)
def test_a_comparison_imports_nothing_that_only_the_folder_of_a_run_names(
    here: Path, option: str
) -> None:
    config = here / "run" / "config.toml"
    cell = Cell("run", {}, complete(options(here / "run", model="lenet-300-100")))
    change(config, **{option: "trap:thing"})
    with pytest.raises(ConfigError, match=f"names code: {option} = 'trap:thing' would .*trap.py"):
        state_of(cell)
    assert not (here / "ran").exists()


@pytest.mark.parametrize("flag", ["--small", "--fine-tune"])
def test_an_export_that_learns_calls_no_data_set_that_a_folder_names(here: Path, flag: str) -> None:
    config = alprune.RunConfig(dataset="trap:photos", learner="frozen")
    with pytest.raises(DataError, match=f"is a function, and an export with {flag} runs no code"):
        images_of(config, find_learner(here / "run"), flag)
    assert not (here / "ran").exists()


@pytest.mark.parametrize("args", [["predict", "run", "photos"],
                                  ["prune", "--recipe", "run/config.toml"]])  # fmt: skip
def test_with_trust_it_is_imported(here: Path, args: list[str]) -> None:
    change(here / "run" / "config.toml", model="trap:net", steps=2)
    code, said = command(*args, "--trust-code")
    assert "names code" not in said and (here / "ran").exists(), said


def test_what_is_named_on_the_command_line_is_the_users_own(here: Path) -> None:
    change(here / "run" / "config.toml", model="trap:net")
    recipe = ["prune", "--recipe", "run/config.toml"]
    code, said = command(*recipe, "--model", "trap:net")
    assert "names code" not in said and (here / "ran").exists()


def test_another_name_on_the_command_line_does_not_cover_the_recipes(here: Path) -> None:
    change(here / "run" / "config.toml", model="trap:net", start="trap:first")
    code, said = command("prune", "--recipe", "run/config.toml", "--model", "trap:net")
    assert code == 1 and "start = 'trap:first'" in said and not (here / "ran").exists()


def test_trust_can_be_given_for_a_module_once_and_for_all(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(here / "run" / "config.toml", acquisition="trap:best")
    monkeypatch.setenv("ALPRUNE_TRUST_CODE", "others,trap.inner")
    with pytest.raises(ConfigError, match="names code"):
        alprune.resume(here / "run", steps=2)
    monkeypatch.setenv("ALPRUNE_TRUST_CODE", "others,trap")
    with pytest.raises(alprune.AlpruneError, match="config.toml was changed since the run began"):
        alprune.resume(here / "run", steps=2)


def test_safe_things_need_no_trust(here: Path) -> None:
    """The acquisition function of a run takes no part in what its learner does."""
    change(here / "run" / "config.toml", acquisition="trap:best", start="trap:first")
    write_tree(here / "photos")
    for args in (
        ["predict", "run", "photos"],
        ["export", "run", "--format", "safetensors"],
        ["report", "run", "--out", "report"],
        ["watch", "run"],
    ):
        code, said = command(*args)
        assert code == 0, said
    assert len(alprune.load_run(here / "run")) == 2
    assert not (here / "ran").exists()


def test_a_network_of_ones_own_can_be_passed_instead(here: Path) -> None:
    built = alprune.build("lenet-300-100", 10)
    change(here / "run" / "config.toml", model="trap:net")
    assert alprune.load_learner(here / "run", built).classes == tuple("0123456789")
    assert not (here / "ran").exists()


@pytest.mark.parametrize(
    ("option", "text", "name"),
    [
        ("model", "vgg19", None),
        ("model", "torchvision:resnet18", None),
        ("model", "timm:resnet18", None),
        ("model", "a.b:c.d", "a.b:c.d"),
        ("dataset", "folder:photos", None),
        ("dataset", "npz:os", None),
        ("dataset", "balanced:entropy", "balanced:entropy"),  # a module of that name
        ("acquisition", "balanced:entropy", None),
        ("acquisition", "balanced:power:a:b", "a:b"),
        ("acquisition", "torchvision:resnet18", "torchvision:resnet18"),
        ("init", "a:b", "a:b"),
        ("out", "a:b", None),
        ("pretrained", "c:weights", None),
        ("method", "not a:name", None),  # nothing that can be imported
    ],
)
def test_what_counts_as_the_name_of_code(option: str, text: str, name: str | None) -> None:
    assert code_name(option, text) == name


def test_the_message_finds_the_file_of_a_module_within_a_package(here: Path) -> None:
    (here / "pack").mkdir()
    (here / "pack" / "__init__.py").write_text(TRAP)
    (here / "pack" / "inner.py").write_text(TRAP)
    with pytest.raises(ConfigError) as caught:
        check_trust({"model": "pack.inner:net"}, "recipe.toml")
    assert os.path.join("pack", "inner.py") in str(caught.value)
    with pytest.raises(ConfigError, match="not found in this folder"):
        check_trust({"model": "no_such_module:net"}, "recipe.toml")
    assert not (here / "ran").exists()
