"""What results are called: the scan's own name, unless another scan's result or somebody's file has it.

One `Names` serves one batch. It asks the books once for all of the batch's likely names, not once for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from watcherd.store import leftovers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watcherd.outbox.deliver import Outbox
    from watcherd.store import Output


class Names:
    """The names that are free for a batch of arrivals, and what of ours has to give way.

    ``wanted``: for each arrival its id and its path below the inbox.
    """

    def __init__(
        self, connection: Any, outbox: Outbox, wanted: Sequence[tuple[int, bytes]], kinds: Sequence[str]
    ) -> None:
        self._connection = connection
        self._outbox = outbox
        self._kinds = [*dict.fromkeys([*kinds, "result", "failed"])]
        self._given: set[bytes] = set()
        plain = [path for _, source in wanted for path in outbox.paths(outbox.plain_stem(source), self._kinds)]
        self._asked = set(plain)
        self._owned = {output.intent.final: output for output in leftovers.outputs_at(connection, plain)}
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
        return earlier

    def choose(self, source: bytes, sha256: str) -> bytes:
        """The stem for an arrival's results; what `gives_way` named must be out of the outbox."""
        stem = self._outbox.stem(source, sha256, self._kinds, self._is_free)
        self._given.update(self._outbox.paths(stem, self._kinds))
        return stem

    def _is_free(self, final: bytes) -> bool:
        if final in self._given or final in self._owned:
            return False
        if final not in self._asked and leftovers.outputs_at(self._connection, [final]):
            return False
        return not self._outbox.exists(final)
