import numpy as np
import pytest
import torch
from known_evidence import KnownEvidence, seeded

from alprune.acquisition import acquire, find_acquisition, needs, snapshots_of
from alprune.acquisition import base as protocol
from alprune.acquisition.base import full_name, top, wrap
from alprune.acquisition.uncertainty import entropy
from alprune.errors import AcquisitionError, ConfigError


@pytest.fixture
def evidence():
    sure, even, half = [1.0, 0.0, 0.0], [1 / 3] * 3, [0.5, 0.5, 0.0]
    return KnownEvidence(torch.zeros(3, 1), probabilities=[sure, even, half])


def test_scores_acquire_the_largest_as_absolute_indices(evidence):
    assert acquire(entropy, evidence, 2, seeded()).tolist() == [101, 102]


def test_no_more_points_are_acquired_than_there_are(evidence):
    assert acquire(entropy, evidence, 9, seeded()).tolist() == [101, 102, 100]


@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
def test_numpy_scores_do_as_well_as_tensors(evidence, kind):
    scores = np.array([0.1, 0.3, 0.2], kind)
    assert acquire(lambda *_: scores, evidence, 2, seeded()).tolist() == [101, 102]
    assert acquire(lambda *_: scores[::-1], evidence, 1, seeded()).tolist() == [101]


@pytest.mark.parametrize("kind", ["int64", "int32", "uint8"])
def test_numpy_indices_do_as_well_as_tensors(evidence, kind):
    chosen = acquire(lambda *_: np.array([102, 100], kind), evidence, 2, seeded())
    assert chosen.tolist() == [102, 100]
    assert chosen.dtype == torch.int64


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1, 2], "returned list"),
        (None, "returned NoneType"),
        (np.array(["a", "b", "c"]), "returned ndarray"),
        (torch.tensor([0.1, 0.2]), "one for each of the 3 candidates"),
        (torch.tensor([[0.1, 0.2, 0.3]]), r"scores \(1, 3\)"),
        (np.array([0.1, 0.2]), "one for each of the 3 candidates"),
        (torch.tensor([0.1, float("nan"), 0.2]), "1 scores of 3 that are not finite"),
        (torch.tensor([0.1, float("inf"), 0.2]), "1 scores of 3 that are not finite"),
        (torch.tensor([True, False, True]), "a tensor of torch.bool"),
        (torch.tensor([1j, 2j, 3j]), "a tensor of torch.complex64"),
        (torch.tensor([100]), r"\(2,\) were asked for"),
        (torch.tensor([100, 100]), "an index twice"),
        (torch.tensor([100, 1]), "1 indices that are not candidates.*first 1"),
        (torch.tensor([100, -1]), "1 indices that are not candidates.*first -1"),
    ],
)
def test_an_unusable_result_is_refused_with_the_functions_name(evidence, result, message):
    def mine(evidence, count, generator):
        return result

    with pytest.raises(AcquisitionError, match=f"'mine'.*{message}"):
        acquire(mine, evidence, 2, seeded())


def test_a_function_that_fails_is_named_with_the_line(evidence):
    def mine(evidence, count, generator):
        return evidence.nothing

    with pytest.raises(AcquisitionError, match=r"'mine' failed with AttributeError.*test_base"):
        acquire(mine, evidence, 2, seeded())

    def ours(evidence, count, generator):
        return torch.cdist(torch.zeros(3, 2), torch.zeros(3, 4)).amin(1)  # fails within PyTorch

    with pytest.raises(AcquisitionError, match=r"'ours' failed with RuntimeError.*test_base\.py"):
        acquire(ours, evidence, 2, seeded())


def test_counts_are_refused_with_how_they_become_scores(evidence):
    with pytest.raises(AcquisitionError, match=r"Whole numbers are taken.*scores.float"):
        acquire(lambda *_: torch.tensor([4, 0, 2]), evidence, 2, seeded())
    with pytest.raises(AcquisitionError, match="Whole numbers are taken for indices"):
        acquire(lambda *_: torch.tensor([4, 0, 2]), evidence, 3, seeded())


def test_ties_for_the_last_places_are_drawn_at_random_and_only_those():
    evidence = KnownEvidence(torch.zeros(30, 1))
    scores = torch.zeros(30)
    scores[[3, 4]] = 1.0
    counts = torch.zeros(130)
    generator = seeded()
    for _ in range(2000):
        chosen = acquire(lambda *_: scores, evidence, 9, generator)
        assert sorted(chosen[:2].tolist()) == [103, 104]
        counts[chosen[2:]] += 1
    tied = [i for i in range(100, 130) if i not in (103, 104)]
    assert counts[tied].sum() == 7 * 2000
    # each is drawn 500 times, give or take 19 (one standard deviation)
    assert (counts[tied] - 500).abs().max() < 5 * 19


def test_the_best_of_many_are_the_best_of_the_best_of_pieces(monkeypatch):
    monkeypatch.setattr(protocol, "_PIECE", 10)
    draws = torch.Generator().manual_seed(0)
    scores = torch.rand(57, generator=draws)
    for count in (1, 7, 25):
        assert top(scores, count, draws).equal(scores.topk(count).indices)
    scores = torch.zeros(57)
    scores[[3, 44]] = 1.0
    seen = {tuple(sorted(top(scores, 3, draws).tolist())) for _ in range(200)}
    assert all({3, 44} < set(chosen) for chosen in seen) and len(seen) > 40


