"""Open a folder in which people are asked about images, or begin one."""

import platform
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from alprune import __version__
from alprune.data import UNKNOWN
from alprune.errors import ConfigError, StoreError
from alprune.labelling import images
from alprune.labelling.options import changed, completed
from alprune.labelling.photographs import LEAST_SIDE, are_photographs
from alprune.labelling.session import Asking
from alprune.loop.config import OPTIONS, RunConfig, given
from alprune.loop.defaults import FROM_SCRATCH
from alprune.loop.event_log import LABELLING, kind_of, read_events
from alprune.loop.events import Observer
from alprune.loop.frozen import FROZEN
from alprune.loop.run_folder import CONFIG, RunFolder
from alprune.loop.trust import check_trust, trusting
from alprune.loop.unused import refuse_simulated

# Options that choose a network or prune it: with one of them the learner is what they say.
_PRUNING = [name for name, entry in OPTIONS.items() if entry.metadata["group"] == "pruning"]
_DECIDES = ("model", "pretrained", "init", *_PRUNING)
_PHOTOGRAPHS = (
    "The images are colour photographs: only a head is learnt, on a frozen EfficientNet-Lite0 "
    "pretrained on ImageNet (Apache-2.0). Each image is embedded once, in about 12 ms of one core. "
    "To learn from these images and labels alone: --learner trained, in a new folder."
)
_OTHERS = (
    f"Most images are grey or smaller than {LEAST_SIDE} pixels: a single layer of their typical "
    "patches is learnt from them and from their labels alone. To start from a network pretrained "
    "on photographs: --learner frozen, in a new folder."
)


def open_asking(
    path: str | Path,
    *,
    classes: Iterable[str] = (),
    observer: Observer | None = None,
    trust_code: bool = False,
    **options: Any,
) -> Asking:
    """Open a folder in which people are asked about images, or begin one.

    Args:
        path: The folder.
        classes: Names of classes; others may come with labels, and with the folders of images.
        observer: Shows how far the training is.
        trust_code: Whether code that the folder names (`module:function`) may be imported.
        **options: Of `alprune.RunConfig`. A new folder needs `dataset="folder:PATH"`; later they
            are read from its config.toml, and only those that are not part of the network may be
            changed. `budget` is for each round (60 seconds by default).

    Raises:
        ConfigError: An option is not usable, or cannot be changed any more.
        StoreError: The folder holds something else, or another process works in it.
    """
    path = Path(path)
    chosen, note = given(options), None
    begun = (path / CONFIG).exists()
    if begun:
        if kind_of(path) is not LABELLING and read_events(path):
            raise StoreError(
                f"{path} holds a run on labelled data. Choose another folder for labelling."
            )
        config = RunConfig.from_toml(path / CONFIG, trust_code=True, out=str(path))
        with trusting(trust_code):
            check_trust(asdict(config), path / CONFIG, chosen)
        config = changed(config, chosen)
    elif "dataset" not in chosen:
        raise ConfigError(
            f"{path} is new. Say where the images are: alprune ask {path} --dataset folder:PATH. "
            "Those without a label go into PATH/unlabelled/, others into a folder for each class."
        )
    else:
        config = RunConfig.from_mapping(chosen | {"out": str(path)})
        refuse_simulated({name: chosen[name] for name in chosen.keys() - {"out"}})
        if not any(name in chosen for name in _DECIDES):
            photographs = "learner" not in chosen and are_photographs(config)
            if "learner" not in chosen:
                note = _PHOTOGRAPHS if photographs else _OTHERS
            if photographs:
                config = replace(config, learner=FROZEN)
            elif config.learner != FROZEN:
                config = RunConfig.from_mapping(FROM_SCRATCH | chosen | {"out": str(path)})
        config = completed(config)
        if config.initial is not None:
            known = images.load(config).train.y != UNKNOWN
            images.check_trial(config, int(known.sum()))
    folder = RunFolder(path, resume=begun)
    try:
        if not begun or chosen:
            folder.write(CONFIG, config.to_toml())
        asking = Asking(folder, config, observer or Observer())
        if not asking.journal.started:
            asking.journal.start(
                given(asdict(config)),
                {"versions": {"alprune": __version__, "python": platform.python_version(),
                              "torch": torch.__version__}},
            )  # fmt: skip
        if note is not None:
            asking.say(note)
        asking.declare(classes)
    except BaseException:
        folder.close()
        raise
    return asking
