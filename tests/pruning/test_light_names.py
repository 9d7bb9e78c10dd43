"""Names of methods and models are read without torch; every name leads to a function."""

import subprocess
import sys

import pytest

from alprune.models import INITS
from alprune.pruning import AFTER_PRUNING, CHANNEL_COSTS


def test_the_names_are_read_without_importing_torch():
    code = (
        "import sys; from alprune.models import INITS, MODELS; "
        "from alprune.pruning import AFTER_PRUNING, METHODS, TARGETS, find_method, summaries; "
        "assert find_method('3sp').summary and summaries(); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("table", [AFTER_PRUNING, CHANNEL_COSTS, INITS])
def test_every_name_leads_to_a_function(table):
    for name, entry in table.items():
        with pytest.raises(TypeError, match="missing"):  # imported, and called without arguments
            entry()
        assert name
