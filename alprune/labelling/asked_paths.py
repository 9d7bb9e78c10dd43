"""Which image is meant by a path as other programs write it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path

from alprune.data.names import KnownNames, folded
from alprune.errors import quoted
from alprune.labelling.journal import Query
from alprune.labelling.read_answers import as_uploaded, spellings, uploaded_name


class AskedPaths:
    """Finds what was asked by the ways in which a path may be written.

    The exact path comes first, then one that differs only in case, form or spaces at its ends;
    then one that ends alike, if it is the only one of all images: the path below another root, a
    part of the path, or the name of a file that was uploaded to Label Studio.

    Args:
        queries: Everything that was asked, by path.
        root: The folder of images.
        every_path: Returns the paths of all images below it.
    """

    def __init__(
        self,
        queries: Mapping[str, Query],
        root: Path,
        every_path: Callable[[], Iterable[str]],
    ) -> None:
        self._asked, self._root, self._every_path = queries, root, every_path
        self._other_roots: dict[str, str] = {}

    def find(self, text: str, where: str, whole: bool = False) -> tuple[str, str] | None:
        """Return path and content; None if no such image was asked for, or several may be meant.

        Args:
            text: The path as written.
            where: Its place in the file, for messages.
            whole: Whether it is not part of a path. So in `anywhere` and `alike`.
        """
        spelt = [*spellings(text, self._root)]
        exact = next((path for path in spelt if path in self._asked), None)
        exact = exact or next(filter(None, map(self._names.find, spelt)), None)
        if exact is not None:
            return exact, self._asked[exact].content
        found = self._ending_alike(text, whole)
        if len(found) != 1 or found[0] not in self._asked:
            return None
        if uploaded_name(text) is None and (root := self._root_before(text, found[0])):
            self._other_roots.setdefault(root, f"{quoted(text)} ({where})")
        return found[0], self._asked[found[0]].content

    def anywhere(self, text: str, whole: bool = False) -> str | None:
        """Return the image of the folder that a path means, asked for or not; None if unknown."""
        every = self._every_name
        spelt = next(filter(None, map(every.find, spellings(text, self._root))), None)
        found = [spelt] if spelt else self._ending_alike(text, whole)
        return found[0] if len(found) == 1 else None

    def alike(self, text: str, whole: bool = False) -> list[str]:
        """Return the images that a path may mean, if these are several."""
        found = self._ending_alike(text, whole)
        return found if len(found) > 1 else []

    def problems(self) -> list[str]:
        """Return what is wrong with the paths found by their ends, as one message or none."""
        if len(self._other_roots) < 2:
            return []
        listed = ", ".join([*self._other_roots.values()][:3])
        return [
            f"the images lie in {len(self._other_roots)} different folders, and are known by the "
            f"ends of their paths: {listed}. Write the paths as they are in queries.csv."
        ]

    def _ending_alike(self, text: str, whole: bool) -> list[str]:
        """Return the images whose path is the end of a path, or ends with it, all that are left."""
        uploaded = uploaded_name(text)
        if uploaded is not None:
            by_name = self._by_uploaded.get(folded(as_uploaded(uploaded)), [])
            return [path for path in by_name if _name(path) == uploaded] or by_name
        found: dict[str, None] = {}
        for spelt in spellings(text, self._root):
            if spelt in self._everything:
                return [spelt]
            parts = _parts(spelt)
            for path in self._by_name.get(parts[-1], []) if parts else []:
                theirs = _parts(path)
                few = min(len(parts), len(theirs))
                if parts[-few:] == theirs[-few:] and not (whole and len(parts) < len(theirs)):
                    found[path] = None
        return [*found]

    def _root_before(self, text: str, path: str) -> str | None:
        for spelt in spellings(text, self._root):
            parts, theirs = _parts(spelt), _parts(path)
            if len(parts) > len(theirs) and parts[-len(theirs) :] == theirs:
                return "/".join(parts[: -len(theirs)]) or "/"
        return None

    @cached_property
    def _names(self) -> KnownNames:
        return KnownNames(self._asked)

    @cached_property
    def _every_name(self) -> KnownNames:
        return KnownNames(self._everything)

    @cached_property
    def _everything(self) -> dict[str, None]:
        return dict.fromkeys((*self._asked, *self._every_path()))

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for path in self._everything:
            found[_parts(path)[-1]].append(path)
        return found

    @cached_property
    def _by_uploaded(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for path in self._everything:
            found[folded(as_uploaded(_name(path)))].append(path)
        return found


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _parts(path: str) -> list[str]:
    """Return the parts of a path, also of one from Windows, in the form in which they compare."""
    return [folded(part) for part in path.replace("\\", "/").split("/") if folded(part)]
