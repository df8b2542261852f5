"""The bridge's process: ``python -m watcherd.inference.cluster.bridging CONFIGURATION``. `watcherd bridge` keeps it."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from watcherd import config as configuration
from watcherd import logs
from watcherd.errors import WatcherdError
from watcherd.inference.cluster import bridge, on_ray, wire
from watcherd.linux.threads import NamedThread

LOST = 75
"""Exit code when the cluster was there and is not any more: starting again will do."""


def main() -> int:
    """Serve until SIGTERM, or until Ray's head is gone."""
    config = configuration.load(Path(sys.argv[1]))
    logs.setup(config.log, hidden_names=config.privacy.names == "hidden")
    log = logs.get_logger()
    stop = threading.Event()
    try:
        on_ray.connect(config)
    except WatcherdError as error:
        log.error("bridge_without_cluster", error=error.message, advice=error.hint)  # noqa: TRY400 - no traceback
        return LOST
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    engine = on_ray.Ray(local=config.cluster.local)
    engine.look()
    listener = wire.listen(config.state.bridge)
    serving = NamedThread(target=bridge.serve, args=(listener, engine, stop), name="bridge", daemon=True)
    serving.start()
    log.info("bridge_ready", path=str(config.state.bridge))
    try:
        engine.watch(stop)
    except Exception as error:  # of Ray's head: whatever it is, only a new connection helps
        log.error("bridge_lost_cluster", error=f"{type(error).__name__}: {error}")  # noqa: TRY400 - no traceback
        return LOST
    return 0


if __name__ == "__main__":
    sys.exit(main())
