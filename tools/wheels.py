"""Whether an installation needs no compiler: resolve the requirements from wheels alone, for each version of Python.

    python -m tools.wheels                 # every version and extra that docs/dependencies.md speaks of
    python -m tools.wheels 3.14 seg        # this version, these extras; the base without any

pip resolves and downloads nothing but what it must look into; no interpreter of the version has to be there, but
markers such as ``python_version`` are those of the one asked for. It asks the index that pip is set up for, so it is no
part of the tests. Exit code 1: something does not resolve as `NOT` says.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tools.licences import ROOT, project

VERSIONS: Final = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS: Final = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(36, 4, -1)),
    *(f"manylinux{year}_x86_64" for year in ("2014", "2010", "1")),
)
"""Names of platforms whose wheels Debian 12 installs, with its glibc 2.36; pip takes these and no others."""

EXTRAS: Final = ("", "plots", "video", "web", "seg")
NOT: Final = frozenset({("3.14", "seg")})
"""What does not resolve: of pyjpegls, which highdicom asks for, there is no wheel for Python 3.14."""


def resolved(version: str, extra: str) -> list[str]:
    """The libraries that pip would install, as NAME==VERSION; empty where it finds no set of wheels."""
    needs = project()[""] + (project()[extra] if extra else [])
    plain = [need for need in needs if not need.startswith("watcherd")]
    options = [part for platform in PLATFORMS for part in ("--platform", platform)]
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed"),
                *("--only-binary", ":all:", "--python-version", version, "--implementation", "cp", *options),
                *("--constraint", str(ROOT / "constraints.txt"), "--target", folder, "--report", str(report), *plain),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            print(done.stderr[-400:], file=sys.stderr)
            return []
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return sorted(f"{each['metadata']['name']}=={each['metadata']['version']}" for each in found)


def main(arguments: list[str]) -> int:
    """Print a line for each version and extra."""
    asked = [(arguments[0], extra) for extra in arguments[1:] or [""]] if arguments else None
    wrong = 0
    for version, extra in asked or [(version, extra) for version in VERSIONS for extra in EXTRAS]:
        count = len(resolved(version, extra))
        wrong += bool(count) is ((version, extra) in NOT)
        print(version, extra or "base", f"{count} wheels" if count else "does not resolve", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
