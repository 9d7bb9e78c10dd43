import functools
import json
import shutil
from dataclasses import replace

import pytest
import tiny_run
import torch
from click.testing import CliRunner
from made_photos import write_photos
from torch import nn

import alprune
from alprune.cli import main
from alprune.errors import ConfigError, ModelError, StoreError
from alprune.models import MODELS
from alprune.pruning import METHODS
from alprune.runs.export import FORMATS, formats, onnx
from alprune.runs.export import check as checking
from alprune.runs.load import Learned, find_learner, load_learner
from alprune.training.classifier import Classifier
from alprune.training.input_spec import Inputs

IMAGES = torch.randint(17, (7, 8, 8, 1), generator=torch.Generator().manual_seed(3)).byte()


@pytest.fixture(autouse=True)
def packages(request):
    if "onnx" in str(getattr(request.node, "callspec", None) and request.node.callspec.params):
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run"
    return alprune.run(tiny_run.options(path, steps=1, hold_out=20)).path


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """Export the run to a format, once for all tests."""

    @functools.cache
    def once(name):
        [made] = alprune.export(run, name, tmp_path_factory.mktemp("mine") / f"mine.{name}")
        return made

    return once


def call(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


def made(name, method="dense", shape=None, classes=5, **options):
    """Make a learner of a network as if it had been trained, statistics and all."""
    shape = shape or MODELS[name].input_shape
    network = alprune.build(name, classes, shape)
    draws = torch.Generator().manual_seed(0)
    batch = torch.randn(8, *shape, generator=draws), torch.arange(8) % classes
    pruned = alprune.prune(network, method, batch=batch, **options)
    model = pruned.model.train()
    with torch.no_grad():
        model(batch[0])  # moves the BatchNorms' statistics off their beginning
    inputs = Inputs(
        tuple(f"class {i}" for i in range(classes)), shape, "uint8",
        (0.4,) * shape[0], (0.25,) * shape[0],
    )  # fmt: skip
    return Learned(Classifier(model, inputs, 1.7), name, pruned.plan, "a test")


def difference(learned, name, tmp_path, count=5):
    file = tmp_path / f"learner.{name}"
    file.write_bytes(FORMATS[name].write(learned))
    images, _ = checking.images_for(learned, count)
    return checking.compare(learned, FORMATS[name].run(file, learned), images, "noise")


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_file_predicts_what_the_learner_does_and_its_labels_lie_beside_it(run, exported, name):
    found = exported(name)
    assert found.path.name == f"mine.{name}" and found.path.is_file()
    assert found.difference.largest < 1e-5 and found.difference.argmax == 0
    assert found.difference.source == "256 images of digits"
    labels = json.loads(found.labels.read_text())
    assert labels["classes"] == [str(i) for i in range(10)]
    assert labels["input"]["shape"] == ["batch", 8, 8, 1] and labels["input"]["dtype"] == "uint8"
    assert labels["temperature"] == load_learner(run).temperature and found.calibrated
    names = {path.name for path in found.path.parent.iterdir()}
    assert names == {f"mine.{name}", f"mine.{name}.labels.json"}


@pytest.mark.parametrize("name", ["onnx", "pt2"])
def test_a_file_takes_images_of_any_size_as_pillow_would_resize_them(run, exported, name):
    from PIL import Image

    learned, file = find_learner(run), exported(name).path
    predict, most = FORMATS[name].run(file, learned), {"onnx": 1e-4, "pt2": 0.005}[name]
    draws = torch.Generator().manual_seed(1)
    for size in ((8, 8), (5, 13), (40, 31)):
        images = torch.randint(256, (4, *size, 1), generator=draws, dtype=torch.uint8)
        small = [
            Image.fromarray(i[..., 0].numpy()).resize((8, 8), Image.Resampling.BILINEAR)
            for i in images
        ]
        pixels = [torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8) for i in small]
        expected = checking.reference(learned, torch.stack(pixels).view(4, 8, 8, 1))
        assert (predict(images) - expected).abs().max() < most, size
    assert "8 x 8" in json.loads(formats.labels_json(learned))["resize"]


