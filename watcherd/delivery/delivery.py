"""What happens to a scan after its results are drawn: promised, published and recorded, its source put away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watcherd.delivery.finish import Finish
from watcherd.delivery.other_names import OtherNames
from watcherd.delivery.promise import Promises
from watcherd.delivery.recover import Recovery
from watcherd.delivery.sources import Sources

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from watcherd.inbox.requests import IntakeRequests
    from watcherd.outbox.deliver import Outbox
    from watcherd.state.run import Run


class Delivery:
    """The parts of the delivery, wired together. Each says which thread calls it; this has no state of its own.

    ``bell``: rung where a job goes back to the queue. ``ended``: called when scans are done with.
    """

    def __init__(
        self,
        run: Run,
        outbox: Outbox,
        requests: IntakeRequests,
        bell: threading.Event,
        ended: Callable[[], None],
    ) -> None:
        self.promises = Promises(run, outbox)
        self.finish = Finish(run, outbox, requests, bell, ended)
        self.other_names = OtherNames(run, outbox, self.promises, self.finish, bell)
        self.recovery = Recovery(run, outbox, self.finish, self.other_names)
        self.sources = Sources(run, requests)

    def recover(self) -> None:
        """At the start: finish what the last run had promised, and remove what it had only begun."""
        self.recovery.recover()
