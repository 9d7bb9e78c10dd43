"""The same active-learning steps driven by alprune, baal or scikit-activeml; started by peers.py.

Prints one JSON object: seconds fitting, scoring and in all (without testing), test accuracy and
labelled points; with a budget, each library by its own defaults, `[processor seconds, accuracy,
labelled]` after each fit. Each peer is used as its own examples do it: baal's ModelWrapper,
ActiveLearningDataset and ActiveLearningLoop over PIL images with torchvision transforms;
scikit-activeml's SkorchClassifier and UncertaintySampling over one float array of all images.
"""

import argparse
import copy
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import TensorDataset, default_collate
from torchvision import transforms
from torchvision.transforms import v2

import alprune
from alprune import data
from alprune.data import Dataset, Splits, make_splits
from alprune.loop.learner import prune_learner
from alprune.loop.oracle import Simulation
from alprune.loop.setup import complete, first_labels, open_session
from alprune.training import FitSettings, Learner
from alprune.training.augment import normalise

PACKAGES = ("alprune", "torch", "torchvision", "numpy", "scikit-learn")
MORE = {"baal": ("baal",), "scikit-activeml": ("scikit-activeml", "skorch")}
PREDICT_BATCH = 128


@dataclass
class Clock:
    """Seconds that the parts have taken; processor seconds, of all threads, in `cpu_s`."""

    spent: dict[str, float] = field(default_factory=lambda: {"fit_s": 0.0, "score_s": 0.0})
    begin: float = field(default_factory=time.perf_counter)
    begin_cpu: float = field(default_factory=time.process_time)

    def __call__(self, part: str, work: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = work()
        self.spent[part] += time.perf_counter() - begin
        return result

    def outcome(self) -> dict[str, float]:
        """Return what was spent until now."""
        totals = (time.perf_counter() - self.begin, time.process_time() - self.begin_cpu)
        return self.spent | {"all_s": totals[0], "cpu_s": totals[1]}


def synthetic(points: int) -> Splits:
    """Ten classes of blurred colour patterns under noise, moved and mirrored: no download."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(10, 3, 6, 6, generator=generator)
    patterns = nn.functional.interpolate(patterns, size=(40, 40), mode="bicubic").clamp(0, 1)

    def images(n: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(n) % 10
        place = torch.randint(9, (n, 2), generator=generator).tolist()
        x = torch.stack(
            [patterns[k, :, i : i + 32, j : j + 32] for k, (i, j) in zip(y, place, strict=True)]
        )
        x = x + 0.5 * torch.randn(x.shape, generator=generator)
        return x.clamp(0, 1).mul(255).to(torch.uint8).permute(0, 2, 3, 1).contiguous(), y

    return make_splits(images(points), images(2000), tuple("abcdefghij"), flip=True)


def config_of(options: argparse.Namespace, own: bool, out: str) -> alprune.RunConfig:
    """Describe the run; `own`: with alprune's own schedule and averaged weights."""
    same = {} if own else {"schedule": "constant", "averaging": 0.0, "warmup_batches": 0}
    return complete(
        alprune.RunConfig(
            dataset="digits",  # not loaded: the images are handed over
            model=options.model,
            method=options.method,
            steps=options.steps,
            initial=options.initial,
            initial_epochs=float(options.initial_epochs),
            epochs=float(options.epochs),
            query_size=options.query,
            score_subset=options.subset,
            batch_size=options.batch_size,
            lr=options.lr,
            device="cpu",
            precision="fp32",
            flip=True,
            eval_every=10**6,
            seed=options.seed,
            out=out,
            **same,
        )
    )


def with_alprune(options: argparse.Namespace, splits: Splits, own: bool = False) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(options, own, f"{folder}/run")
        session = open_session(config, splits)
        test, tests = session.learner.evaluate, Clock()

        def evaluate(*images: Any) -> Any:
            begin_cpu = time.process_time()
            found = test(*images)
            tests.begin_cpu += time.process_time() - begin_cpu  # as if it had begun later
            return found

        session.learner.evaluate = evaluate  # type: ignore[method-assign]
        result = session.run(Simulation(splits.train))
        cpu_s = tests.outcome()["cpu_s"]
        steps = [e for e in alprune.read_events(Path(result.path)) if e["event"] == "step"]
    return {
        "fit_s": sum(e["train_s"] for e in steps),
        "score_s": sum(e["score_s"] + e["acquire_s"] for e in steps if "score_s" in e),
        "all_s": result.elapsed_s,
        "cpu_s": cpu_s,
        "test_accuracy": result.test_accuracy,
        "labelled": result.labelled,
    }


def start(options: argparse.Namespace, splits: Splits) -> tuple[nn.Module, Tensor]:
    """Build the learner that alprune begins with, and the points labelled first."""
    config = config_of(options, False, "unused")
    pool, first = first_labels(config, splits.train)
    model = prune_learner(config, splits.train, first, pool.label_of(first)).model
    if options.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model, first


def accuracy(model: nn.Module, test: Dataset) -> float:
    mean, std = torch.tensor(test.mean), torch.tensor(test.std)
    model.eval()
    with torch.inference_mode():
        right = [
            (model(normalise(x, mean, std)).argmax(1) == y).sum()
            for x, y in zip(test.x.split(256), test.y.split(256), strict=True)
        ]
    return int(sum(right)) / len(test)


class Images(torch.utils.data.Dataset):
    """PIL images with a transform, as torchvision's data sets have it."""

    def __init__(self, source: Dataset, transform: Callable[[Image.Image], Tensor]) -> None:
        self.images, self.targets = source.x.numpy(), source.y.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.targets[index]


def sgd(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "lr": options.lr,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
        "fused": True,
    }


def quiet_baal() -> None:
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


def with_baal(options: argparse.Namespace, splits: Splits) -> dict[str, Any]:
    from baal import ModelWrapper
    from baal.active import ActiveLearningDataset
    from baal.active.active_loop import ActiveLearningLoop
    from baal.active.heuristics import Entropy
    from baal.modelwrapper import TrainingArgs

    quiet_baal()
    train = splits.train
    model, first = start(options, splits)
    plain = [transforms.ToTensor(), transforms.Normalize(train.mean, train.std)]
    varied = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    images = Images(train, transforms.Compose([*varied, *plain]))
    labelled = ActiveLearningDataset(
        images, pool_specifics={"transform": transforms.Compose(plain)}
    )
    labelled.label(first.tolist())
    args = TrainingArgs(
        optimizer=torch.optim.SGD(model.parameters(), **sgd(options)),
        batch_size=options.batch_size,
        use_cuda=False,
        workers=options.workers,
        criterion=nn.CrossEntropyLoss(),
    )
    wrapper = ModelWrapper(model, args)
    loop = ActiveLearningLoop(
        labelled,
        wrapper.predict_on_dataset,
        Entropy(),
        query_size=options.query,
        max_sample=options.subset,
        iterations=1,
        verbose=False,
    )
    clock = Clock()
    for step in range(options.steps + 1):
        args.epoch = options.epochs if step else options.initial_epochs
        clock("fit_s", partial(wrapper.train_on_dataset, labelled))
        if step < options.steps:
            args.batch_size = PREDICT_BATCH
            clock("score_s", loop.step)
            args.batch_size = options.batch_size
    return clock.outcome() | {
        "test_accuracy": accuracy(model, splits.test),
        "labelled": len(labelled),
    }


def arrays(train: Dataset, first: Tensor) -> tuple[Any, Any]:
    """Return all images as one float array, and their labels, -1 where not yet known."""
    import numpy as np

    mean, std = torch.tensor(train.mean), torch.tensor(train.std)
    y = np.full(len(train), -1)
    y[first] = train.y[first]
    return normalise(train.x, mean, std).contiguous().numpy(), y


def with_activeml(options: argparse.Namespace, splits: Splits) -> dict[str, Any]:
    import numpy as np
    from skactiveml.classifier import SkorchClassifier
    from skactiveml.pool import UncertaintySampling
    from skactiveml.utils import unlabeled_indices

    train = splits.train
    model, first = start(options, splits)
    varied = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()])
    x, y = arrays(train, first)

    classifier = SkorchClassifier(
        module=model,
        criterion=nn.CrossEntropyLoss,
        classes=list(range(len(train.classes))),
        missing_label=-1,
        neural_net_param_dict={
            "batch_size": options.batch_size,
            "iterator_train__shuffle": True,
            "iterator_train__num_workers": options.workers,
            "iterator_train__collate_fn": lambda batch: default_collate(
                [(varied(torch.as_tensor(image)), label) for image, label in batch]
            ),
            "iterator_valid__batch_size": PREDICT_BATCH,
            "train_split": None,
            "optimizer": torch.optim.SGD,
            "verbose": 0,
            "warm_start": True,
        }
        | {f"optimizer__{name}": value for name, value in sgd(options).items()},
    )
    strategy = UncertaintySampling(method="entropy", missing_label=-1, random_state=options.seed)
    draws = np.random.default_rng(options.seed)

    def query() -> Any:
        candidates = draws.choice(unlabeled_indices(y, missing_label=-1), options.subset, False)
        return strategy.query(
            X=x, y=y, clf=classifier, fit_clf=False, candidates=candidates, batch_size=options.query
        )

    clock = Clock()
    for step in range(options.steps + 1):
        epochs = options.epochs if step else options.initial_epochs
        clock("fit_s", partial(classifier.partial_fit, x, y, epochs=epochs))
        if step < options.steps:
            asked = clock("score_s", query)
            y[asked] = train.y.numpy()[asked]
    return clock.outcome() | {
        "test_accuracy": accuracy(classifier.neural_net_.module_, splits.test),
        "labelled": int((y >= 0).sum()),
    }


