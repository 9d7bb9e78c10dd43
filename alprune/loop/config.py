"""One run's options: a frozen record that reads and writes TOML recipes."""

import os
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import tomli_w

from alprune.errors import ConfigError
from alprune.loop.option import check, option, option_type
from alprune.loop.option_text import seconds_of, value_of
from alprune.loop.recipe import trusted_recipe
from alprune.pruning.option_values import plain
from alprune.registry import unknown


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The options of one run; each is also an option of `alprune run` and a recipe key.

    An option that is None takes a default that depends on others, see `alprune.loop.defaults`.
    """

    # Data
    dataset: str = option(
        "data",
        "cifar10",
        "cifar10, cifar100, mnist, fashion-mnist, digits, npz:PATH, folder:PATH, csv:PATH, "
        "parquet:PATH, hf:PATH or shards:PATH.",
        common=True,
    )
    image_size: int | None = option(
        "data",
        None,
        "Resize images to this square, without cropping.",
        common=True,
        otherwise="the size that --model was published with",
    )
    data_root: str | None = option(
        "data", None, "Folder for downloads.", otherwise="$ALPRUNE_DATA, or ~/.cache/alprune"
    )
    cache: str | None = option(
        "data",
        None,
        "Folder for decoded images.",
        otherwise="$ALPRUNE_CACHE, or ~/.cache/alprune",
    )
    skip_unreadable: bool = option("data", False, "Leave out images that cannot be decoded.")
    follow_links: bool = option("data", False, "Read images behind links that leave the folder.")
    imbalance: float = option(
        "data", 1.0, "Long-tail the pool: the ratio of its largest class to its smallest.", least=1
    )
    label_noise: float = option(
        "data", 0.0, "Share of the pool that gets a wrong label.", least=0, most=1
    )

    # Learner
    model: str = option(
        "learner",
        "vgg19",
        "The network: a name from `alprune list`, module:function, or auto: sized for --budget.",
        common=True,
    )
    learner: str | None = option(
        "learner",
        None,
        "trained: the network learns; frozen: only a head learns, on a pretrained network.",
        common=True,
    )
    pretrained: str | None = option(
        "learner",
        None,
        "Weights to start from: imagenet (of efficientnet-lite0, torchvision:NAME, timm:NAME), or "
        "a file of tensors, .safetensors or .pt.",
        common=True,
    )
    pretrained_digest: str | None = option(
        "learner", None, "Hash that the file of --pretrained must have; a run records it."
    )
    init: str = option("learner", "he", "Initialisation: he, default (PyTorch's), vs-x (Glorot).")

    # Pruning
    method: str = option(
        "pruning",
        "3sp-ca",
        "How the learner is pruned: a name from `alprune list`, or module:function; dense prunes "
        "nothing.",
        common=True,
    )
    flops_reduction: float | str | None = option(
        "pruning",
        None,
        "Share of the FLOPs to remove; auto: chosen by measured speed and --budget.",
        common=True,
        words=("auto",),
        otherwise="the method's own, see `alprune list`",
    )
    params_reduction: float | None = option(
        "pruning",
        None,
        "Share of the parameters to remove instead; for weight masks, of the weights.",
    )
    channels_reduction: float | None = option(
        "pruning", None, "Share of the channels to remove instead."
    )
    latency_reduction: float | None = option(
        "pruning", None, "Share of the latency to remove instead, as measured on this machine."
    )
    time_reduction: float | None = option(
        "pruning",
        None,
        "Share of the time of a training step to remove instead, as measured on this machine.",
    )
    latency_batch: int = option(
        "pruning", 1, "Examples per forward pass when latency is measured.", least=1
    )
    latency_aware: bool = option(
        "pruning", False, "Divide a channel's score by its measured latency; in epi, too."
    )
    prune_at: str | None = option(
        "pruning",
        None,
        "When method epi prunes: 'epi' (once the structure is stable), an epoch, or 'random'.",
    )
    epi_criterion: str = option(
        "pruning", "taylor", "What method epi scores by: taylor or magnitude."
    )
    epi_tau: float | None = option(
        "pruning",
        None,
        "The Early Pruning Indicator, 0 to 1, at which method epi may prune.",
        otherwise="as published for --epi-criterion",
        least=0,
        most=1,
    )
    epi_window: int = option(
        "pruning", 5, "Number of past epochs that the indicator compares with.", least=1
    )
    prune_batch: int = option(
        "pruning", 32, "Labelled examples per batch whose loss decides what is pruned.", least=2
    )
    prune_batches: int = option(
        "pruning", 1, "Number of these batches; scores are accumulated.", least=1
    )
    smoothing: float | None = option(
        "pruning",
        None,
        "Lambda of 3sp-ca and --latency-aware; larger weakens the cost term.",
        least=0,
    )
    channel_cost: str | None = option(
        "pruning",
        None,
        "What a channel costs in 3sp-ca: made (FLOPs to compute it, as published) or step (its "
        "share of a training step).",
    )
    temperature: float = option(
        "pruning", 200.0, "Divisor of the logits in grasp and structured-grasp."
    )
    score_mode: str = option(
        "pruning",
        "train",
        "How BatchNorm normalises while scores are computed: train (by the batch, as GraSP's "
        "authors do) or eval (by its running statistics, as SNIP's do).",
    )
    redraw_linear: bool = option(
        "pruning",
        False,
        "Score linear layers in grasp at weights drawn for that alone, as its authors' code does.",
    )
    rounds: int = option("pruning", 10, "Rounds of 3sp-iterative.", least=1)
    min_channels: int | None = option(
        "pruning",
        None,
        "Fewest channels to keep per layer; 0: a sixteenth of the layer's, at least 4.",
        least=0,
    )
    round_to: int | None = option(
        "pruning",
        None,
        "Make widths multiples of this; 0: of 16 in wide layers, of less in narrow ones.",
        least=0,
    )
    ignore: str | None = option(
        "pruning",
        None,
        "Layers that keep all their channels: names or patterns with commas, as in stem,layer4.*.",
    )
    local: bool = option(
        "pruning",
        False,
        "Rank channels within each layer, so that all layers lose the same share.",
    )
    normalised: str = option(
        "pruning",
        "auto",
        "Channels that a normalisation such as LayerNorm spans: pinned (they stay), follow (they "
        "may leave; it then spans the others) or auto (pinned, unless less than half of the "
        "FLOPs could be removed then).",
    )
    after_pruning: str | None = option(
        "pruning", None, "What happens to the weights that are left."
    )

    # Training
    epochs: float | None = option(
        "training", None, "Passes over the labelled points per step.", above=0
    )
    initial_epochs: float | None = option(
        "training", None, "Passes over the first points before the first step.", above=0
    )
    batch_size: int | None = option("training", None, "Examples per training batch.", least=2)
    lr: float | None = option("training", None, "Peak learning rate.", common=True, above=0)
    momentum: float = option("training", 0.9, "Nesterov momentum of SGD.")
    weight_decay: float = option("training", 5e-4, "Weight decay of SGD.", least=0)
    label_smoothing: float = option(
        "training", 0.0, "Share of the target that is spread over all classes."
    )
    warmup_batches: int | None = option(
        "training", None, "Batches over which the learning rate rises to its peak.", least=0
    )
    schedule: str = option("training", "linear", "How the learning rate falls over the run.")
    averaging: float = option(
        "training", 0.99, "Decay of the averaged weights that score and are tested."
    )
    flip: bool | None = option(
        "training", None, "Mirror images at random.", otherwise="if the data set allows it"
    )
    pad: int = option("training", 4, "Pixels of padding for the random crop.", least=0)
    sync_batchnorm: bool = option(
        "training", False, "Normalise over the batches of all processes, under torchrun."
    )

    # Acquisition
    acquisition: str | None = option(
        "acquisition",
        None,
        "What is labelled next: a name from `alprune list`, or module:function.",
        common=True,
    )
    start: str | None = option(
        "acquisition",
        None,
        "How the first points are chosen: balanced, random, typiclust or module:function.",
    )
    initial: int | None = option(
        "acquisition", None, "Points that are labelled at the start.", common=True, least=1
    )
    query_size: int | None = option(
        "acquisition", None, "Points to acquire per step.", common=True, least=1
    )
    hold_out: int = option(
        "acquisition",
        0,
        "Labelled points to keep out of training, to calibrate the probabilities at the end.",
        least=0,
    )
    score_subset: int | None = option(
        "acquisition",
        None,
        "Score a fresh random subset of the pool of this size per step.",
        least=1,
    )
    score_share: float = option(
        "acquisition",
        0.25,
        "Under a budget, score as many points as fit in this share of a step; 1: the whole pool.",
        above=0,
        most=1,
    )

    # Stopping
    budget: float | None = option(
        "stopping",
        None,
        "Time on the clock: 90s, 10m, 2h, or seconds.",
        common=True,
        above=0,
        unit="s",
    )
    steps: int | None = option(
        "stopping",
        None,
        "Most acquisition steps, instead of --budget or with it; 0: only train on the first "
        "points.",
        common=True,
        least=0,
    )
    stop_labels: int | None = option(
        "stopping", None, "Stop once this many points are labelled.", least=1
    )
    stop_accuracy: float | None = option(
        "stopping", None, "Stop once a test reaches this accuracy, 0 to 1.", least=0, most=1
    )
    stop_uncertainty: float | None = option(
        "stopping",
        None,
        "Stop once the mean entropy of the scored points is below this (nats).",
        above=0,
    )
    stop_plateau: int | None = option(
        "stopping", None, "Stop after this many tests without a better accuracy.", least=1
    )

    # Run
    seed: int = option("run", 0, "Seed of all random draws.", common=True, least=0)
    device: str = option("run", "auto", "Where to compute.", common=True)
    precision: str = option(
        "run", "auto", "Precision of matrix products; auto: bf16 where hardware has it, else fp32."
    )
    cuda_graphs: bool = option(
        "run", False, "On a GPU, record training and scoring steps and launch each at once."
    )
    eval_every: int | None = option(
        "run",
        None,
        "Test after every N-th step, off the clock.",
        otherwise="every step; under a budget as often as a tenth of the time allows",
        least=1,
    )
    out: str | None = option(
        "run",
        None,
        "Run folder.",
        common=True,
        otherwise="a new one, outputs/DATASET-METHOD-seedSEED",
    )

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = plain(getattr(self, entry.name))
            if isinstance(value, os.PathLike):
                value = os.fspath(value)
            if isinstance(value, str) and is_duration(entry.name):
                value = seconds_of(value, entry.name)
            object.__setattr__(self, entry.name, value)
            check(entry, value, OPTIONS[entry.name].metadata)
        if self.seed >= 2**63 - 8:  # a run draws from the seeds that follow, too
            raise ConfigError(f"seed must be less than 2^63 - 8, got {self.seed}.")
        if self.out == "":
            raise ConfigError("out must name a folder, got an empty name.")

    @classmethod
    def from_toml(
        cls, path: str | Path, *, trust_code: bool = False, **overrides: Any
    ) -> "RunConfig":
        """Read a recipe; `overrides` win over it.

        Args:
            path: The file.
            trust_code: Whether the file may name code (`module:function`), which a run imports.
            **overrides: Options by name; code that they name needs no trust.

        Raises:
            ConfigError: The file is missing or no TOML, holds an unknown key, or names code
                without `trust_code`.
        """
        record = trusted_recipe(path, trust_code, overrides)
        try:
            return cls.from_mapping(record | overrides)
        except ConfigError as error:
            raise ConfigError(f"recipe {path}: {error}") from error

    @classmethod
    def from_mapping(cls, record: Mapping[str, Any]) -> "RunConfig":
        """Build from a mapping of option names; unknown ones are refused."""
        for key in record:
            known_option(key)
        return cls(**record)

    def to_toml(self) -> str:
        """Return the options that are set, as a recipe."""
        return tomli_w.dumps(given(asdict(self)))

    def resolved(self, defaults: Mapping[str, Any]) -> "RunConfig":
        """Fill the options left open from `defaults`, by option name."""
        known = {entry.name for entry in fields(self)}
        filled = {k: v for k, v in defaults.items() if k in known and getattr(self, k) is None}
        return replace(self, **filled)


OPTIONS: dict[str, Field[Any]] = {entry.name: entry for entry in fields(RunConfig)}


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the options that are None."""
    return {name: value for name, value in options.items() if value is not None}


def known_option(name: str) -> Field[Any]:
    """Return the field of an option.

    Raises:
        ConfigError: No option has this name.
    """
    if name not in OPTIONS:
        raise unknown("option", name, OPTIONS)
    return OPTIONS[name]


def is_duration(name: str) -> bool:
    """Whether an option is a duration in seconds."""
    return OPTIONS[name].metadata["unit"] == "s"


def read_option(name: str, text: str) -> Any:
    """Read an option's value from text, as on a command line.

    Raises:
        ConfigError: No such option, or a value of another type.
    """
    kind, _ = option_type(known_option(name))
    if text in OPTIONS[name].metadata["words"]:
        return text
    return seconds_of(text, name) if is_duration(name) else value_of(name, kind, text)
