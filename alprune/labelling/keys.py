"""Keys of the page for classes that have none yet."""

from collections.abc import Collection, Sequence

# Without a, g, n, s and z, which do other things on the page.
KEYS = "1234567890qwertyuiopdfhjklxcvbm"


def new_keys(names: Sequence[str], taken: Collection[str]) -> dict[str, str]:
    """Return keys for classes: its name, where that is a key, else the first free one.

    Args:
        names: Of the classes, in their order.
        taken: Keys of other classes.

    Returns:
        `{class: key}`; "" where there is none left.
    """
    own = {name: name for name in names if len(name) == 1 and name in KEYS and name not in taken}
    free = (key for key in KEYS if key not in taken and key not in own)
    return own | {name: next(free, "") for name in names if name not in own}
