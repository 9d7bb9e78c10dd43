"""A run's data, if they are on this machine; nothing is downloaded, and no code of others runs."""

from pathlib import Path

from alprune.data import DATASETS, Splits
from alprune.data.downloads import cache_folder
from alprune.errors import DataError
from alprune.loop.config import RunConfig
from alprune.loop.setup import load_splits

# Where torchvision keeps what it has downloaded.
_DOWNLOADED = {
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "mnist": "MNIST/raw",
    "fashion-mnist": "FashionMNIST/raw",
}


def local_splits(config: RunConfig, who: str, incomplete: bool = False) -> Splits:
    """Load the data of a run, if they are on this machine.

    Nothing is downloaded and no function that the options name is called.

    Args:
        config: The run's options.
        who: Wants them, for the message: "a report", say.
        incomplete: Whether labels and test images may be missing.

    Raises:
        AlpruneError: They cannot be had; the message says why.
    """
    name = config.dataset
    if not (name in DATASETS or f"{name.partition(':')[0]}:PATH" in DATASETS):
        raise DataError(
            f"the data set {name!r} is a function, and {who} runs no code that a run folder names."
        )
    root = cache_folder(Path(config.data_root) if config.data_root else None)
    if name in _DOWNLOADED and not (root / _DOWNLOADED[name]).is_dir():
        raise DataError(f"the data set {name!r} is not in {root}, and {who} downloads nothing.")
    return load_splits(config, incomplete)
