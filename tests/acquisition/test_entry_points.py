"""Acquisition functions that installed packages offer."""

import json
import sys

import pytest
from click.testing import CliRunner

from alprune.acquisition import ACQUISITIONS, find_acquisition, summaries
from alprune.cli import main
from alprune.errors import ConfigError

SOURCE = '''
def newest(evidence, count, generator):
    """Take the candidates with the largest indices."""
    return evidence.candidates.sort().values[-count:]
'''


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package as a package manager leaves it, with a sound and a broken entry point."""
    (tmp_path / "strangers_package.py").write_text(SOURCE)
    info = tmp_path / "strangers_package-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers-package\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[alprune.acquisitions]\n"
        "newest = strangers_package:newest\n"
        "broken = strangers_package:not_there\n"
        "entropy = strangers_package:newest\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("strangers_package", None)


def test_an_installed_packages_function_is_found_by_its_name(installed):
    assert find_acquisition("newest").__name__ == "newest"
    assert find_acquisition("balanced:newest").__name__ == "balanced:newest"


def test_nothing_is_loaded_before_it_is_asked_for(installed):
    find_acquisition("margin")
    with pytest.raises(
        ConfigError, match="unknown acquisition function 'newst'. Did you mean 'newest'"
    ):
        find_acquisition("newst")
    assert "strangers_package" not in sys.modules


def test_our_own_names_win(installed):
    assert find_acquisition("entropy") is ACQUISITIONS["entropy"]
    assert "strangers" not in summaries()["entropy"]


def test_a_broken_one_is_an_error_that_names_its_package(installed):
    with pytest.raises(
        ConfigError,
        match="'broken' of strangers-package 1.2 cannot be loaded from strangers_package:not_there",
    ):
        find_acquisition("broken")


def test_the_list_shows_ours_theirs_and_the_wrappers(installed):
    listed = json.loads(CliRunner().invoke(main, ["list", "--json"]).stdout)["acquisitions"]
    assert set(listed) == {
        *ACQUISITIONS,
        *("newest", "broken"),
        *(f"{name}:NAME" for name in ("balanced", "diverse", "power", "softmax", "softrank")),
    }
    assert listed["newest"] == (
        "Take the candidates with the largest indices. (strangers-package 1.2)"
    )
    assert "cannot be loaded" in listed["broken"]
    assert all(line.endswith(".") for name, line in listed.items() if name != "newest")
