"""The machine as `install-service` finds it and changes it: files, users, systemd. Decisions are in `units`."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from watcherd.errors import UnavailableError, UsageError, WatcherdError
from watcherd.install import units

if TYPE_CHECKING:
    from watcherd.install.units import Names, Service

PACKAGE = Path(__file__).resolve().parent.parent
_ELSEWHERE = "`watcherd run --config config.toml` runs under any other manager."


def resource(name: str) -> Path:
    """A file of the package: in a wheel beside the modules, in a checkout at its root."""
    places = (PACKAGE / name, PACKAGE.parent / name, PACKAGE / "systemd" / name)
    return next(place for place in places if place.exists())


def systemd_version() -> int:
    """The version of systemd on this machine; raises `UnavailableError` where there is none."""
    try:
        answer = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise UnavailableError("There is no systemd on this machine.", hint=_ELSEWHERE) from error
    found = re.search(r"\d+", answer)
    return int(found[0]) if found else 0


def nvidia_modprobe() -> Path | None:
    found = shutil.which("nvidia-modprobe", path="/usr/bin:/usr/sbin")
    return Path(found) if found else None


def exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def group_of(user: str) -> str:
    """The user's own group; sysusers gives a new user one of its name."""
    return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name if exists(user) else user


def made_before(names: Names, folder: Path) -> bool:
    """Whether an earlier install-service made ``folder``."""
    return names.tmpfiles.is_file() and str(folder) in names.tmpfiles.read_text(encoding="utf-8")


def installed() -> list[str]:
    """The units of the services that install-service put on this machine."""
    found = (path.parent.name.removesuffix(".d") for path in units.UNITS.glob("watcherd*.service.d/10-watcherd.conf"))
    return sorted(unit for unit in found if not unit.startswith(("watcherd-prune", "watcherd-web")))


# ------------------------------------------------------------------------------------------------------------ checks


def check_interpreter(program: Path) -> None:
    """Refuse a Python that the service could not run: one that its sandbox hides, or that only its owner may read."""
    parts = [program, Path(sys.executable).resolve(), PACKAGE, *(Path(entry) for entry in sys.path if entry)]
    remedy = (
        "python3 -m venv /opt/watcherd && /opt/watcherd/bin/pip install watcherd\n"
        f"{shlex.join(['/opt/watcherd/bin/watcherd', *sys.argv[1:]])}"
    )
    for part in parts:
        if home := units.hidden_home(part):
            raise UsageError(
                f"This watcherd needs {part}, and the service sees nothing of {home} (ProtectHome=yes).",
                hint=f"Install it where services live, and go on from there:\n{remedy}",
            )
        if closed := _closed_to_others(part):
            raise UsageError(
                f"This watcherd needs {part}, and only its owner may enter {closed}.",
                hint=f"chmod o+rx {closed}, or install it again under umask 022:\n{remedy}",
            )


def _closed_to_others(path: Path) -> Path | None:
    """The first of the folders above ``path`` that others may not enter."""
    return next((f for f in reversed(path.parents) if f.exists() and not f.stat().st_mode & 0o001), None)


def check_systemd_and_root() -> None:
    """Refuse to go on where units cannot be written or nobody would read them."""
    if os.geteuid() != 0:
        raise UsageError("Units belong to root.", hint=shlex.join(["sudo", *sys.argv]))
    if not Path("/run/systemd/system").is_dir():
        raise UnavailableError("systemd does not run this machine (a container, perhaps).", hint=_ELSEWHERE)


def verify(names: Names, files: dict[Path, str]) -> None:
    """Let systemd read the units before any is put in its place; raises with what it says."""
    if not shutil.which("systemd-analyze"):
        return  # a package of its own in some distributions
    with tempfile.TemporaryDirectory() as folder:
        copies = []
        for path, text in files.items():
            if path.is_relative_to(units.UNITS):
                name = str(path.relative_to(units.UNITS)).replace("@.", f"@{names.instance}.")
                copies.append(Path(folder, name))
                copies[-1].parent.mkdir(exist_ok=True)
                copies[-1].write_text(text, encoding="utf-8")
        arguments = [str(copy) for copy in copies if copy.parent == Path(folder)]
        answer = _run("systemd-analyze", "verify", *arguments, check=False)
    if answer.returncode != 0 or answer.stderr.strip():
        raise WatcherdError(f"systemd does not accept the units:\n{answer.stderr.strip()}", hint="Nothing was changed.")


# ----------------------------------------------------------------------------------------------------------- changes


def write(files: dict[Path, str]) -> list[Path]:
    """Write what differs, each file at once; what somebody changed by hand is kept as ``<file>.saved``."""
    written = []
    for path, text in files.items():
        if path.is_file() and (old := path.read_text(encoding="utf-8")) != text and not units.is_ours(old):
            path.rename(f"{path}.saved")
        if path.is_file() and old == text:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o644)
        temporary.rename(path)
        written.append(path)
    return written


def bring_up(service: Service, files: dict[Path, str]) -> None:
    """Make user and folders, enable the service, start it and wait until it is ready."""
    names = service.names
    if names.sysusers in files:
        _run("systemd-sysusers", str(names.sysusers))
    if names.tmpfiles in files:
        _run("systemd-tmpfiles", "--create", str(names.tmpfiles))
    systemctl("daemon-reload")
    systemctl("enable", names.unit, names.timer)
    systemctl("start", names.timer)
    systemctl("reset-failed", names.unit, check=False)
    started = systemctl("restart", names.unit, check=False)
    if started.returncode != 0:
        journal = _run("journalctl", "-u", names.unit, "-n", "15", "-o", "cat", "--no-pager", check=False).stdout
        raise UnavailableError(
            f"{names.unit} is installed but did not start:\n{journal.rstrip()}",
            hint=f"Put that right, then: systemctl restart {names.unit}",
        )


def cannot_write(user: str, folder: Path) -> bool:
    """Whether ``user`` has no right to add and remove files in ``folder``."""
    asked = ("runuser", "-u", user, "--", "test", "-w", str(folder), "-a", "-x", str(folder))
    return _run(*asked, check=False).returncode != 0


def take_down(names: Names) -> tuple[list[Path], list[Path]]:
    """Stop and disable the service and remove its files; returns those removed, and copies kept of edited ones."""
    systemctl("disable", "--now", names.unit, names.timer, names.web, check=False)
    systemctl("stop", names.prune, check=False)
    removed, kept = [], []
    for path in (*names.drop_ins, names.tmpfiles, names.sysusers, *_not_shared(names)):
        if not path.is_file():
            continue
        if units.is_ours(path.read_text(encoding="utf-8")):
            path.unlink()
        else:
            kept.append(path.rename(f"{path}.saved"))
        removed.append(path)
    for path in names.drop_ins:
        if path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()
    systemctl("daemon-reload")
    systemctl("reset-failed", names.unit, names.prune, names.web, check=False)
    return removed, kept


def _not_shared(names: Names) -> tuple[Path, ...]:
    """The files that no other service on this machine needs."""
    others = [unit for unit in installed() if unit != names.unit]
    own = names.units if not names.instance or not any("@" in unit for unit in others) else ()
    return own if others else (*own, units.SLICE)


def systemctl(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return _run("systemctl", *arguments, check=check)


def _run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and answer.returncode != 0:
        raise WatcherdError(f"{shlex.join(command)} failed:\n{answer.stderr.strip()}")
    return answer
