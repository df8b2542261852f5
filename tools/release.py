"""Build what is released, and check it: sdist, wheel, and what is in an installation as a CycloneDX SBOM.

    python -m tools.release dist     # into this folder, which is emptied first

The version stands in pyproject.toml alone. The SBOM is made from the metadata of what is installed, so run it where the
versions of constraints.txt are, as `make release` does.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.utils import canonicalize_name
from packaging.version import Version

from tools.licences import ROOT, name_of_licence, needs_of, project

if TYPE_CHECKING:
    from importlib.metadata import Distribution

SPDX = re.compile(r"[\w.+-]+(?: (?:AND|OR|WITH) [\w.+-]+)*")
"""An SPDX expression without brackets: identifiers with words between them."""

IN_THE_SDIST = ("LICENSE", "NOTICE", "CITATION.cff", "CHANGELOG.md", "README.md", "constraints.txt", "config.toml")
IN_THE_WHEEL = ("watcherd/systemd/config.toml", "watcherd/migrations/env.py", "watcherd/py.typed")


class ReleaseError(Exception):
    """What was built, or is to be, is not fit to be released."""


def version() -> str:
    """The one in pyproject.toml."""
    said: str = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return said


def main() -> int:
    """Build everything into the folder that is named; 1 and the reason when something is wrong."""
    folder = Path(sys.argv[1])
    try:
        check_changelog((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version())
        shutil.rmtree(folder, ignore_errors=True)
        build(folder)
        sbom = folder / f"watcherd-{version()}.cdx.json"
        sbom.write_text(json.dumps(bill(), indent=2) + "\n", encoding="utf-8")
        check(folder)
    except ReleaseError as error:
        print(f"Not fit to be released: {error}", file=sys.stderr)
        return 1
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:>12,}  {path}")
    return 0


def check_changelog(text: str, version: str) -> None:
    """Raise `ReleaseError` unless people can read what is new in this version."""
    if not re.search(rf"^## \[{re.escape(version)}\]", text, re.MULTILINE):
        raise ReleaseError(f"CHANGELOG.md has no section [{version}]: give what is Unreleased that name.")


def build(folder: Path) -> None:
    """The sdist, and the wheel out of it: so the sdist is known to be whole."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ReleaseError(f"the build failed:\n{done.stdout}{done.stderr}")


# ----------------------------------------------------------------------------------------------------------------- SBOM


def bill() -> dict[str, Any]:
    """The SBOM of the base, as CycloneDX 1.6. Nothing in it is of the moment: the same versions give the same bytes."""
    asked: dict[str, set[str]] = {}
    base: dict[str, Distribution] = {}
    for asker, name, package in needs_of(project()[""]):
        base[name] = package
        asked.setdefault(asker, set()).add(reference(package))
    ours = f"pkg:pypi/watcherd@{version()}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": ours,
                "name": "watcherd",
                "version": version(),
                "purl": ours,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": [component(package) for _, package in sorted(base.items())],
        "dependencies": [
            {"ref": reference(base[name]) if name else ours, "dependsOn": sorted(asked.get(name, ()))}
            for name in ("", *sorted(base))
        ],
    }


def component(package: Distribution) -> dict[str, Any]:
    """One library. Its licence is an expression only where the library itself says one."""
    words = name_of_licence(package)
    is_expression = package.metadata.get("License-Expression") and SPDX.fullmatch(words)
    return {
        "type": "library",
        "bom-ref": reference(package),
        "name": package.metadata["Name"],
        "version": package.version,
        "purl": reference(package),
        "licenses": [{"expression": words}] if is_expression else [{"license": {"name": words}}],
    }


def reference(package: Distribution) -> str:
    """Its package URL: the version as published, without what a build of torch adds."""
    return f"pkg:pypi/{canonicalize_name(package.metadata['Name'])}@{Version(package.version).public}"


# --------------------------------------------------------------------------------------------------------------- checks


def check(folder: Path) -> None:
    """Raise `ReleaseError` for the first thing that is missing in what lies in ``folder``."""
    sdist, wheel = only(folder, "*.tar.gz"), only(folder, "*.whl")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    _refuse_missing(sdist, set(IN_THE_SDIST) - inside)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = next(name.partition("/")[0] for name in names if ".dist-info/" in name)
        metadata = archive.read(f"{info}/METADATA").decode()
    _refuse_missing(wheel, {*IN_THE_WHEEL, f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE"} - names)
    for line in (f"Version: {version()}", "License-Expression: Apache-2.0"):
        if f"\n{line}\n" not in metadata:
            raise ReleaseError(f"{wheel.name} does not say {line!r}.")
    json.loads(only(folder, "*.cdx.json").read_text(encoding="utf-8"))


def only(folder: Path, pattern: str) -> Path:
    """The one file that matches."""
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise ReleaseError(f"{folder} holds {len(found)} files {pattern}, not one.")
    return found[0]


def _refuse_missing(path: Path, missing: set[str]) -> None:
    if missing:
        raise ReleaseError(f"{path.name} lacks {', '.join(sorted(missing))}.")


if __name__ == "__main__":
    sys.exit(main())