def labelled_wrapper(options: argparse.Namespace, splits: Splits) -> dict[str, Any]:
    """baal-org/baal#264: one epoch over everything, all labelled, LeNet-5, without augmentation."""
    from baal import ModelWrapper
    from baal.active import ActiveLearningDataset
    from baal.modelwrapper import TrainingArgs

    quiet_baal()
    train = splits.train
    model = alprune.build("lenet-5-caffe", classes=10, input_shape=train.image_shape)
    mean, std = torch.tensor(train.mean), torch.tensor(train.std)
    plain = TensorDataset(normalise(train.x, mean, std).contiguous(), train.y)
    wrapped = ActiveLearningDataset(plain)
    wrapped.label(list(range(len(train))))

    def baal_epoch(images: Any) -> Callable[[], Any]:
        own = copy.deepcopy(model)
        args = TrainingArgs(
            optimizer=torch.optim.SGD(own.parameters(), lr=0.01),
            batch_size=options.batch_size,
            epoch=1,
            use_cuda=False,
            workers=0,
            criterion=nn.CrossEntropyLoss(),
        )
        return lambda: ModelWrapper(own, args).train_on_dataset(images)

    settings = FitSettings(lr=0.01, batch_size=options.batch_size, pad=0, flip=False, averaging=0)
    learner = Learner(copy.deepcopy(model), train, settings, torch.device("cpu"), torch.float32)
    everything = torch.arange(len(train))
    generator = torch.Generator().manual_seed(0)
    epochs = {
        "alprune_s": lambda: learner.fit(everything, train.y, 1.0, generator),
        "baal_plain_s": baal_epoch(plain),
        "baal_labelled_s": baal_epoch(wrapped),
    }
    taken = {}
    for name, epoch in epochs.items():
        begin = time.perf_counter()
        epoch()
        taken[name] = time.perf_counter() - begin
    return taken | {"points": len(train)}


