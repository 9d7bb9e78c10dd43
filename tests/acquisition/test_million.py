"""A million candidates fit into 2 GB, embeddings (0.5 GB) and interpreter included."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "recipes" / "bench" / "acquisition.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is read from getrusage")
@pytest.mark.parametrize("name", ["badge", "clue", "cluster-margin", "k-center", "typiclust"])
def test_a_million_candidates_stay_below_2_gb(name, tmp_path):
    report = tmp_path / "report.json"
    sizes = ["--points", "1000000", "--dimensions", "128", "--count", "50"]
    options = [*sizes, "--only", name, "--no-peers", "--json", str(report)]
    subprocess.run([sys.executable, str(BENCH), *options], check=True)
    (row,) = json.loads(report.read_text())["rows"]
    assert row["peak_gb"] < 2
