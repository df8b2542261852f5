"""What results are called: the scan's own name, unless another scan's result or somebody's file has it.

One `Names` serves one batch. It asks the books once for all of the batch's likely names, not once for each.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from watcherd.store import leftovers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watcherd.outbox.deliver import Outbox, Place
    from watcherd.store import Connection, Output
    from watcherd.values import Intent, ResultFile


LONGEST_PATH = 4096
"""Bytes of a path that Linux takes (PATH_MAX)."""


class Names:
    """The names that are free for a batch of arrivals, and what of ours has to give way.

    ``outbox``: with the names of the model whose results they are. ``wanted``: for each arrival its id and its path
    below the inbox.
    """

    def __init__(
        self, connection: Connection, outbox: Outbox, wanted: Sequence[tuple[int, bytes]], kinds: Sequence[str]
    ) -> None:
        self._connection = connection
        self._outbox = outbox
        self._kinds = [*dict.fromkeys([*kinds, "result", "failed"])]
        self._given: set[bytes] = set()
        self._folders: set[bytes] = set()
        self._looked_at: dict[bytes, bool] = {}
        plain = [path for _, source in wanted for path in outbox.paths(outbox.plain_stem(source), self._kinds)]
        self._asked = {*plain, *(folder for path in plain for folder in _folders_of(path))}
        self._owned = {output.intent.final: output for output in leftovers.outputs_at(connection, list(self._asked))}
        self._earlier = leftovers.outputs_of_all(connection, [arrival_id for arrival_id, _ in wanted])

    def gives_way(self, arrival_id: int, source: bytes) -> list[Output]:
        """Our own results that the new ones replace: this arrival's earlier ones, and the note about an earlier scan
        that was dropped under the very same name."""
        earlier = list(self._earlier.get(arrival_id, ()))
        note = self._owned.get(self._outbox.final(self._outbox.plain_stem(source), "failed", ".txt"))
        if note is not None and note.arrival_id != arrival_id and note.state == "delivered":
            earlier += [note] if leftovers.path_of(self._connection, note.arrival_id) == source else []
        for output in earlier:
            self._owned.pop(output.intent.final, None)
            self._asked.add(output.intent.final)  # this connection sees the history as it was before
        return earlier

    def choose(self, source: bytes, sha256: str, needed: Sequence[str]) -> bytes:
        """The stem for an arrival's results; what `gives_way` named must be out of the outbox.

        ``needed``: the kinds of results that come, besides which all the others' names have to be free. Raises
        `NoPlaceError` where they cannot lie anywhere.
        """
        spare = [kind for kind in self._kinds if kind not in needed]
        stem = self._outbox.stem(source, sha256, needed, self._place, spare)
        given = self._outbox.paths(stem, self._kinds)
        self._given.update(given)
        self._folders.update(folder for path in given for folder in _folders_of(path))
        return stem

    def intents(self, stem: bytes, staged: Sequence[ResultFile]) -> list[Intent]:
        """The staged files with the names that they have under this stem."""
        return self._outbox.intents(stem, staged)

    def _place(self, final: bytes) -> Place:
        """What is, or will be, at a path below the outbox."""
        if final in self._given or final in self._folders or self._is_owned(final):
            return "taken"
        if any(folder in self._given or self._is_owned(folder) for folder in _folders_of(final)):
            return "blocked"
        return self._outbox.place(final, self._looked_at)

    def _is_owned(self, final: bytes) -> bool:
        if final not in self._asked:
            self._asked.add(final)
            self._owned |= {output.intent.final: output for output in leftovers.outputs_at(self._connection, [final])}
        return final in self._owned


def _folders_of(path: bytes) -> tuple[bytes, ...]:
    """The folders that a path below the outbox leads through; none for one that is too long to be anywhere."""
    return _with_those_above(path.rpartition(b"/")[0]) if len(path) < LONGEST_PATH else ()


@lru_cache(maxsize=256)
def _with_those_above(folder: bytes) -> tuple[bytes, ...]:
    parts = folder.split(b"/") if folder else []
    return tuple(b"/".join(parts[:count]) for count in range(1, len(parts) + 1))