def until_spent(
    options: argparse.Namespace, fit: Callable[[], Any], score: Callable[[], Any], test: Any
) -> dict[str, Any]:
    """Fit and score in turns for a time; return the accuracies and when they were reached."""
    clock, spent, curve = Clock(), 0.0, []
    while True:
        begin = time.process_time()
        clock("fit_s", fit)
        spent += time.process_time() - begin
        accuracy, labelled = test()
        curve.append([spent, accuracy, labelled])
        if spent > options.budget:
            return {"curve": curve}
        begin = time.process_time()
        clock("score_s", score)
        spent += time.process_time() - begin


def alprune_defaults(options: argparse.Namespace, splits: Splits) -> dict[str, Any]:
    """As `alprune run` has it, on the processor's time."""
    with tempfile.TemporaryDirectory() as folder:
        config = alprune.RunConfig(
            dataset="digits",  # not loaded: the images are handed over
            model=options.model,
            method=options.method,
            budget=options.budget,
            seed=options.seed,
            initial=options.initial,
            initial_epochs=10.0,  # CIFAR-10's, not those of the digits
            query_size=50,
            batch_size=64,
            flip=True,
            device="cpu",
            precision="fp32",
            eval_every=5,
            out=f"{folder}/run",
        )
        session = open_session(complete(config), splits, now=time.process_time)
        result = session.run(Simulation(splits.train))
        events = alprune.read_events(Path(result.path))
    curve = [
        [e["elapsed_s"], e["test_accuracy"], e["labelled"]] for e in events if "test_accuracy" in e
    ]
    return {"curve": curve}


