"""Make the table of licences in docs/dependencies.md from what each installed library says of itself.

    python -m tools.licences           # write it
    python -m tools.licences --check   # 1 when it is not what it should be

A library's licence stands in one of four places, and in any spelling: ``License-Expression``, ``License``, a
classifier, or only in the text that it ships.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "dependencies.md"
BEGIN = "<!-- licences: made by `python -m tools.licences`; a test compares -->\n"
END = "<!-- /licences -->"

COPYLEFT = re.compile(
    r"GNU|\b[AL]?GPL|General[\s-]Public|Affero|copyleft|share-?alike|\bCC[\s-]BY-(?:NC-)?SA|\bMPL|Mozilla|EUPL|CeCILL"
    r"|Sleepycat|\bSSPL|Server[\s-]Side[\s-]Public|\bEPL\b|Eclipse[\s-]Public|CDDL|OSL-",
    re.IGNORECASE,
)
"""Words in the names of licences that ask for something of the programs around them."""

BEGINNING = 300
"""Characters at the start of a licence's text that hold its name. Further down wheels list what they were built with
(the runtime of GCC, under the GPL with its exception)."""

LONGEST_NAME = 110
"""Characters of the longest name of a licence; what is longer is its text."""

OF_A_GPU_BUILD = re.compile(r"nvidia-(?!ml-py$)|cuda-|triton$")
"""Names of what torch brings along only where it is built for GPUs; docs/dependencies.md has a sentence on these."""


APART = frozenset({"cluster", "dev", "nnunet"})
"""Extras that are not in the table: what only a developer needs, and Ray and nnU-Net, whose libraries
docs/dependencies.md names by hand, for they are not installed beside the others where the table is made."""


def project() -> dict[str, list[str]]:
    """The requirements in pyproject.toml by extra; "" is the base. Without `APART`."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: needs for name, needs in table["optional-dependencies"].items() if name not in APART}
    return {"": table["dependencies"], **extras}


def closure(requirements: Iterable[str], find: Callable[[str], Distribution] = distribution) -> dict[str, Distribution]:
    """What these requirements bring along, by name.

    Raises `importlib.metadata.PackageNotFoundError` for what is not installed.
    """
    return {name: package for _, name, package in needs_of(requirements, find)}


def needs_of(
    requirements: Iterable[str], find: Callable[[str], Distribution] = distribution
) -> Iterator[tuple[str, str, Distribution]]:
    """Who asks for what: the name of the one that asks, "" for the requirements themselves, and what it asks for."""
    done: set[tuple[str, str]] = set()
    todo = [("", Requirement(text)) for text in requirements]
    while todo:
        asker, wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        package = find(name)
        yield asker, name, package
        for extra in {"", *wanted.extras} - {extra for known, extra in done if known == name}:
            done.add((name, extra))
            needs = map(Requirement, package.requires or ())
            todo += [(name, each) for each in needs if _is_needed(each, extra)]


def _is_needed(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    if marker is None:
        return extra == ""
    return marker.evaluate({"extra": extra}) and (extra == "" or not marker.evaluate({"extra": ""}))


def licence(package: Distribution) -> str:
    """All that a package says of its own licence: fields, classifiers, and the beginnings of its own texts.

    Those of parts that it carries along lie deeper; docs/dependencies.md says which of these are copyleft.
    """
    return "\n".join([*_fields(package), *_texts(package)])


def copyleft(packages: dict[str, Distribution]) -> dict[str, list[str]]:
    """Those of the packages whose licence asks for something of the programs around them, with its words for that."""
    return {name: words for name, package in packages.items() if (words := COPYLEFT.findall(licence(package)))}


def _fields(package: Distribution) -> list[str]:
    said = package.metadata
    classifiers = [line for line in said.get_all("Classifier") or () if line.startswith("License")]
    return [said.get("License-Expression") or "", (said.get("License") or "")[:BEGINNING], *classifiers]


def _texts(package: Distribution) -> list[str]:
    return [
        Path(str(file.locate())).read_text(errors="replace")[:BEGINNING]
        for file in package.files or ()
        if re.match(r"(LICEN[CS]E|COPYING)", file.name, re.IGNORECASE)
        and re.fullmatch(r"[^/]+\.dist-info(/licenses)?", str(file.parent))
    ]


def name_of_licence(package: Distribution) -> str:
    """The licence's name in the package's own words: the expression, else the field, else the classifiers."""
    expression, field, *classifiers = _fields(package)
    short = field.strip()
    for name in (expression, short if "\n" not in short and len(short) < LONGEST_NAME else ""):
        if name:
            return name
    if classifiers:
        return ", ".join(line.rpartition(" :: ")[2] for line in classifiers)
    return next((line.strip() for text in _texts(package) for line in text.splitlines() if line.strip()), "")


def table() -> str:
    """A row for each library that ``pip install`` brings along, with the extra that asks for it."""
    rows: dict[str, tuple[str, str]] = {}
    for extra, requirements in project().items():
        for name, package in closure(requirements).items():
            if not OF_A_GPU_BUILD.match(name):
                rows.setdefault(name, (extra, name_of_licence(package)))
    lines = [f"| {name} | {extra} | {words} |" for name, (extra, words) in sorted(rows.items())]
    return "\n".join(["| library | only with the extra | its licence, in its own words |", "|---|---|---|", *lines, ""])


def page() -> str:
    """The whole page with its table made anew."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


def main() -> int:
    """Write the page, or compare it."""
    if "--check" in sys.argv[1:]:
        return int(page() != PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
