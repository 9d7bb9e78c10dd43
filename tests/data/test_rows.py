import copy
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from alprune.data.dataset import content_digest
from alprune.data.lazy_rows import ChosenRows
from alprune.data.memmap import MappedImages, map_images
from alprune.data.statistics import channel_statistics

SHAPE = (9, 4, 5, 3)
ROWS = torch.tensor([7, 2, 2, 0, 8, 5])


@pytest.fixture
def stored(tmp_path: Path) -> Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    path = tmp_path / "pixels"
    path.write_bytes(pixels.tobytes())
    with open(path, "rb") as file:
        return map_images(file, 0, torch.uint8, SHAPE)


@pytest.fixture(params=[3, 1])
def both(stored: Tensor, request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    """Chosen rows, and what they stand for."""
    return ChosenRows(stored, ROWS, request.param), stored[ROWS][..., : request.param].contiguous()


OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "an index": lambda x: x[2],
    "an index from the end": lambda x: x[-1],
    "a slice": lambda x: x[1:4],
    "a slice of a slice": lambda x: x[1:5][1:3],
    "a slice with a step": lambda x: x[::2],
    "everything": lambda x: x[:],
    "rows": lambda x: x[torch.tensor([4, 0, 4])],
    "rows as a list": lambda x: x[[4, 0]],
    "no rows": lambda x: x[:0],
    "a mask": lambda x: x[torch.tensor([True, False, True, False, False, True])],
    "a table of rows": lambda x: x[torch.tensor([[4, 0], [1, 1]])],
    "a pixel": lambda x: x[2, 1, 0],
    "a part of a part": lambda x: x[1:4, 2, :, :1],
    "a channel": lambda x: x[..., 0],
    "index_select": lambda x: x.index_select(0, torch.tensor([3, 1])),
    "columns": lambda x: x.index_select(2, torch.tensor([3, 1])),
    "torch.index_select": lambda x: torch.index_select(x, 0, torch.tensor([3, 1])),
    "split": lambda x: x.split(4)[1],
    "permute": lambda x: x.permute(0, 3, 1, 2),
    "floats": lambda x: x.float() / 255,
    "a sum": lambda x: x.sum(0),
    "a comparison": lambda x: x == 3,
    "to itself": lambda x: x.to("cpu"),
    "another type": lambda x: x.to(torch.int64),
    "a clone": lambda x: x.clone(),
    "a cat": lambda x: torch.cat([x, x[:1]]),
    "a stack": lambda x: torch.stack(list(x)),
    "numpy": lambda x: torch.from_numpy(x.numpy()),
    "an array": lambda x: torch.from_numpy(np.asarray(x)),
    "a copy": lambda x: copy.deepcopy(x),
    "a resize": lambda x: torch.nn.functional.interpolate(x.float(), size=(7, 3)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_chosen_rows_behave_as_the_images_that_they_are(
    both: tuple[Tensor, Tensor], name: str
) -> None:
    chosen, plain = both
    got, expected = OPERATIONS[name](chosen), OPERATIONS[name](plain)
    assert got.shape == expected.shape and got.dtype == expected.dtype
    assert torch.equal(got.clone(), expected)


def test_shape_and_type_are_known_without_a_look(
    both: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, plain = both
    monkeypatch.setattr(ChosenRows, "_taken", lambda *_: pytest.fail("the images were read"))
    assert (len(chosen), chosen.shape, chosen.dtype) == (len(plain), plain.shape, plain.dtype)
    assert (chosen.ndim, chosen.numel(), chosen.element_size()) == (4, plain.numel(), 1)
    assert chosen.device == plain.device and not chosen.is_floating_point()
    assert chosen.size(0) == 6 and chosen.dim() == 4
    assert repr(chosen).startswith("ChosenRows")
    assert chosen[1:4].shape[0] == 3 and chosen.to("cpu") is chosen


def test_one_index_reads_one_row(stored: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    plain = MappedImages.__getitem__

    def noting(self: Tensor, key: Tensor) -> Tensor:
        read.append(key.numel())
        return plain(self, key)

    monkeypatch.setattr(MappedImages, "__getitem__", noting)
    chosen = ChosenRows(stored, ROWS)
    _ = chosen[2], chosen[1:3].float(), chosen[torch.tensor([0, 5])]
    assert read == [1, 2, 2]


def test_statistics_and_digest_are_those_of_the_images(both: tuple[Tensor, Tensor]) -> None:
    chosen, plain = both
    y = torch.zeros(6, dtype=torch.int64)
    assert channel_statistics(chosen) == channel_statistics(plain)
    assert content_digest(chosen, y) == content_digest(plain, y)


def test_chosen_rows_are_saved_as_what_they_are(both: tuple[Tensor, Tensor]) -> None:
    chosen, plain = both
    buffer = io.BytesIO()
    torch.save(chosen, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=True), plain)