def test_without_ties_the_generator_is_not_touched():
    evidence, generator = KnownEvidence(torch.zeros(30, 1)), seeded()
    acquire(lambda *_: torch.arange(30.0), evidence, 9, generator)
    assert torch.equal(generator.get_state(), seeded().get_state())


def test_a_module_in_the_current_folder_is_found(tmp_path, monkeypatch, evidence):
    (tmp_path / "my_acquisition.py").write_text(
        "def last(evidence, count, generator):\n    return evidence.candidates[-count:]\n"
        "class Alternating:\n"
        "    step = 0\n"
        "    def __call__(self, evidence, count, generator):\n"
        "        self.step += 1\n"
        "        return evidence.candidates[:count] if self.step % 2 else "
        "evidence.candidates[-count:]\n"
    )
    monkeypatch.chdir(tmp_path)
    found = find_acquisition("my_acquisition:last")
    assert acquire(found, evidence, 2, seeded()).tolist() == [101, 102]
    stateful = find_acquisition("my_acquisition:Alternating")
    steps = [acquire(stateful, evidence, 1, seeded()).tolist() for _ in range(3)]
    assert steps == [[100], [102], [100]]


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'entropy'"):
        find_acquisition("entrpy")
    with pytest.raises(ConfigError, match="cannot be imported"):
        find_acquisition("nowhere_at_all:f")
    with pytest.raises(ConfigError, match="Did you mean 'margin'"):
        find_acquisition("balanced:margn")


def test_what_is_not_a_function_is_refused():
    with pytest.raises(ConfigError, match="is a str"):
        find_acquisition("alprune:__version__")

    class NeedsMore:
        def __init__(self, size):
            self.size = size

    with pytest.raises(ConfigError, match="'NeedsMore' cannot be made without arguments"):
        find_acquisition(NeedsMore)


def test_what_a_function_declares_and_remembers_survives_wrapping():
    @needs(snapshots=3)
    class Remembering:
        def __call__(self, evidence, count, generator):
            return evidence.candidates[:count]

        def state_dict(self):
            return {"step": 4}

        def load_state_dict(self, state):
            self.state = state

    inner = Remembering()
    inner.func = entropy  # a usual name for a function that an object asks
    outer = wrap("around", lambda *_: None, inner)
    assert (snapshots_of(inner), snapshots_of(outer), snapshots_of(entropy)) == (3, 3, 0)
    assert outer.__name__ == "around:Remembering"
    assert outer.state_dict() == {"step": 4}
    outer.load_state_dict({"step": 5})
    assert inner.state == {"step": 5}


def test_functions_of_two_scripts_have_two_names(monkeypatch):
    def score(evidence, count, generator): ...

    score.__module__, score.__qualname__ = "__main__", "score"
    for script, name in (
        ("/work/v1.py", "v1:score"),
        ("v2.py", "v2:score"),
        (None, "__main__:score"),
    ):
        monkeypatch.setattr("__main__.__file__", script, raising=False)
        assert full_name(score) == name


@pytest.mark.parametrize("kind", [">f8", ">f4", "<f8", "f2", np.float32])
def test_scores_of_any_byte_order_and_width_are_taken(evidence, kind):
    scores = np.array([0.5, 3.0, 1.5]).astype(kind)
    assert acquire(lambda *_: scores, evidence, 2, seeded()).tolist() == [101, 102]


@pytest.mark.parametrize("kind", [">i8", ">i4", "u2", "u4", "u8", "i1"])
def test_indices_of_any_byte_order_and_width_are_taken(evidence, kind):
    indices = np.array([102, 100]).astype(kind)
    assert acquire(lambda *_: indices, evidence, 2, seeded()).tolist() == [102, 100]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_scores_of_half_precision_are_taken(evidence, kind):
    scores = torch.tensor([0.5, 3.0, 1.5]).to(kind)
    assert acquire(lambda *_: scores, evidence, 2, seeded()).tolist() == [101, 102]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: torch.tensor([0.0, 1.0, 2.0]).to_sparse(), "a sparse tensor"),
        (lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "a nested tensor"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "a quantised"),
        (lambda: np.ma.masked_array([1.0, 2.0, 3.0], [0, 1, 0]), "1 numbers are masked"),
        (lambda: np.array([1.0, None, 2.0], object), "returned ndarray"),
    ],
)
def test_arrays_that_torch_cannot_take_are_refused_by_name(evidence, made, message):
    with pytest.raises(AcquisitionError, match=message):
        acquire(lambda *_: made(), evidence, 2, seeded())


def test_a_masked_array_of_which_nothing_is_masked_is_an_array(evidence):
    scores = np.ma.masked_array([0.5, 3.0, 1.5], [0, 0, 0])
    assert acquire(lambda *_: scores, evidence, 2, seeded()).tolist() == [101, 102]
