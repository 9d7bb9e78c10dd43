import pytest
import torch
from torch import Generator, Tensor

from alprune.errors import ConfigError
from alprune.training.augment import Augment, crop, normalise

KINDS = [(torch.uint8, 1), (torch.uint8, 3), (torch.float32, 1), (torch.float32, 3)]


def images(b: int, h: int, w: int, c: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = Generator().manual_seed(seed)
    if dtype == torch.uint8:
        return torch.randint(0, 256, (b, h, w, c), dtype=dtype, generator=generator)
    return torch.randn((b, h, w, c), generator=generator) * 3 + 1


def crop_one(image: Tensor, top: int, left: int, flip: bool, pad: int) -> Tensor:
    """Pixel by pixel, from the definition; image `(h, w, c)`."""
    h, w, _ = image.shape
    out = torch.zeros_like(image)
    for row in range(h):
        for column in range(w):
            r, c = row + top - pad, column + left - pad
            if 0 <= r < h and 0 <= c < w:
                out[row, column] = image[r, w - 1 - c if flip else c]
    return out


def statistics(c: int) -> tuple[Tensor, Tensor]:
    return torch.tensor([0.5, 0.4, 0.3])[:c], torch.tensor([0.2, 0.25, 0.3])[:c]


@pytest.mark.parametrize(("dtype", "c"), KINDS)
@pytest.mark.parametrize("pad", [0, 1, 4])
def test_crop_equals_padding_and_cutting_each_image_alone(
    dtype: torch.dtype, c: int, pad: int
) -> None:
    x = images(24, 7, 5, c, dtype)
    generator = Generator().manual_seed(pad)
    top = torch.randint(0, 2 * pad + 1, (24,), generator=generator)
    left = torch.randint(0, 2 * pad + 1, (24,), generator=generator)
    flip = torch.rand(24, generator=generator) < 0.5
    top[:2], left[:2], top[-2:], left[-2:] = 0, 0, 2 * pad, 2 * pad  # all corners of the range
    expected = [
        crop_one(*each, pad=pad)
        for each in zip(x, top.tolist(), left.tolist(), flip.tolist(), strict=True)
    ]
    result = crop(x, top, left, flip, pad)
    assert result.dtype == dtype
    assert torch.equal(result, torch.stack(expected))


def test_crop_takes_batches_that_are_not_contiguous() -> None:
    x = images(12, 6, 10, 3, torch.uint8)[::2, :, ::2]
    zero = torch.zeros(6, dtype=torch.int64)
    assert torch.equal(crop(x, zero + 2, zero + 2, None, 2), x)
    assert torch.equal(crop(x, zero, zero, None, 0), x)


@pytest.mark.parametrize(("dtype", "c"), KINDS)
def test_normalise_equals_the_formula_in_float64(dtype: torch.dtype, c: int) -> None:
    x, (mean, std) = images(3, 6, 5, c, dtype), statistics(c)
    unit = 255 if dtype == torch.uint8 else 1
    expected = (x.double() / unit - mean.double()) / std.double()
    assert torch.allclose(
        normalise(x, mean, std).double(), expected.permute(0, 3, 1, 2), rtol=1e-6, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("c", [1, 3])
def test_normalised_batch_is_contiguous_in_channels_last(dtype: torch.dtype, c: int) -> None:
    x, (mean, std) = images(4, 8, 8, c, torch.uint8), statistics(c)
    for source in (x, x[:, ::2], x.transpose(1, 2), x[::2]):
        out = normalise(source, mean, std, dtype)
        assert out.dtype == dtype
        assert out.shape == (len(source), c, *source.shape[1:3])
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert out.stride() == out.contiguous(memory_format=torch.channels_last).stride() or c == 1


def test_stored_images_are_not_changed() -> None:
    for dtype in (torch.uint8, torch.float32):
        x = images(4, 8, 8, 3, dtype)
        before = x.clone()
        Augment(*statistics(3))(x, Generator().manual_seed(0))
        normalise(x, *statistics(3))
        assert torch.equal(x, before)


@pytest.mark.parametrize(("dtype", "c"), KINDS)
def test_every_augmented_image_is_one_of_the_possible_crops(dtype: torch.dtype, c: int) -> None:
    pad, (mean, std) = 1, statistics(c)
    x = images(16, 5, 6, c, dtype)
    out = Augment(mean, std, flip=True, pad=pad)(x, Generator().manual_seed(0))
    for image, result in zip(x, out, strict=True):
        possible = torch.stack(
            [
                crop_one(image, top, left, flip, pad)
                for top in range(3)
                for left in range(3)
                for flip in (False, True)
            ]
        )
        distance = (normalise(possible, mean, std) - result).abs().flatten(1).amax(1)
        assert distance.min() == 0


def test_places_and_flips_are_drawn_uniformly_and_independently() -> None:
    # One image whose pixels all differ, so the window shows where it was taken from.
    pad, n = 1, 18_000
    image = torch.arange(1.0, 26.0).view(1, 5, 5, 1)
    augment = Augment(torch.zeros(1), torch.ones(1), flip=True, pad=pad)
    out = augment(image.expand(n, 5, 5, 1), Generator().manual_seed(0))
    middle = out[:, 0, 1:4, 2]  # never padding: its centre says where, its order says nothing
    flipped = out[:, 0, 2, 1] > out[:, 0, 2, 3]
    kinds = torch.stack([middle[:, 1], flipped.float()], 1).unique(dim=0, return_counts=True)[1]
    assert len(kinds) == 18  # 9 places, each flipped or not
    assert (kinds - n / 18).abs().max() < 5 * (n / 18) ** 0.5


def test_same_generator_seed_gives_the_same_batch_and_another_gives_another() -> None:
    x, augment = images(32, 8, 8, 3, torch.uint8), Augment(*statistics(3))
    first = augment(x, Generator().manual_seed(7))
    assert torch.equal(first, augment(x, Generator().manual_seed(7)))
    assert not torch.equal(first, augment(x, Generator().manual_seed(8)))


def test_global_random_state_is_not_touched() -> None:
    before = torch.random.get_rng_state()
    Augment(*statistics(3))(images(8, 8, 8, 3, torch.uint8), Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_without_flip_and_padding_augment_only_normalises() -> None:
    x, (mean, std) = images(8, 6, 6, 3, torch.uint8), statistics(3)
    out = Augment(mean, std, flip=False, pad=0)(x, Generator().manual_seed(0))
    assert torch.equal(out, normalise(x, mean, std))


def test_without_flip_no_image_is_mirrored() -> None:
    x = torch.arange(8.0).view(1, 1, 8, 1).expand(200, 4, 8, 1)
    out = Augment(torch.zeros(1), torch.ones(1), flip=False, pad=2)(x, Generator().manual_seed(0))
    steps = out[:, 0, 2].diff(dim=1)
    assert ((steps == 1) | (steps == 0) | (out[:, 0, 2, 1:] == 0)).all()


def test_padding_is_black_before_normalisation() -> None:
    x = torch.full((64, 4, 4, 3), 255, dtype=torch.uint8)
    mean, std = statistics(3)
    out = Augment(mean, std, flip=False, pad=2)(x, Generator().manual_seed(0))
    values = out.permute(0, 2, 3, 1).reshape(-1, 3).unique(dim=0)
    assert torch.allclose(values, torch.stack([-mean / std, (1 - mean) / std]))


def test_negative_padding_is_refused() -> None:
    with pytest.raises(ConfigError, match="-1"):
        Augment(*statistics(3), pad=-1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_augment_equals_the_cpu_and_can_be_captured() -> None:
    x, (mean, std) = images(32, 8, 8, 3, torch.uint8).cuda(), statistics(3)
    top = torch.randint(0, 9, (32,), generator=Generator().manual_seed(0))
    flip = top % 2 == 0
    on_gpu = crop(x, top.cuda(), top.cuda(), flip.cuda(), 4)
    assert torch.equal(on_gpu.cpu(), crop(x.cpu(), top, top, flip, 4))

    augment = Augment(mean.cuda(), std.cuda())
    generator = Generator("cuda").manual_seed(0)
    augment(x, generator)  # warm up
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        out = augment(x, generator)
    graph.replay()
    first = out.clone()
    graph.replay()
    assert not torch.equal(first, out)