def test_onnx_runs_without_alprune_and_names_its_classes(run, exported):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    file = exported("onnx").path
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    [entry], [out] = session.get_inputs(), session.get_outputs()
    shape = ["batch", "height", "width", 1]
    assert (entry.name, entry.type, entry.shape) == ("images", "tensor(uint8)", shape)
    assert out.name == "probabilities" and isinstance(entry.shape[0], str)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == [str(i) for i in range(10)]
    wanted = load_learner(run).predict(IMAGES)
    for count in (1, 2, 7):
        [got] = session.run(None, {"images": IMAGES[:count].numpy()})
        assert torch.allclose(torch.from_numpy(got), wanted[:count], atol=1e-5)


def test_a_program_runs_without_alprune_and_holds_its_labels(run, exported):
    extra = {"labels.json": ""}
    module = torch.export.load(exported("pt2").path, extra_files=extra).module()
    assert json.loads(extra["labels.json"])["classes"] == [str(i) for i in range(10)]
    wanted = load_learner(run).predict(IMAGES)
    for count in (1, 2, 7):
        assert torch.allclose(module(IMAGES[:count]), wanted[:count], atol=1e-5)


def test_a_safetensors_file_is_the_learner_without_its_run(run, exported):
    import tiny_learner

    file = exported("safetensors").path
    learner = load_learner(file, tiny_learner.build(10, (1, 8, 8)))
    assert torch.equal(learner.predict(IMAGES), load_learner(run).predict(IMAGES))
    assert learner.inputs == load_learner(run).inputs
    with pytest.raises(StoreError, match="network of your own.*load_learner"):
        load_learner(file)


def test_a_file_of_one_of_our_networks_needs_nothing_else(tmp_path, monkeypatch):
    learned = made("resnet20", "3sp-ca", flops_reduction=0.7)
    file = tmp_path / "learner.safetensors"
    file.write_bytes(FORMATS["safetensors"].write(learned))
    images, _ = checking.images_for(learned, 3)
    assert torch.equal(load_learner(file).predict(images), learned.classifier.predict(images))
    assert find_learner(file).plan == learned.plan
    monkeypatch.setattr("alprune.runs.load._FORMAT", 2)
    with pytest.raises(StoreError, match="its format is 1, and 2 is read"):
        load_learner(file)


def test_several_formats_lie_beside_each_other(run):
    first, second = alprune.export(run, ["pt2", "safetensors"])
    assert (first.path, second.path) == (run / "learner.pt2", run / "learner.safetensors")


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize(
    ("network", "method"),
    [
        ("lenet-5-caffe", "3sp"),
        pytest.param("resnet9-small", "snip", marks=pytest.mark.slow),
        pytest.param("resnet20", "snip", marks=pytest.mark.slow),
        pytest.param("lstm-s", "3sp", marks=pytest.mark.slow),
        pytest.param("gru-s", "snip", marks=pytest.mark.slow),
        pytest.param("mobilenet-v3-small", "3sp-ca", marks=pytest.mark.slow),
    ],
)
def test_pruned_networks_of_all_kinds_can_be_taken_out(network, method, name, tmp_path):
    found = difference(made(network, method), name, tmp_path)
    assert found.largest < 1e-4 and found.images == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("network", list(MODELS))
def test_every_network_can_be_taken_out(network, name, tmp_path):
    found = difference(made(network, "uniform", flops_reduction=0.8), name, tmp_path)
    assert found.largest < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name, entry in METHODS.items() if not entry.early])
def test_every_method_can_be_taken_out(method, tmp_path):
    for name in FORMATS:
        assert difference(made("vgg-like", method), name, tmp_path).largest < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize(
    "network", ["resnet18", "mobilenet_v3_small", "efficientnet_b0", "vit_b_16"]
)
def test_torchvisions_networks_can_be_taken_out(network, name, tmp_path):
    learned = made(f"torchvision:{network}", shape=(3, 224, 224))
    assert difference(learned, name, tmp_path, count=2).largest < 1e-4


