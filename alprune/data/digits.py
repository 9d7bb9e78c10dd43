"""scikit-learn's handwritten digits: 1797 real 8x8 images that need no download."""

import numpy as np
import torch

from alprune.data.dataset import LoadOptions, Splits, make_splits

TEST_IMAGES = 500


def load(path: str, options: LoadOptions) -> Splits:
    """Load the digits: 1297 to train on, 500 to test, grey, always the same split.

    The test images are spread evenly over the images sorted by class, so that both parts have
    all classes in the same proportion.
    """
    from sklearn.datasets import load_digits  # here, as it takes most of a second

    bunch = load_digits()
    x = torch.from_numpy((bunch.images * (255 / 16)).round().astype(np.uint8))[..., None]
    y = torch.from_numpy(bunch.target.astype(np.int64))
    by_class = torch.from_numpy(np.argsort(bunch.target, kind="stable"))
    is_test = torch.zeros(len(y), dtype=torch.bool)
    is_test[by_class[(2 * torch.arange(TEST_IMAGES) + 1) * len(y) // (2 * TEST_IMAGES)]] = True
    classes = tuple(str(name) for name in bunch.target_names)
    return make_splits(
        (x[~is_test], y[~is_test]),
        (x[is_test], y[is_test]),
        classes,
        flip=False,
        size=options.size,
    )
