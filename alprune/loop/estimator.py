"""A scikit-learn classifier whose network is pruned before training, for other people's loops."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from alprune.data.dataset import Dataset
from alprune.data.statistics import channel_statistics
from alprune.errors import ConfigError, InputError
from alprune.loop.config import OPTIONS, RunConfig
from alprune.loop.defaults import ResolvedRun
from alprune.loop.learner import new_learner, prune_learner
from alprune.loop.setup import complete
from alprune.models import MODELS
from alprune.pruning import find_method
from alprune.pruning.option_values import plain
from alprune.training.budget import Budget

_LARGE_MODEL, _SMALL_MODEL = "vgg19", "lenet-300-100"
_WARMUP_BATCHES = 10  # fits are short here,
_WIDE_LR = 0.02  # too short for a wide network to get up to a run's rate
_FAR = 10.0  # times the span of the fitted values
_NO_LABELS: Any = object()
# Options of a run that reach the network; the passes of a fit are parameters of their own.
_PASSED_ON = {n for n, o in OPTIONS.items() if o.metadata["group"] in ("pruning", "training")}
_PASSED_ON |= {"init", "pretrained", "pretrained_digest", "cuda_graphs"}
_PASSED_ON -= {"epochs", "initial_epochs", "sync_batchnorm"}


@dataclass(frozen=True)
class Unit:
    """What the values of fitted images say of the unit in which they are measured.

    Attributes:
        low: Smallest value.
        high: Largest value.
        whole: Whether all of them are whole numbers.
    """

    low: float
    high: float
    whole: bool

    @classmethod
    def of(cls, x: NDArray[Any]) -> "Unit":
        """Look at images of any shape."""
        if x.dtype == np.uint8:
            return cls(0.0, 255.0, True)
        return cls(float(x.min()), float(x.max()), bool((x == np.floor(x)).all()))

    def differs(self, x: NDArray[Any]) -> str | None:
        """Return a warning if images are hardly in this unit; None if they may be."""
        low, high = float(x.min()), float(x.max())
        span = self.high - self.low
        is_share = self.whole and span > 2 and low >= 0 and high <= 1 and not Unit.of(x).whole
        is_far = max(self.low - low, high - self.high) > _FAR * span > 0
        if not (is_share or is_far):
            return None
        return (
            f"X has values of {low:g} to {high:g}, and the classifier was fitted on values of "
            f"{self.low:g} to {self.high:g}: they are taken in that unit. Scale X as the images "
            "that were fitted."
        )


class PrunedClassifier(ClassifierMixin, BaseEstimator):
    """A network as a scikit-learn classifier; it is pruned on the first points that it sees.

    X holds images `(n, h, w, c)` or `(n, h, w)`, or rows `(n, features)`: flattened images if
    `image_shape` says so, any features otherwise. Values are standardised, for images over each
    channel, for plain features over each. Labels may be of any kind that scikit-learn takes.

    Args:
        model: A name of `alprune list`, `torchvision:NAME` or `module:function`; "auto" takes
            vgg19 for images of 16x16 pixels and more and lenet-300-100 for all else.
        method: How the network is pruned, by name; "dense" for not at all.
        flops_reduction: Share of the FLOPs to remove; None: the method's own.
        epochs: Passes over the points that `fit` makes, at a rate that falls to zero.
        partial_epochs: Passes that `partial_fit` makes, at the full rate.
        batch_size: Examples a training batch.
        lr: Peak learning rate; None: 0.05 for pruned networks, 0.02 for others.
        pad: Pixels of padding for the random crop; 0 for none.
        flip: Mirror images at random.
        image_shape: `(h, w)` or `(h, w, c)` of the images in 2-D X; None: X is taken as it is.
        warm_start: Let `fit` continue from the present weights, where there are any, as long as the
            classes stay the same; with new classes it starts over, and prunes again.
        budget_s: Seconds that the training of one fit may take; None: no limit. The rate has
            fallen to zero when they are over.
        options: Other options of `alprune.RunConfig` about pruning and training, by name, such
            as `{"min_channels": 8, "params_reduction": 0.9, "weight_decay": 0.001}`.
        random_state: Seed, or a `numpy.random.RandomState` to draw it from; with a seed and on a
            CPU the same calls give the same network, bit for bit.
        device: "auto", "cpu" or "cuda".
        precision: "auto", "fp32" or "bf16".

    Attributes:
        classes_: The labels, sorted, `(classes,)`.
        n_features_in_: Numbers in one example.
        image_shape_: `(h, w, c)` of the images; features count as channels of one pixel.
        pruned_: What pruning did, an `alprune.Pruned`.
        learner_: The network with its optimiser. Training data is not kept. One that is pickled on
            a GPU needs a GPU to be loaded.
    """

    def __init__(
        self,
        model: str = "auto",
        method: str = "3sp-ca",
        *,
        flops_reduction: float | None = None,
        epochs: float = 20,
        partial_epochs: float = 1,
        batch_size: int = 64,
        lr: float | None = None,
        pad: int = 0,
        flip: bool = False,
        image_shape: tuple[int, ...] | None = None,
        warm_start: bool = False,
        budget_s: float | None = None,
        options: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        self.model = model
        self.method = method
        self.flops_reduction = flops_reduction
        self.epochs = epochs
        self.partial_epochs = partial_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.pad = pad
        self.flip = flip
        self.image_shape = image_shape
        self.warm_start = warm_start
        self.budget_s = budget_s
        self.options = options
        self.random_state = random_state
        self.device = device
        self.precision = precision

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Prune a new network on these points and train it, or with `warm_start` train on.

        Args:
            X: `(n, h, w, c)`, `(n, h, w)` or `(n, features)`, n >= 2.
            y: Labels `(n,)` of two classes at least.

        Raises:
            ValueError: X or y is not usable (`alprune.errors.InputError` among them).
            AlpruneError: A parameter is not usable, or training failed.
        """
        go_on = self.warm_start and hasattr(self, "learner_")
        x, y = self._images(X, y, reset=not go_on, least=2)
        classes = np.unique(y)
        if not (go_on and np.array_equal(classes, self.classes_)):
            self._begin(x, y, classes)
        self._train(x, y, self.epochs, falling=True)
        return self

    def partial_fit(self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None) -> Self:
        """Train on from the present weights, on these points only; prune first if this is new.

        Args:
            X: As for `fit`; n >= 2 in the first call, which prunes, n >= 1 in later ones.
            y: Labels `(n,)`, of one class or more.
            classes: All labels that may ever come; needed in the first call.

        Raises:
            ValueError: X, y or classes is not usable.
            AlpruneError: A parameter is not usable, or training failed.
        """
        begun = hasattr(self, "learner_")
        if classes is None and not begun:
            raise InputError("classes must be passed on the first call to partial_fit.")
        x, y = self._images(X, y, reset=not begun, least=1 if begun else 2)
        if not begun:
            self._begin(x, y, np.unique(np.asarray(classes)))
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise InputError(
                f"classes {np.unique(classes)} differ from those of the first call, "
                f"{self.classes_}. Leave them out, or start a new classifier."
            )
        self._train(x, y, self.partial_epochs, falling=False)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the softmax outputs `(n, classes)`, columns in the order of `classes_`."""
        check_is_fitted(self, "learner_")
        x, _ = self._images(X, _NO_LABELS, reset=False)
        logits = torch.cat([logits.cpu() for _, logits in self.learner_.predict(x)])
        return logits.double().softmax(1).numpy()

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable label of each example, `(n,)`."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _begin(self, x: Tensor, y: NDArray[Any], classes: NDArray[Any]) -> None:
        """Build a network for these classes and prune it on these points."""
        if len(classes) < 2:
            raise InputError(
                f"the number of classes has to be greater than one; got {len(classes)} class: "
                f"{classes[:1]}."
            )
        self.__dict__.pop("learner_", None)  # if what follows fails, this is not fitted
        self.classes_ = classes
        self._fits = 0
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        config = self._config()
        mean, std = channel_statistics(x)
        names = tuple(map(str, range(len(classes))))
        train = Dataset(x, self._numbers(y), names, mean, std, flip=False, digest="")
        self.pruned_ = prune_learner(config, train, torch.arange(len(x)), train.y)
        self.learner_ = new_learner(config, self.pruned_.model, train)

    def _config(self) -> ResolvedRun:
        """Put the parameters into the options that a run would have."""
        height, width, _ = self.image_shape_
        model = self.model
        if model == "auto":
            large = min(height, width) >= MODELS[_LARGE_MODEL].least
            model = _LARGE_MODEL if large else _SMALL_MODEL
        lr = self.lr
        if lr is None and not find_method(self.method).saves_time:
            lr = _WIDE_LR
        given = {
            "model": model,
            "method": self.method,
            "flops_reduction": self.flops_reduction,
            "steps": 0,  # no budget that the reduction could follow
            "batch_size": self.batch_size,
            "lr": lr,
            "warmup_batches": _WARMUP_BATCHES,
            "pad": self.pad,
            "flip": self.flip,
            "seed": self._seed,
            "device": self.device,
            "precision": self.precision,
            "out": ".",  # nothing is written
        }
        others = {**self.options} if self.options else {}
        unused = [name for name in others if name in OPTIONS and name not in _PASSED_ON]
        if unused:
            raise ConfigError(
                f"options holds {unused[0]!r}. It takes options about pruning and training; of the "
                "others, device, precision and random_state are parameters of the classifier."
            )
        return complete(RunConfig.from_mapping(given | others))

    def _train(self, x: Tensor, y: NDArray[Any], epochs: float, falling: bool) -> None:
        learner = self.learner_
        labels = self._numbers(y)
        self._fits += 1
        generator = torch.Generator(learner.device).manual_seed(self._seed + self._fits)
        budget = Budget(self.budget_s)
        learner.x = x.to(learner.device)
        budget.start()
        try:
            learner.fit(
                torch.arange(len(x)),
                labels,
                epochs,
                generator,
                budget=budget,
                progress=lambda done: max(done, budget.fraction) if falling else 0.0,
            )
        finally:
            learner.x = x.new_empty((0, *x.shape[1:]))

    def _numbers(self, y: NDArray[Any]) -> Tensor:
        """Number labels by their place in `classes_`."""
        places = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        strange = y[self.classes_[places] != y]
        if len(strange):
            raise InputError(f"label {plain(strange[0])!r} is none of the classes {self.classes_}.")
        return torch.from_numpy(places.astype(np.int64))

    def _images(
        self, X: ArrayLike, y: ArrayLike | None, reset: bool, least: int = 1
    ) -> tuple[Tensor, NDArray[Any]]:
        """Check X, and y where there are labels; return images `(n, h, w, c)` and labels `(n,)`."""
        rows, shape = _flattened(X)
        dtype = np.uint8 if getattr(rows, "dtype", None) == np.uint8 else np.float32
        if y is _NO_LABELS:
            rows, y = validate_data(self, rows, dtype=dtype, reset=reset), ()
        else:
            if y is None:
                raise InputError("fitting requires y to be passed, but the target y is None.")
            rows, y = validate_data(
                self, rows, y, dtype=dtype, reset=reset, ensure_min_samples=least
            )
            check_classification_targets(y)
        if reset:
            self.image_shape_ = shape or self._shape_of_rows(rows.shape[1])
            self._bytes = dtype == np.uint8
            self._unit = Unit.of(rows)
            if shape is not None and shape[0] in (1, 3, 4) and min(shape[1:]) > 4:
                warnings.warn(
                    f"X has images of {shape[0]} x {shape[1]} pixels with {shape[2]} channels. If "
                    "the channels come first, transpose it: X.transpose(0, 2, 3, 1).",
                    stacklevel=3,
                )
        elif (said := self._unit.differs(rows)) is not None:
            warnings.warn(said, stacklevel=3)
        if shape not in (None, self.image_shape_):
            raise InputError(f"X has images of shape {shape}; fitted were {self.image_shape_}.")
        x = torch.from_numpy(np.require(rows, requirements=["C", "W"]))
        if self._bytes != (dtype == np.uint8):  # the units of the images that were fitted
            x = x / 255 if self._bytes else x.float()
        return x.view(len(x), *self.image_shape_), np.asarray(y)

    def _shape_of_rows(self, features: int) -> tuple[int, ...]:
        if self.image_shape is None:
            return 1, 1, features
        shape = tuple(int(size) for size in self.image_shape)
        shape = (*shape, 1) if len(shape) == 2 else shape
        if len(shape) != 3 or math.prod(shape) != features:
            raise InputError(
                f"image_shape {self.image_shape} does not fit rows of {features} features; it must "
                "be (h, w) or (h, w, c) with h * w * c features a row."
            )
        return shape


def _flattened(X: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Turn images into rows, as scikit-learn's checks want; return the images' shape too."""
    if isinstance(X, Tensor):
        X = X.numpy(force=True)
    if isinstance(X, list | tuple):
        X = np.asarray(X)
    if getattr(X, "ndim", 2) not in (3, 4) or 0 in X.shape:
        return X, None
    shape = (*X.shape[1:], 1) if X.ndim == 3 else X.shape[1:]
    return np.asarray(X).reshape(len(X), -1), tuple(shape)
