"""How a service that is down is started on this machine: nobody is told to start a unit that is not there."""

from __future__ import annotations

from pathlib import Path

UNIT_FOLDERS = (Path("/etc/systemd/system"), Path("/run/systemd/system"), Path("/usr/lib/systemd/system"))
"""Where systemd looks for units (systemd.unit(5))."""


def how_to_start() -> str:
    """The command. Of several services it names the first and says that there are others."""
    units = _units()
    if not units:
        return "watcherd run"
    others = f" (or {', '.join(units[1:])})" if units[1:] else ""
    return f"systemctl start {units[0]}{others}"


def _units() -> list[str]:
    """The services that `install-service` or a package put here; of instances those with a drop-in of their own."""
    plain = {path.stem for folder in UNIT_FOLDERS for path in folder.glob("watcherd.service")}
    drop_ins = (path.parent.name for folder in UNIT_FOLDERS for path in folder.glob("watcherd@*.service.d/*.conf"))
    return sorted(plain | {name.removesuffix(".service.d") for name in drop_ins})
