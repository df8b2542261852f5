"""Build the Debian package: a virtual environment in /opt/watcherd, units, user, folders, and their configuration.

    python -m tools.deb dist        # dist/zstd/watcherd_VERSION_ARCHITECTURE.deb
    python -m tools.deb dist --xz   # dist/xz/..., for lintian, which cannot read zstd

Needs root, overlayfs and Debian's Python 3.11 with venv: an environment's scripts name their interpreter, so it is
built where it will lie, in an overlay over /opt that nobody else sees. What runs when it is installed is in
packaging/deb.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import sys
import tempfile
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING

from tools.container import EXTRAS, ROOT, run, wheelhouse
from tools.release import only, version
from tools.shipped import configuration, service

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKAGING = ROOT / "packaging" / "deb"
SYSTEMD = ROOT / "systemd"
UNITS = ("*.service", "*.timer", "*.slice")
SCRIPTS = ("preinst", "postinst", "prerm", "postrm")
REVISION = 1
"""Number of the package among those of one version of watcherd."""

IN_AN_OVERLAY = """
mount -t overlay overlay -o "lowerdir=/opt,upperdir=$1/opt,workdir=$1/work" /opt
rm -rf /opt/watcherd
/usr/bin/python3 -m venv --without-pip /opt/watcherd
shift
exec "$@"
"""


PACKINGS = {"zstd": ("-Zzstd",), "xz": ("-Zxz", "-z1")}


def build(out: Path, wheels: Path, packings: Sequence[str] = ("zstd",)) -> list[Path]:
    """Write the package into ``out``/<packing>, for each. ``wheels``: a folder with ours and all that it needs."""
    architecture = run("dpkg", "--print-architecture")
    packages = [out / packing / f"watcherd_{version()}-{REVISION}_{architecture}.deb" for packing in packings]
    with tempfile.TemporaryDirectory(prefix="watcherd-deb-") as name:
        tree = Path(name, "tree")
        environment(Path(name), wheels)
        tree.mkdir()
        Path(name, "opt").rename(tree / "opt")
        files(tree)
        sample = configuration(service(), (ROOT / "config.toml").read_text(encoding="utf-8"))
        write(tree / "usr/share/watcherd/config.toml", sample)
        control(tree, architecture, sample)
        tree.chmod(0o755)
        for packing, package in zip(packings, packages, strict=True):
            package.parent.mkdir(parents=True, exist_ok=True)
            run("dpkg-deb", "--root-owner-group", *PACKINGS[packing], "--build", tree, package)
    return packages


def environment(folder: Path, wheels: Path) -> None:
    """Make the environment as it will lie in /opt/watcherd, in ``folder``/opt."""
    for made in ("opt", "work"):
        (folder / made).mkdir()
    pip = (sys.executable, "-m", "pip", "--python", "/opt/watcherd/bin/python", "--disable-pip-version-check")
    wheel = only(wheels, "watcherd-*.whl")
    pinned = ("--no-index", "--find-links", wheels, "--constraint", ROOT / "constraints.txt")
    install = (*pip, "install", "--quiet", *pinned, f"watcherd[{EXTRAS}] @ {wheel.as_uri()}")
    run("unshare", "--mount", "--propagation", "private", "sh", "-ec", IN_AN_OVERLAY, "sh", folder, *install)


def files(tree: Path) -> None:
    """The files beside the environment. The units are those of ``systemd/``, which name /opt/watcherd themselves."""
    for pattern in UNITS:
        for unit in SYSTEMD.glob(pattern):
            write(tree / "usr/lib/systemd/system" / unit.name, unit.read_text())
    write(tree / "usr/lib/systemd/system-preset/80-watcherd.preset", (SYSTEMD / "watcherd.preset").read_text())
    for kind in ("sysusers.d", "tmpfiles.d"):
        write(tree / "usr/lib" / kind / "watcherd.conf", (SYSTEMD / kind / "watcherd.conf").read_text())
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/watcherd").symlink_to("/opt/watcherd/bin/watcherd")
    documents = tree / "usr/share/doc/watcherd"
    for name in ("NOTICE", "README.md"):
        write(documents / name, (ROOT / name).read_text())
    write(documents / "copyright", copyright_of())
    for name, text in (("changelog", (ROOT / "CHANGELOG.md").read_text()), ("changelog.Debian", changelog())):
        (documents / f"{name}.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    write(tree / "usr/share/lintian/overrides/watcherd", (PACKAGING / "lintian-overrides").read_text())


def control(tree: Path, architecture: str, sample: str) -> None:
    """What dpkg reads: the package's description, the sums of its files, and what runs when it comes and goes."""
    paths = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    size = sum(path.stat().st_size for path in paths)
    values = {
        "VERSION": f"{version()}-{REVISION}",
        "ARCHITECTURE": architecture,
        "SIZE": str(size >> 10),
        "SAMPLE": hashlib.sha256(sample.encode()).hexdigest(),
    }
    for name in (*SCRIPTS, "control.in"):
        text = (PACKAGING / name).read_text()
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        target = write(tree / "DEBIAN" / name.removesuffix(".in"), text)
        target.chmod(0o755 if name in SCRIPTS else 0o644)
    sums = (f"{md5(path)}  {path.relative_to(tree)}\n" for path in paths)
    write(tree / "DEBIAN/md5sums", "".join(sums))


def md5(path: Path) -> str:
    """As dpkg --verify wants it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def copyright_of() -> str:
    """In the machine-readable form; each library's own licence lies beside it in the environment."""
    return (
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
        "Upstream-Name: watcherd\n\nFiles: *\nCopyright: The watcherd developers\nLicense: Apache-2.0\n"
        " On Debian systems the text is in /usr/share/common-licenses/Apache-2.0. Some bundled pictures are others':\n"
        " see NOTICE beside this file.\n\nFiles: opt/watcherd/lib/*\nCopyright: The authors of each library\n"
        "License: each-its-own\n In the folders *.dist-info of /opt/watcherd.\n"
    )


def changelog() -> str:
    """The one entry that a package must have; what has changed stands in CHANGELOG.md."""
    when = formatdate(int(os.environ.get("SOURCE_DATE_EPOCH", (ROOT / "CHANGELOG.md").stat().st_mtime)))
    return (
        f"watcherd ({version()}-{REVISION}) bookworm; urgency=low\n\n  * See changelog.gz.\n\n"
        f" -- The watcherd developers <watcherd@example.org>  {when}\n"
    )


def write(path: Path, text: str) -> Path:
    """Write a file that everybody may read, and the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
    return path


def gather(folder: Path) -> Path:
    """watcherd's own wheel from this tree, and every wheel that it needs."""
    own = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    run(*own)
    return wheelhouse(folder)


def main() -> int:
    """Build it, and say where it is."""
    parser = argparse.ArgumentParser(description="Build watcherd's Debian package.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--xz", action="store_true", help="pack it by xz")
    options = parser.parse_args()
    os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="watcherd-wheels-") as name:
        (package,) = build(options.out, gather(Path(name)), ["xz" if options.xz else "zstd"])
    print(f"{package}: {package.stat().st_size >> 20} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
