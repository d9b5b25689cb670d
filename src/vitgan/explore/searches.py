"""The searches that visitors have under way, and their ends."""

import threading


class Search:
    """One search: told to end, and whether what it has found is still wanted."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.wanted = True


class Searches:
    """One search a visitor; another one, another picture, or leaving ends it.

    gradio's own `cancels` is not used: an event that it has cancelled says nothing more, and may block the
    next one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[str | None, Search] = {}

    def begin(self, visitor: str | None) -> Search:
        """The visitor's new search."""
        self.end(visitor, wanted=False)
        with self._lock:
            return self._under_way.setdefault(visitor, Search())

    def end(self, visitor: str | None, *, wanted: bool) -> None:
        """Tell the visitor's search to end; whether it shall still show what it has found."""
        with self._lock:
            search = self._under_way.pop(visitor, None)
        if search is not None:
            search.wanted = wanted
            search.ended.set()
