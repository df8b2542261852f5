"""The configuration that a container image and the Debian package carry: the sample with a service's usual folders.

    python -m tools.shipped > config.toml

It is what `watcherd install-service` would write on a machine where nobody names other folders.
"""

from __future__ import annotations

import sys
from pathlib import Path

from watcherd.install.units import Names, Service, configuration

ROOT = Path(__file__).resolve().parents[1]
BASE = Path("/srv/watcherd")


def service() -> Service:
    """The one service of a container or of the package."""
    return Service(
        names=Names(),
        program=Path("/opt/watcherd/bin/watcherd"),
        user="watcherd",
        group="watcherd",
        makes_user=True,
        inbox=BASE / "inbox",
        outbox=BASE / "outbox",
        archive=BASE / "archive",
        systemd=0,
    )


if __name__ == "__main__":
    sys.stdout.write(configuration(service(), (ROOT / "config.toml").read_text(encoding="utf-8")))
