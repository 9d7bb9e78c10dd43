"""Classes of a folder: rename, merge and remove them; the journal records it like answers."""

from alprune.data.names import LONGEST_NAME, KnownNames, composed, is_name, is_unlabelled
from alprune.errors import ConfigError, counted, quoted
from alprune.labelling.journal import Journal
from alprune.labelling.keys import KEYS, new_keys
from alprune.labelling.session import Asking
from alprune.registry import unknown


def rename_class(asking: Asking, name: str, to: str) -> None:
    """Rename a class.

    Raises:
        ConfigError: There is no such class, it comes with the images, or the new name is that of
            another class or cannot name one.
    """
    to = composed(to)
    with asking.lock:
        name = _own(asking, name)
        if not is_name(to) or is_unlabelled(to):
            raise ConfigError(
                f"{quoted(to)} cannot name a class: a name has 1 to {LONGEST_NAME} characters, "
                "none of them a control character, and is not 'unlabelled'."
            )
        alike = KnownNames(asking.journal.offered).alike(to)
        if others := [other for other in alike if other != name]:
            raise ConfigError(
                f"there is a class {quoted(others[0])} already. To give it the labels of "
                f"{quoted(name)}, merge the two instead."
            )
        if to != name:
            asking.journal.rename(name, to)


def merge_classes(asking: Asking, name: str, into: str) -> None:
    """Give the labels of one class to another one; the first is not a class any more.

    Raises:
        ConfigError: There are no such two classes, or the first comes with the images.
    """
    with asking.lock:
        name, into = _own(asking, name), _known(asking, into)
        if into == name:
            raise ConfigError(f"class {quoted(name)} cannot be merged into itself.")
        asking.journal.rename(name, into)


def remove_class(asking: Asking, name: str) -> None:
    """Remove a class without labels.

    Raises:
        ConfigError: There is no such class, it has labels, or it comes with the images.
    """
    with asking.lock:
        name = _own(asking, name)
        if count := asking.journal.counts[name]:
            raise ConfigError(
                f"class {quoted(name)} has {counted(count, 'label', 'labels')}. Rename it, "
                "merge it into another class, or correct the labels first."
            )
        asking.journal.remove(name)


def assign_key(asking: Asking, name: str, key: str) -> None:
    """Assign a key of the page to a class; another class loses it. An empty one takes it away.

    Raises:
        ConfigError: There is no such class, or the key cannot be assigned.
    """
    with asking.lock:
        name = _known(asking, name)
        if key and (len(key) > 1 or key not in KEYS):
            raise ConfigError(f"key {key!r} cannot be assigned; these can: {' '.join(KEYS)}.")
        asking.journal.assign(name, key)


def keys_of(journal: Journal) -> dict[str, str]:
    """Return the key of each class, in the order of the classes; empty where there are too many.

    A key stays with its class, also when others come and go. A class that lost its key to another
    one gets the first that no class has.
    """
    assigned = journal.keys.values()
    kept = {name: key for name, key in journal.first_keys.items() if key and key not in assigned}
    keys = {name: key for name, key in (kept | journal.keys).items() if name in journal.offered}
    keys |= new_keys([name for name in journal.offered if name not in keys], keys.values())
    return {name: keys[name] for name in journal.offered}


def _known(asking: Asking, text: str) -> str:
    """Return the class that a text means, however it is spelt."""
    if (name := KnownNames(asking.journal.offered).find(text)) is None:
        raise unknown("class", text, asking.journal.offered)
    return name


def _own(asking: Asking, text: str) -> str:
    """Return the class that a text means, if people named it."""
    name = _known(asking, text)
    if (where := asking.source_of_class(name)) is not None:
        raise ConfigError(
            f"class {quoted(name)} comes from {where}: rename or move it there instead. Answers "
            "keep the old name until you also call alprune classes DIR --rename OLD NEW."
        )
    return name