def baal_defaults(options: argparse.Namespace, splits: Splits) -> dict[str, Any]:
    """As experiments/vgg_mcdropout_cifar10.py of baal, with our network and its size of images."""
    from baal import ModelWrapper
    from baal.active import ActiveLearningDataset
    from baal.active.active_loop import ActiveLearningLoop
    from baal.active.heuristics import Entropy
    from baal.modelwrapper import TrainingArgs

    quiet_baal()
    model, first = start(options, splits)
    plain = [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    varied = [transforms.RandomHorizontalFlip(), transforms.RandomRotation(30)]
    labelled = ActiveLearningDataset(
        Images(splits.train, transforms.Compose([*varied, *plain])),
        pool_specifics={"transform": transforms.Compose(plain)},
    )
    labelled.label(first.tolist())
    args = TrainingArgs(
        optimizer=torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9),
        batch_size=32,
        epoch=20,
        use_cuda=False,
        workers=0,
        criterion=nn.CrossEntropyLoss(),
    )
    wrapper, fresh = ModelWrapper(model, args), copy.deepcopy(model.state_dict())
    loop = ActiveLearningLoop(
        labelled, wrapper.predict_on_dataset, Entropy(), query_size=100, iterations=1, verbose=False
    )

    def fit() -> None:
        model.load_state_dict(fresh)
        wrapper.train_on_dataset(labelled)

    def test() -> tuple[float, int]:
        half = replace(splits.test, mean=(0.5,) * 3, std=(0.5,) * 3)
        return accuracy(model, half), len(labelled)

    return until_spent(options, fit, loop.step, test)


def activeml_defaults(options: argparse.Namespace, splits: Splits) -> dict[str, Any]:
    """With skorch's defaults: SGD at 0.01, batches of 128, 10 epochs from fresh weights."""
    from skactiveml.classifier import SkorchClassifier
    from skactiveml.pool import UncertaintySampling

    train = splits.train
    model, first = start(options, splits)
    x, y = arrays(train, first)
    classifier = SkorchClassifier(
        module=model,
        criterion=nn.CrossEntropyLoss,
        classes=list(range(len(train.classes))),
        missing_label=-1,
        neural_net_param_dict={"train_split": None, "verbose": 0},
    )
    strategy = UncertaintySampling(method="entropy", missing_label=-1, random_state=options.seed)

    def score() -> None:
        asked = strategy.query(X=x, y=y, clf=classifier, fit_clf=False, batch_size=100)
        y[asked] = train.y.numpy()[asked]

    def test() -> tuple[float, int]:
        return accuracy(classifier.neural_net_.module_, splits.test), int((y >= 0).sum())

    return until_spent(options, lambda: classifier.fit(x, y), score, test)


DEFAULTS = {
    "alprune": alprune_defaults,
    "baal": baal_defaults,
    "scikit-activeml": activeml_defaults,
}
CONTENDERS: dict[str, Callable[[argparse.Namespace, Splits], dict[str, Any]]] = {
    "alprune": with_alprune,
    "alprune-own": lambda options, splits: with_alprune(options, splits, own=True),
    "baal": with_baal,
    "scikit-activeml": with_activeml,
    "wrapper": labelled_wrapper,
}


def main() -> None:
    options = argparse.Namespace(**json.loads(sys.argv[1]))
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    if options.data == "synthetic":
        splits = synthetic(options.points)
    else:
        splits = data.load(options.data)
    contenders = DEFAULTS if options.budget else CONTENDERS
    outcome = contenders[options.contender](options, splits)
    packages = (*PACKAGES, *MORE.get(options.contender, ()))
    outcome["versions"] = {name: version(name) for name in packages}
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
