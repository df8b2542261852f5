"""What `watcherd install-service` puts on a machine, as text: the shipped units with this machine's paths in them.

Nothing here touches the machine. Every file that is made here says so in its first lines, with a hash of the rest, so
that it can be recognised, and an edit by hand be seen, without a list kept anywhere.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

UNITS = Path("/etc/systemd/system")
CONFIGURATION = Path("/etc/watcherd")
INSTANCE = re.compile(r"(?!config$)[a-z0-9][a-z0-9_-]{0,30}")
"""Names of instances: they become parts of unit names, of folders' names and of the configuration's name."""

_MARK = "# Written by `watcherd install-service`; `watcherd uninstall-service` takes it away."
_ADVICE = "# Changes belong into `systemctl edit {unit}`: this file is written again by the next install-service."
_HASH = "# sha256 of what follows: "
_HIDDEN_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))  # what ProtectHome=yes hides


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """Where the parts of one service stand. ``instance`` is empty for the service that has no name."""

    instance: str = ""

    @property
    def stem(self) -> str:
        """The name of its folders: /var/lib/<stem>, /srv/<stem>."""
        return f"watcherd-{self.instance}" if self.instance else "watcherd"

    @property
    def unit(self) -> str:
        return f"watcherd@{self.instance}.service" if self.instance else "watcherd.service"

    @property
    def prune(self) -> str:
        return f"watcherd-prune@{self.instance}.service" if self.instance else "watcherd-prune.service"

    @property
    def timer(self) -> str:
        return self.prune.replace(".service", ".timer")

    @property
    def web(self) -> str:
        """The page's unit, which is not started by itself."""
        return f"watcherd-web@{self.instance}.service" if self.instance else "watcherd-web.service"

    @property
    def config(self) -> Path:
        return CONFIGURATION / f"{self.instance or 'config'}.toml"

    @property
    def state(self) -> Path:
        return Path("/var/lib", self.stem)

    @property
    def disposable(self) -> tuple[Path, ...]:
        """What systemd made for it and a purge takes away: history, caches, logs."""
        return (self.state, Path("/var/cache", self.stem), Path("/var/log", self.stem))

    @property
    def tmpfiles(self) -> Path:
        return Path("/etc/tmpfiles.d", f"{self.stem}.conf")

    @property
    def sysusers(self) -> Path:
        return Path("/etc/sysusers.d", f"{self.stem}.conf")

    @property
    def drop_ins(self) -> tuple[Path, ...]:
        """The lines that belong to this machine alone; where the first stands, the service is installed."""
        return drop_in(self.unit), drop_in(self.prune), drop_in(self.web)

    @property
    def units(self) -> tuple[Path, ...]:
        """The units' files; those of instances are templates, which all instances share."""
        return tuple(UNITS / re.sub(r"@[^.]+\.", "@.", name) for name in (self.unit, self.prune, self.timer, self.web))


SLICE = UNITS / "watcherd.slice"
"""All services share it."""


def drop_in(unit: str) -> Path:
    """Where the lines for ``unit`` stand that belong to this machine alone."""
    return UNITS / f"{unit}.d" / "10-watcherd.conf"


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """One service as it is to stand on this machine."""

    names: Names
    program: Path
    user: str
    group: str
    makes_user: bool
    inbox: Path
    outbox: Path
    archive: Path
    made_folders: tuple[Path, ...] = ()
    """Those of the three that install-service makes and gives to the user; the others are left as they are."""
    systemd: int
    modprobe: Path | None = None
    """nvidia-modprobe, where it is installed."""

    @property
    def folders(self) -> tuple[Path, Path, Path]:
        return self.inbox, self.archive, self.outbox


def render(service: Service, shipped: Path) -> dict[Path, str]:
    """Every file for ``service`` but its configuration, by path. ``shipped``: the folder ``systemd`` of the package."""
    names = service.names
    files = {path: _adapted(_read(shipped / path.name), service) for path in (*names.units, SLICE)}
    files |= {drop_in(unit): local_lines(service, unit) for unit in (names.unit, names.prune, names.web)}
    if service.made_folders:
        files[names.tmpfiles] = tmpfiles(service)
    if service.makes_user:
        files[names.sysusers] = sysusers(service)
    return {path: marked(text, names.unit) for path, text in files.items()}


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _adapted(text: str, service: Service) -> str:
    """A shipped unit for this machine's program, user and version of systemd."""
    text = text.replace("/opt/watcherd/bin/watcherd", _word(service.program))
    text = re.sub(r"^User=.*$", f"User={service.user}", text, flags=re.MULTILINE)
    text = re.sub(r"^Group=.*$", f"Group={service.group}", text, flags=re.MULTILINE)
    if service.systemd >= 253:
        text = text.replace("\nType=notify\n", "\nType=notify-reload\n")
    if service.systemd >= 254:
        text = text.replace("\nRestartSec=2s\n", "\nRestartSec=2s\nRestartSteps=6\nRestartMaxDelaySec=5min\n")
    return text


