"""What the ImageNet weights beside alprune know: accuracies that were measured before, again."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from alprune.models import build
from alprune.models.efficientnet_lite import MEAN, STD
from alprune.models.named_weights import find_weights
from alprune.models.pretrained import put_weights
from alprune.training.embeddings import Embedder

CIFAR = Path(__file__).parents[2] / ".." / "shared" / "data" / "cifar10-jpeg.npz"
COUNT, SIDE = 2000, 128


def photos(pack, split, seed):
    ends = np.cumsum(pack[f"{split}_lengths"].astype(np.int64))
    begins = np.r_[0, ends[:-1]]
    chosen = np.random.default_rng(seed).permutation(len(ends))[:COUNT]
    blob = pack[f"{split}_bytes"]
    images = [
        Image.open(io.BytesIO(blob[begins[i] : ends[i]].tobytes())).resize(
            (SIDE, SIDE), Image.Resampling.BILINEAR
        )
        for i in chosen
    ]
    stored = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images]))
    return stored, pack[f"{split}_labels"][chosen]


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR.exists(), reason="needs CIFAR-10 in ../shared/data")
def test_frozen_features_classify_as_well_as_measured_before():
    model = build("efficientnet-lite0", 2, (3, SIDE, SIDE))
    put_weights(model, find_weights("efficientnet-lite0").tensors, 2, "imagenet")
    embedder = Embedder(model.eval(), (3, SIDE, SIDE), (MEAN,) * 3, (STD,) * 3, "lite0", "test")
    found = []
    with np.load(CIFAR) as pack:
        for split in ("train", "test"):
            images, labels = photos(pack, split, 0)
            table = embedder.table(images)
            embedder.complete(images, table)
            found.append((table.of(np.arange(COUNT)).astype(np.float32), labels))
    (x, y), (test, truth) = found
    for labels, expected in ((150, 60.9), (450, 68.6), (1000, 71.5)):
        right = []
        for seed in range(3):
            known = np.random.default_rng(seed).permutation(COUNT)[:labels]
            scale = StandardScaler().fit(x[known])
            fitted = LogisticRegression(C=0.01, max_iter=2000)
            fitted.fit(scale.transform(x[known]), y[known])
            right.append(100 * (fitted.predict(scale.transform(test)) == truth).mean())
        assert np.mean(right) == pytest.approx(expected, abs=1.5 if labels == 150 else 1.0)
