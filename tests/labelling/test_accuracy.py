"""How good a learner is said to be, from the images that it was not trained on."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from alprune.labelling.accuracy import HoldOutEvaluation, estimate, guesses
from alprune.labelling.journal import Answer, Journal, Query
from alprune.loop.run_folder import RunFolder
from alprune.training.budget import Budget


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 2, 0.0945, 0.9055)],
)
def test_the_interval_is_wilsons(right: int, of: int, low: float, high: float) -> None:
    found = estimate(right, of)
    assert (found.accuracy, found.low, found.high) == (right / of, low, high)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    folder = RunFolder(tmp_path / "run")
    folder.write("config.toml", "")
    journal = Journal(folder)
    journal.start({}, {})
    yield journal
    folder.close()


def test_guesses_are_those_about_chosen_images_that_have_a_label(journal: Journal) -> None:
    told = [("a", "cat", "uncertain", "cat"), ("b", "cat", "uncertain", "dog")]
    told += [("c", "cat", "random", "cat"), ("d", "cat", "uncertain", None)]
    told += [("e", None, "uncertain", "dog"), ("f", "cat", "meanwhile", "cat")]
    queries = [Query(path, path * 8, why, guess, 0.5) for path, guess, why, _ in told]
    journal.ask(queries, labelled=0, in_folders=0, pool=9, learnt={})
    assert guesses(journal) is None
    journal.tell([Answer(path, path * 8, label, 1) for path, _, _, label in told])
    found = guesses(journal)
    assert found is not None and (found.right, found.of) == (2, 3)  # a, b and f


class Known:
    """A learner that gives class 0 to every image, with logits of 2 and 0."""

    x = torch.zeros(99, 1)

    def logits(self, x: Tensor, rows: Tensor | None = None, budget: Any = None) -> Tensor:
        count = len(x) if rows is None else len(rows)
        return torch.tensor([[2.0, 0.0]]).repeat(count, 1)


class Images(NamedTuple):
    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)


def measured(held: int, tests: int) -> dict[str, Any]:
    truth = torch.arange(99) % 4 == 0  # three of four images are of class 0
    train = SimpleNamespace(y=truth.long())
    test = Images(torch.zeros(tests, 1), truth[:tests].long())
    images = SimpleNamespace(
        held=torch.arange(held), train=train, splits=SimpleNamespace(test=test)
    )
    evaluation = HoldOutEvaluation(Known(), images)  # type: ignore[arg-type]
    evaluation.take(3, Budget(None))
    assert evaluation.step == 3
    return evaluation.of_step(3)


def test_held_out_images_are_measured_and_calibrate_from_twenty_on() -> None:
    found = measured(held=20, tests=0)
    assert found["held_out_accuracy"] | {"low": 0, "high": 0} == {
        "right": 15, "of": 20, "accuracy": 0.75, "low": 0, "high": 0,
    }  # fmt: skip
    # Sure of class 0 by exp(2 / T) to 1, right in 3 of 4: T = 2 / log 3.
    assert found["temperature"] == pytest.approx(1.8205, abs=1e-3)
    assert found["test_accuracy"] is None
    assert measured(held=19, tests=0)["temperature"] is None


def test_test_images_are_measured_where_there_are_some() -> None:
    found = measured(held=0, tests=8)
    assert found == {"held_out_accuracy": None, "temperature": None, "test_accuracy": 0.75}