def local_lines(service: Service, unit: str) -> str:
    """The folders of this machine, for ``unit``; what ProtectHome=yes would hide is let through by name."""
    paths = " ".join(map(_word, service.folders))
    writable = " ".join(_word(folder, prefix="-") for folder in _writable(service.folders))
    lines = ["[Unit]", f"RequiresMountsFor={paths}", "", "[Service]", "ReadWritePaths=", f"ReadWritePaths={writable}"]
    if hidden := [folder for folder in service.folders if hidden_home(folder)]:
        lines += ["# Of /home these alone exist for the service.", "ProtectHome=tmpfs"]
        lines += [f"BindPaths={_word(folder)}" for folder in hidden]
    if service.modprobe and unit == service.names.unit:
        lines += [
            '# Loads nvidia-uvm, which the service may not; "+": outside its sandbox, "-": no GPU is no mistake.',
            f"ExecStartPre=-+{_word(service.modprobe)} -u -c 0",
        ]
    return "\n".join(lines) + "\n"


def _writable(folders: tuple[Path, ...]) -> list[Path]:
    """What the service may write to: where several of ``folders`` lie beside each other the folder that they lie in.

    Each path stands on a mount of its own in the sandbox, and nothing can be renamed from one mount to another: scans
    would have to be copied into the archive.
    """
    parents = [folder.parent for folder in folders]
    shared = {p for p in parents if parents.count(p) > 1 and len(p.parts) > 1 and not hidden_home(p)}
    return list(dict.fromkeys(f.parent if f.parent in shared else f for f in folders))


def tmpfiles(service: Service) -> str:
    """The folders that are made, for systemd-tmpfiles: the shipped lines with this machine's paths (tmpfiles.d(5))."""
    lines = []
    for folder in service.made_folders:
        mode = "2770" if folder == service.inbox else "2750"
        lines.append(f"d {_word(folder)} {mode} {service.user} {service.group} -")
        if folder == service.inbox:
            lines.append(f"a {_word(folder)} - - - - default:group::rwx")
    return "\n".join(lines) + "\n"


def sysusers(service: Service) -> str:
    """The user that the service runs as, for systemd-sysusers (sysusers.d(5))."""
    return f'u {service.user} - "watcherd model service" {service.names.state}\n'


def _word(path: Path, prefix: str = "") -> str:
    """``path`` as one word of a unit file: no specifiers, in quotes where it holds blanks (systemd.syntax(7))."""
    word = prefix + str(path).replace("%", "%%")
    return f'"{word}"' if " " in word else word


def hidden_home(path: Path) -> Path | None:
    """The folder that ``ProtectHome=yes`` empties for the service and that ``path`` lies in, if it does."""
    return next((home for home in _HIDDEN_HOMES if path.is_relative_to(home)), None)


def unfit(folder: Path) -> str | None:
    """Why ``folder`` cannot be the service's inbox, outbox or archive; None: it can."""
    if not folder.is_absolute():
        return "is not an absolute path"
    if not str(folder).isprintable() or set(str(folder)) & set("\"'\\:"):
        return "has characters that cannot stand in a unit file (quotes, backslashes, colons, control characters)"
    for private in (Path("/root"), Path("/run/user"), Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - names in a unit, not files of ours
        if folder.is_relative_to(private):
            return f"lies in {private}, which the service cannot see; take a folder under /srv, /data or /home"
    return None


def marked(text: str, unit: str) -> str:
    """``text`` under the lines that say whose it is."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{_MARK}\n{_ADVICE.format(unit=unit.removesuffix('.service'))}\n{_HASH}{digest}\n{text}"


def is_ours(text: str) -> bool:
    """Whether install-service wrote this file, and nobody changed it since."""
    head, _, rest = text.partition(_HASH)
    digest, _, body = rest.partition("\n")
    return head.startswith(_MARK) and hashlib.sha256(body.encode()).hexdigest() == digest


def configuration(service: Service, sample: str) -> str:
    """The commented sample with this service's folders in it."""
    values = (
        ("inbox", "path", service.inbox),
        ("inbox", "archive_path", service.archive),
        ("outbox", "path", service.outbox),
        ("state", "path", service.names.state),
    )
    for section, key, path in values:
        sample = _with_value(sample, section, key, path)
    return sample


def _with_value(sample: str, section: str, key: str, path: Path) -> str:
    """``sample`` with ``key`` of ``section`` set to ``path``, which holds nothing to escape (`unfit`)."""
    pattern = re.compile(rf'(^\[{section}\]\n(?:(?!\[).*\n)*?{key} = )"[^"]*"', re.MULTILINE)
    changed, count = pattern.subn(lambda match: f'{match[1]}"{path}"', sample, count=1)
    if count != 1:
        raise LookupError(f"the sample configuration has no {section}.{key}")
    return changed
