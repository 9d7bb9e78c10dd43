"""Pruned networks of many kinds, exported in every format, give the same probabilities."""

import pytest
import torch

from alprune.models import MODELS, build
from alprune.pruning import prune
from alprune.runs.export import FORMATS
from alprune.runs.export.check import compare
from alprune.runs.load import Learned
from alprune.training.classifier import Classifier
from alprune.training.input_spec import Inputs

NETWORKS = """vgg19 resnet20 resnet18 wrn-16-8 mobilenet-v2 efficientnet-b0 lstm-s gru-s
    torchvision:shufflenet_v2_x0_5 torchvision:mnasnet0_5 torchvision:densenet121
    torchvision:regnet_y_400mf torchvision:convnext_tiny torchvision:vit_b_32 torchvision:swin_t
    timm:vit_tiny_patch16_224 timm:deit_tiny_distilled_patch16_224 timm:convnextv2_atto
    timm:mobilevit_xxs timm:fasternet_t0 timm:nf_resnet26 timm:res2net50_14w_8s
    timm:mambaout_femto""".split()
CLASSES = 5


def pruned_learner(name):
    shape = MODELS[name].input_shape if name in MODELS else (3, 64, 64)
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(8, *shape, generator=generator), torch.arange(8) % CLASSES
    pruned = prune(
        build(name, CLASSES, shape, seed=1), batch=batch, flops_reduction=0.4, normalised="follow"
    )
    assert pruned.flops_reduction >= 0.4
    with torch.no_grad():
        pruned.model.train()(batch[0])  # moves the BatchNorms' statistics
    classes = tuple(map(str, range(CLASSES)))
    inputs = Inputs(classes, shape, "uint8", (0.4,) * shape[0], (0.25,) * shape[0])
    return Learned(Classifier(pruned.model, inputs, 1.3), name, pruned.plan, "a test")


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_format_gives_the_probabilities_of_the_pruned_network(name, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    learned = pruned_learner(name)
    channels, height, width = learned.classifier.inputs.image_shape
    images = torch.randint(
        256, (5, height, width, channels), generator=torch.Generator().manual_seed(2)
    ).byte()
    found = {}
    for kind, entry in FORMATS.items():
        file = tmp_path / f"learner.{kind}"
        file.write_bytes(entry.write(learned))
        found[kind] = compare(learned, entry.run(file, learned), images, "noise")
    assert all(f.largest < 1e-4 and f.argmax == 0 for f in found.values()), found
