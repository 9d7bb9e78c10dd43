"""The errors alprune raises: each says what, what was got, what is allowed and what to do."""

import traceback


def failure(what: str, error: Exception) -> str:
    """Say that somebody's function failed, with what and where: the start of a message."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{what} failed with {type(error).__name__}: {error} ({where.filename}, line "
        f"{where.lineno})."
    )


class AlpruneError(Exception):
    """Base of every error that a user can mend; the command line prints it without a traceback."""


class ConfigError(AlpruneError):
    """An option, a name or a recipe is not usable."""


class DataError(AlpruneError):
    """A data set is missing, damaged or does not fit the run."""


class ModelError(AlpruneError):
    """A learner cannot be built, loaded or traced."""


class PruneError(AlpruneError):
    """A pruning request cannot be met on this learner."""


class TrainError(AlpruneError):
    """Training cannot go on, for example because the loss is not finite."""


class AcquisitionError(AlpruneError):
    """An acquisition function returned something unusable."""


class StoreError(AlpruneError):
    """A run folder cannot be created, read or written."""