def test_floating_point_images_stay_in_their_unit(tmp_path):
    learned = made("lenet-300-100")
    inputs = replace(learned.classifier.inputs, dtype="float32", mean=(-3.0,), std=(70.0,))
    learned = replace(learned, classifier=Classifier(learned.classifier.network, inputs))
    assert difference(learned, "pt2", tmp_path).largest < 1e-5


class Branching(nn.Module):
    def __init__(self, classes, input_shape):
        super().__init__()
        self.layer = nn.Linear(64, classes)

    def forward(self, x):
        out = self.layer(x.flatten(1))
        return out if float(out.sum()) > 0 else out * 2


@pytest.mark.parametrize("name", ["onnx", "pt2"])
def test_what_cannot_be_traced_is_told(name):
    inputs = Inputs(("a", "b"), (1, 8, 8), "uint8", (0.5,), (0.3,))
    learned = made("lenet-300-100")
    classifier = Classifier(Branching(2, (1, 8, 8)), inputs)
    with pytest.raises(ModelError, match="cannot be traced.*safetensors instead"):
        FORMATS[name].write(replace(learned, classifier=classifier))


def test_a_file_that_predicts_something_else_is_not_left_behind(run, tmp_path, monkeypatch):
    def wrong(learned):
        warm = Classifier(learned.classifier.network, learned.classifier.inputs, 9.0)
        return FORMATS["safetensors"].write(replace(learned, classifier=warm))

    monkeypatch.setitem(FORMATS, "wrong", replace(FORMATS["safetensors"], write=wrong))
    with pytest.raises(StoreError, match=r"was not written.*from the learner's.*at most 0\.001"):
        alprune.export(run, "wrong", tmp_path / "a.pt2")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.pt2").write_text("the one before")
    done = call("export", run, "--format", "wrong", "--out", tmp_path / "a.pt2")
    assert done.exit_code == 1 and (tmp_path / "a.pt2").read_text() == "the one before"
    assert alprune.export(run, "wrong", tmp_path / "b.pt2", check=False)[0].difference is None


def test_missing_packages_are_named_with_the_command_that_installs_them(run, monkeypatch):
    monkeypatch.setattr(onnx.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"not installed: pip install onnx onnxruntime onnxscript"
    ):
        alprune.export(run, "onnx")


def test_without_the_data_the_check_takes_random_images_and_says_so(tmp_path):
    photos = write_photos(tmp_path / "photos")
    config = tiny_run.options(
        tmp_path / "run", dataset=f"folder:{photos}", initial=20, query_size=5, steps=1
    )
    path = alprune.run(config).path
    [exported] = alprune.export(path, "pt2")
    assert exported.difference.source == f"80 images of folder:{photos}"
    shutil.rmtree(photos)
    done = call("export", path, "--format", "pt2")
    assert done.exit_code == 0, done.output
    assert "checked on 256 random images (the run's own cannot be had: there is no" in done.stdout
    assert "not calibrated" in done.stdout


def test_the_command_prints_json(run, tmp_path):
    done = call("export", run, "--format", "pt2, safetensors", "--out", tmp_path / "x", "--json")
    assert done.exit_code == 0, done.output
    first, second = json.loads(done.stdout)
    assert (first["path"], second["path"]) == (f"{tmp_path}/x.pt2", f"{tmp_path}/x.safetensors")
    assert first["difference"]["images"] == 256


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--format", "onxx"], "unknown format 'onxx'.*Did you mean 'onnx'"),
        (["--format", "math:sqrt"], "unknown format"),
        (["--format", "pt2", "--out", "/proc/none/x.pt2"], "cannot write /proc/none/x.pt2"),
        (["--format", "safetensors", "--out", "."], r"\. is a folder; name a file"),
    ],
)
def test_mistakes_are_one_message(run, args, message):
    done = call("export", run, *args)
    assert done.exit_code == 1 and "Traceback" not in done.output
    import re

    assert re.search(message, done.stderr), done.stderr
