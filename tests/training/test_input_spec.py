import json
from dataclasses import replace

import pytest
import tiny_run
import torch

import alprune
from alprune.data import load
from alprune.errors import DataError
from alprune.training.input_spec import Inputs

GOOD = Inputs(("cat", "dog"), (3, 4, 5), "uint8", (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


def test_inputs_come_back_from_their_text():
    assert Inputs.from_json(GOOD.to_json()) == GOOD
    assert GOOD.torch_dtype == torch.uint8


def test_a_run_writes_down_what_its_learner_takes(tmp_path):
    result = alprune.run(tiny_run.options(tmp_path / "run", steps=1))
    inputs = Inputs.from_json((result.path / "inputs.json").read_text())
    train = load("digits").train
    assert inputs.classes == train.classes and inputs.image_shape == (1, 8, 8)
    assert (inputs.mean, inputs.std) == (train.mean, train.std)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes", [1, 2]),
        ("classes", None),
        ("image_shape", [3, 4]),
        ("image_shape", [3, 0, 4]),
        ("image_shape", [3, 10**6, 10**6]),
        ("image_shape", [3, 4.0, 5]),
        ("dtype", "float64"),
        ("dtype", ["uint8"]),
        ("mean", [0.1]),
        ("mean", ["a", "b", "c"]),
        ("std", [1.0, 0.0, 1.0]),
        ("std", [1.0, float("nan"), 1.0]),
    ],
)
def test_what_describes_no_inputs_is_refused(name, value):
    with pytest.raises(DataError, match=name if value else "NoneType"):
        Inputs.from_json(json.dumps(GOOD.record() | {name: value}))


@pytest.mark.parametrize("text", ["", "[]", "{}", "7", "[" * 10**5, '{"classes": 3}'])
def test_what_is_no_record_is_refused(text):
    with pytest.raises(DataError, match="describes? no learner's inputs"):
        Inputs.from_json(text)


def test_numbers_that_no_float_holds_are_refused():
    with pytest.raises(DataError, match="of at most 1e\\+30"):
        replace(GOOD, mean=(0.5, 10**40, 0.5))


def test_a_name_that_is_missing_is_told():
    record = {name: value for name, value in GOOD.record().items() if name != "std"}
    with pytest.raises(DataError, match="std"):
        Inputs.from_json(json.dumps(record))
