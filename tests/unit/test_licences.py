"""What `pip install` brings along is under permissive licences, but for two libraries that the documentation names."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
COPYLEFT = re.compile(r"GNU|\b[AL]?GPL|\bMPL\b|\bMPL-|Mozilla|EUPL|CeCILL|Sleepycat|\bEPL\b|CDDL|OSL-", re.IGNORECASE)
"""Words in the names of licences that ask for something of the programs around them."""

KNOWN = {"pebble": "LGPL", "tqdm": "MPL"}
"""The two: pebble is used as it is, from a file of its own; tqdm comes with transformers."""

BEGINNING = 300
"""Characters at the start of a licence's text that hold its name. Further down wheels list what they were built with
(the runtime of GCC, under the GPL with its exception)."""


def closure() -> dict[str, Distribution]:
    """What the requirements in pyproject.toml bring along, without extras, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: dict[str, Distribution] = {}
    todo = [Requirement(text) for text in project["dependencies"]]
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        extras = {"", *wanted.extras}
        if name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        found[name] = distribution(name)
        needs = (Requirement(text) for text in found[name].requires or ())
        todo += [each for each in needs if not each.marker or any(each.marker.evaluate({"extra": e}) for e in extras)]
    return found


def licence(package: Distribution) -> str:
    """All that a package says of its own licence: fields, classifiers, and the beginnings of its own texts.

    Those of parts that it carries along lie deeper; docs/dependencies.md says which of these are copyleft.
    """
    said = package.metadata
    fields = [said.get("License-Expression") or "", (said.get("License") or "")[:BEGINNING]]
    classifiers = [line for line in said.get_all("Classifier") or () if line.startswith("License")]
    texts = [
        Path(str(file.locate())).read_text(errors="replace")[:BEGINNING]
        for file in package.files or ()
        if re.match(r"(LICEN[CS]E|COPYING)", file.name, re.IGNORECASE)
        and re.fullmatch(r"[^/]+\.dist-info(/licenses)?", str(file.parent))
    ]
    return "\n".join([*fields, *classifiers, *texts])


def test_no_library_is_copyleft_but_the_two_that_are_named() -> None:
    found = {name: words for name, package in closure().items() if (words := COPYLEFT.findall(licence(package)))}
    assert set(KNOWN) == set(found), found
    assert all(word in " ".join(found[name]).upper() for name, word in KNOWN.items())


def test_every_library_says_its_licence() -> None:
    assert [] == [name for name, package in closure().items() if not licence(package).strip()]


def test_the_documentation_names_the_two() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text()
    assert all(re.search(rf"\b{name}\b.*{word}", text, re.IGNORECASE) for name, word in KNOWN.items())


def test_what_was_replaced_does_not_come_back() -> None:
    """GPL-3: nothing that is installed needs it any more."""
    assert not {"pylibjpeg-libjpeg", "pylibjpeg-openjpeg"} & set(closure())
