"""The examples of recipes/pruning/README.md run as they are."""

import re
from pathlib import Path

import pytest
import torch

TEXT = (Path(__file__).parents[2] / "recipes" / "pruning" / "README.md").read_text()
EXAMPLES = [
    code for code in re.findall(r"```python\n(.*?)```", TEXT, re.S) if "import torch\n" in code
]


def test_there_is_an_example_of_options_of_a_rule_and_of_a_criterion() -> None:
    assert len(EXAMPLES) == 3
    for option in ("ignore", "layer_reductions", "layer_floors", "local", "rules"):
        assert any(f"{option}=" in code for code in EXAMPLES)


@pytest.mark.parametrize("code", EXAMPLES, ids=["options", "rule", "criterion"])
def test_an_example_runs(code: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(code, "README.md", "exec"), {"__name__": "example"})
