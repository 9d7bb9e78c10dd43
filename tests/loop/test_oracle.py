import torch

from alprune.data import Dataset
from alprune.loop.oracle import Simulation


def dataset(labels):
    y = torch.tensor(labels)
    x = torch.zeros(len(y), 2, 2, 1, dtype=torch.uint8)
    names = tuple("abc"[: int(y.max()) + 1])
    return Dataset(x, y, names, (0.5,), (0.2,), False, "test")


def test_a_simulation_answers_what_the_data_set_says():
    train = dataset([0, 1, 2, 1])
    assert Simulation(train)(torch.tensor([3, 0])).tolist() == [1, 0]


def test_a_noisy_simulation_is_wrong_as_often_as_asked_and_sticks_to_it():
    train = dataset([0, 1, 2] * 100)
    oracle, twin, other = (Simulation(train, 0.1, seed) for seed in (4, 4, 5))
    every = torch.arange(300)
    assert int((oracle(every) != train.y).sum()) == 30
    assert torch.equal(oracle(every), twin(every)) and not torch.equal(oracle(every), other(every))
    one_by_one = torch.cat([oracle(torch.tensor([i])) for i in range(299, -1, -1)])
    assert torch.equal(one_by_one.flip(0), oracle(every))
    assert torch.equal(oracle.labels, oracle(every))
