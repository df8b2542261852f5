"""Build the image without a registry of images: on a base of Debian that mmdebstrap makes, with buildah.

    python -m tools.container              # localhost/watcherd:VERSION, in the storage of root's buildah and podman
    python -m tools.container --base IMAGE # on another base that is already there

Needs root, buildah and mmdebstrap (apt). With Docker, or with a base from a registry, the Dockerfile needs none of
this: `docker build -t watcherd .`. The libraries come from pip's own indexes and are fetched outside the build, which
then has no need of them: see `wheelhouse`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.release import version

ROOT = Path(__file__).resolve().parents[1]
UV = "uv==0.13.9"
"""As in the Dockerfile."""
EXTRAS = "seg,video,plots"
"""As in the Dockerfile."""
BASE = "localhost/watcherd-base"
SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
PACKAGES = "python3,python3-venv,ca-certificates"

PIP = "[global]\nfind-links = /wheels\nno-index = true\n"
UV_SETTINGS = 'find-links = ["/wheels"]\nno-index = true\n'
"""What sends pip and uv to the wheelhouse during a build, and to no index."""


def run(*command: str | Path) -> str:
    """What a program writes on its standard output; what it says goes through. Raises CalledProcessError."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def wheelhouse(folder: Path) -> Path:
    """Every wheel that watcherd needs with Python 3.11 on this kind of machine, torch for the CPU among them."""
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:")
    pinned = ("--constraint", ROOT / "constraints.txt", "--dest", folder)
    run(*pip, *pinned, torch, f"{ROOT}[{EXTRAS}]", "hatchling", UV)
    return folder


def base(buildah: list[str], folder: Path) -> str:
    """A small Debian 12 with Python, from the mirror that this machine uses; its name."""
    mirror = next((path for path in SOURCES if path.exists()), None)
    tar = folder / "base.tar"
    run("mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", tar, *filter(None, [mirror]))
    container = run(*buildah, "from", "scratch")
    run(*buildah, "add", "--quiet", container, tar, "/")
    run(*buildah, "commit", "--quiet", "--rm", container, BASE)
    tar.unlink()
    return BASE


def build(buildah: list[str], image: str, *, base: str, folder: Path, wheels: Path | None) -> None:
    """Build ``image`` out of this tree. ``folder``: for settings; ``wheels``: instead of the indexes of the network.

    In the form of Docker's images, since that of OCI has no health check.
    """
    binds: list[str | Path] = []
    if wheels is not None:
        (folder / "pip.conf").write_text(PIP)
        (folder / "uv.toml").write_text(UV_SETTINGS)
        binds += ["-v", f"{wheels}:/wheels:ro", "-v", f"{folder}/pip.conf:/etc/pip.conf:ro"]
        binds += ["-v", f"{folder}/uv.toml:/etc/uv/uv.toml:ro"]
    form = ("--isolation", "chroot", "--pull-never", "--format", "docker", "--build-arg", f"BASE={base}")
    run(*buildah, "bud", *form, *binds, "--tag", image, ROOT)


def main() -> int:
    """Build it, and say what it is called."""
    parser = argparse.ArgumentParser(description="Build watcherd's image with buildah.")
    parser.add_argument("--base", help="an image that buildah has, with Python 3.11 and apt")
    options = parser.parse_args()
    buildah, image = ["buildah"], f"localhost/watcherd:{version()}"
    with tempfile.TemporaryDirectory(prefix="watcherd-image-") as name:
        folder = Path(name)
        (folder / "wheels").mkdir()
        wheels = wheelhouse(folder / "wheels")
        build(buildah, image, base=options.base or base(buildah, folder), folder=folder, wheels=wheels)
    print(f"{image} is built. Run it: docs/container.md. To Docker: buildah push {image} docker-daemon:watcherd:latest")
    return 0


if __name__ == "__main__":
    sys.exit(main())
