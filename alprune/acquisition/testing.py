"""For your own tests: does an acquisition function keep the contract?"""

import copy
import inspect
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from alprune.acquisition import Acquisition, Evidence, acquire, find_acquisition, snapshots_of
from alprune.data import Dataset
from alprune.errors import AlpruneError
from alprune.models.init import forked_rng
from alprune.training import FitSettings, Learner

_KINDS = ("probabilities", "embeddings", "labelled_probabilities", "labelled_embeddings")


@dataclass(frozen=True)
class _Case:
    """A situation that a function must cope with."""

    what: str
    candidates: int = 40
    labelled: int = 20
    classes: int = 5
    count: int = 7
    alike: bool = False


_CASES = (
    _Case("40 candidates, 7 wanted"),
    _Case("two classes", classes=2),
    _Case("one wanted", count=1),
    _Case("as many wanted as there are", candidates=9, count=9),
    _Case("more wanted than there are", candidates=9, count=50),
    _Case("one candidate", candidates=1),
    _Case("one labelled point", labelled=1),
    _Case("all images alike, so all ties", alike=True),
)


def make_evidence(
    candidates: int = 40,
    labelled: int = 20,
    classes: int = 5,
    *,
    alike: bool = False,
    snapshots: int = 0,
    seed: int = 0,
) -> Evidence:
    """Make evidence of a tiny learner over random images: all of it can be computed, in ms.

    Args:
        candidates: How many unlabelled points there are; their indices are neither sorted nor
            consecutive.
        labelled: How many labelled points there are; the last class has none.
        classes: How many classes.
        alike: Make all images the same, so that all candidates tie.
        snapshots: Past fits for the committee.
        seed: Of images, labels and the learner's weights.

    Returns:
        Evidence as a run hands it to an acquisition function.
    """
    generator = torch.Generator().manual_seed(seed)
    total = 3 * (candidates + labelled)
    images = torch.rand(total, 4, 4, 1, generator=generator)
    if alike:
        images = images[:1].repeat(total, 1, 1, 1)
    # Nobody may look at these: labels reach a function through evidence.labels alone.
    hidden = torch.zeros(total, dtype=torch.int64)
    names = tuple(str(label) for label in range(classes))
    train = Dataset(images, hidden, names, (0.5,), (0.3,), flip=False, digest="synthetic")
    learner = Learner(
        _network(classes, seed),
        train,
        FitSettings(batch_size=8, lr=0.1, averaging=0.5, pad=0, flip=False),
        torch.device("cpu"),
        torch.float32,
    )
    order = torch.randperm(total, generator=generator)
    known, unknown = order[:labelled], order[labelled : labelled + candidates]
    labels = torch.randint(max(1, classes - 1), (labelled,), generator=generator)
    learner.keep_snapshots(snapshots)
    for _ in range(snapshots):
        learner.fit(known, labels, 1.0, generator)
    return Evidence(learner, unknown, known, labels, classes)


def check_acquisition(function: Acquisition | str, *, seed: int = 0) -> None:
    """Call an acquisition function in eight situations and check that it keeps the contract.

    The situations: an ordinary step, two classes, one point wanted, as many or more wanted than
    there are, a single candidate or labelled point, and nothing but ties. In each, what it
    returns must be usable (`count` distinct absolute indices among the candidates, or one finite
    score a candidate), must come from the generator alone (the same again from the same seed,
    whatever the global random state), must leave the global random state and the evidence as
    they were, and it must work again on the evidence of a next step.

    Args:
        function: The function, class, object or name. A class is instantiated and an object
            copied for each situation, so state does not leak from one into the other.
        seed: Of the evidence and of the generators.

    Raises:
        AssertionError: Says in which situation, and what was wrong.
    """
    for case in _CASES:
        try:
            first = _run(function, case, seed, global_seed=1)
            again = _run(function, case, seed, global_seed=2)
        except AlpruneError as error:
            raise AssertionError(f"{case.what}: {error}") from error
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)), (
            f"{case.what}: two runs from the same seed acquired different points. Draw from the "
            "generator that is passed in and from nothing else."
        )


def _run(function: Acquisition | str, case: _Case, seed: int, global_seed: int) -> list[Tensor]:
    """Let the function acquire in two steps of a run; return the points of each."""
    fresh = find_acquisition(function if inspect.isclass(function) else copy.deepcopy(function))
    generator = torch.Generator().manual_seed(seed)
    acquired = []
    for step in range(2):
        evidence = make_evidence(
            case.candidates,
            case.labelled,
            case.classes,
            alike=case.alike,
            snapshots=min(step + 1, snapshots_of(fresh)),
            seed=seed + step,
        )
        before = _contents(evidence)
        with _global_seed(global_seed, case.what):
            points = acquire(fresh, evidence, case.count, generator)
        for name, content in _contents(evidence).items():
            assert torch.equal(content, before[name]), (
                f"{case.what}: the function changed evidence.{name}. Work on a copy: others may "
                "look at the same tensor."
            )
        acquired.append(points)
    return acquired


def _contents(evidence: Evidence) -> dict[str, Tensor]:
    names = ("candidates", "labelled", "labels", *_KINDS)
    return {name: getattr(evidence, name).clone() for name in names}


@contextmanager
def _global_seed(seed: int, what: str) -> Iterator[None]:
    """Run with known global random states, check that they are not touched, put the old back."""
    ours = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    states = _states()
    try:
        yield
        touched = [name for name, state in _states().items() if state != states[name]]
    finally:
        random.setstate(ours[0])
        np.random.set_state(ours[1])
        torch.set_rng_state(ours[2])
    assert not touched, (
        f"{what}: the function drew from the global random state of {', '.join(touched)}. Draw "
        "from the generator that is passed in."
    )


def _states() -> dict[str, object]:
    numpy_state = np.random.get_state(legacy=True)
    return {
        "random": random.getstate(),
        "numpy": (numpy_state[1].tobytes(), numpy_state[2]),  # type: ignore[index,union-attr]
        "torch": torch.get_rng_state().numpy().tobytes(),
    }


def _network(classes: int, seed: int) -> nn.Module:
    with forked_rng(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, classes))
