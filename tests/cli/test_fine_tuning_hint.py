"""Fine-tuning is named where there are labels enough for it, and only for a frozen learner."""

import pytest

from alprune.cli.common import FINE_TUNED_FROM, fine_tuning_hint


def test_with_labels_enough_the_command_is_named():
    assert "alprune export birds --fine-tune" in fine_tuning_hint(
        "birds", FINE_TUNED_FROM, "frozen"
    )


@pytest.mark.parametrize(
    ("labels", "learner"), [(FINE_TUNED_FROM - 1, "frozen"), (5_000, "trained"), (5_000, None)]
)
def test_otherwise_nothing_is_said(labels, learner):
    assert fine_tuning_hint("birds", labels, learner) == ""
