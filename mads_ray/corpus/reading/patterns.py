"""Match a glob one name at a time, so that a walk does not enter folders that cannot match.

`*`, `?` and `[...]` match within one name, `**` matches any number of folders. As in a shell, a
name that begins with a dot is matched only by a part that begins with a dot.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

_EVERYTHING = "**"
_JUNK = "__MACOSX"  # archives that were packed on a Mac have it

Places = frozenset[int]  # parts of the pattern that may come next


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not user data, such as `.git`, `._a.jsonl`, `__MACOSX`."""
    return name.startswith(".") or name == _JUNK


@dataclass(frozen=True, slots=True)
class Pattern:
    """The parts of a path below a fixed folder; `("**",)` is everything in it.

    With `hidden`, wildcards match hidden names as well.
    """

    parts: tuple[str, ...] = (_EVERYTHING,)
    hidden: bool = False

    def start(self) -> Places:
        """The places at the fixed folder itself."""
        return self._closed({0})

    def into(self, places: Places, name: str) -> Places:
        """The places within a folder of this name. Empty where nothing in it can match."""
        after = {i + 1 for i in places if i + 1 < len(self.parts) and self._fits(i, name)}
        if self.hidden or not is_hidden(name):
            after |= {i for i in places if self.parts[i] == _EVERYTHING}
        return self._closed(after)

    def matches(self, places: Places, name: str) -> bool:
        """Whether a file of this name matches."""
        last = len(self.parts) - 1
        return last in places and (
            (self.parts[last] == _EVERYTHING and (self.hidden or not is_hidden(name)))
            or self._fits(last, name)
        )

    def takes_all(self, places: Places) -> bool:
        """Whether everything below matches."""
        return len(self.parts) - 1 in places and self.parts[-1] == _EVERYTHING

    def _fits(self, place: int, name: str) -> bool:
        part = self.parts[place]
        if part == _EVERYTHING:
            return False
        if is_hidden(name) and not (self.hidden or part == name or part.startswith(".")):
            return False
        return fnmatch.fnmatchcase(name, part)

    def _closed(self, places: set[int]) -> Places:
        """Add the places after `**`, which also matches no folder at all."""
        for i in range(len(self.parts) - 1):
            if i in places and self.parts[i] == _EVERYTHING:
                places.add(i + 1)
        return frozenset(places)
