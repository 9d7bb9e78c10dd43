"""The wheel, installed into an environment of its own, works from any folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest
from crafted import write_tree

ROOT = Path(__file__).parents[1]
SHIPPED = ("py.typed", "LICENSE", "runs/report/page.css", "runs/report/page.js",
           "runs/report/page.html.jinja", "labelling/web/page.html",
           "labelling/web/join.html")  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools", minversion="77", reason="builds without the network")
    out = tmp_path_factory.mktemp("wheel")
    copy = out / "source"
    shutil.copytree(
        ROOT / "alprune", copy / "alprune", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(out), str(copy)], check=True)
    [made] = out.glob("alprune-*.whl")
    return made


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `alprune` of a fresh environment, which finds all other packages in this one."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": place, "platbase": place}))
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    found = Path(sysconfig.get_path("scripts", "venv", {"base": place, "platbase": place}))
    pip = [sys.executable, "-m", "pip", "--python", str(found / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    return found / "alprune"


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("ALPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_the_wheel_holds_what_is_read_at_run_time_and_nothing_of_the_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"alprune/{name}" for name in SHIPPED} <= set(names)
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"alprune"}
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "alprune").rglob("*.py")}
    assert sources <= set(names)


@pytest.mark.usefixtures("surroundings")
def test_it_runs_reports_and_predicts(command: Path, tmp_path: Path) -> None:
    def run(*words: str) -> str:
        return subprocess.run([command, *words], check=True, capture_output=True, text=True).stdout

    where = [command.parent / "python", "-c", "import alprune; print(alprune.__file__)"]
    found = subprocess.run(where, check=True, capture_output=True, text=True).stdout
    assert Path(found).is_relative_to(command.parents[1])
    options = "--dataset digits --model lenet-300-100 --initial-epochs 1 --steps 1 --out run"
    assert json.loads(run("run", *options.split(), "--json"))["steps"] == 1
    assert "test accuracy" not in run("list")
    run("report", "run", "--out", "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<style>:root" in page and "use strict" in page
    write_tree(tmp_path / "photos")
    run("predict", "run", "photos")
    assert (tmp_path / "predictions.csv").read_text().count("\n") > 2


@pytest.mark.usefixtures("surroundings")
def test_it_serves_the_page_to_label_on(command: Path, tmp_path: Path) -> None:
    write_tree(tmp_path / "photos")
    (tmp_path / "photos" / "train").rename(tmp_path / "photos" / "unlabelled")
    words = ["label", "people", "--dataset", "folder:photos", "--classes", "cat,dog"]
    words += ["--model", "lenet-300-100", "--no-browser", "--json"]
    with subprocess.Popen([command, *words], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            url = json.loads(server.stdout.readline())["url"]
            with urllib.request.urlopen(url, timeout=200) as page:
                assert b"alprune: label images" in page.read()
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(200) == 128 + signal.SIGINT
    assert os.path.exists("people/config.toml")
