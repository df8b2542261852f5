"""What `pip install` brings along is under permissive licences, but for two libraries that the documentation names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

import pytest

from tools import licences
from tools.licences import ROOT, closure, copyleft, licence, project

KNOWN = {"pebble": "LGPL", "tqdm": "MPL"}
"""The two: pebble is used as it is, from a file of its own; tqdm comes with transformers."""

CARRIED = re.compile(r"lib(x264|x265|readline|gsl|fftw3f?|glpk|cdio|postproc|gpl)\b", re.IGNORECASE)
"""Libraries under the GPL that wheels carry along, although the wheel's own metadata speak of a permissive licence."""


def base() -> dict[str, Distribution]:
    """What comes without any extra."""
    return closure(project()[""])


def with_extras() -> dict[str, Distribution]:
    return closure(requirement for requirements in project().values() for requirement in requirements)


def test_no_library_is_copyleft_but_the_two_that_are_named() -> None:
    found = copyleft(with_extras())
    assert set(KNOWN) == set(found), found
    assert all(word in " ".join(found[name]).upper() for name, word in KNOWN.items())


def made_up(folder: Path, metadata: str, text: str = "") -> Distribution:
    """A library that is not there, with this in its metadata and this as its licence's text."""
    info = folder / "made_up-1.0.dist-info"
    (info / "licenses").mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: made-up\nVersion: 1.0\n{metadata}\n")
    (info / "licenses" / "LICENSE.txt").write_text(text)
    (info / "RECORD").write_text("made_up-1.0.dist-info/licenses/LICENSE.txt,,\n")
    return PathDistribution(info)


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ("License-Expression: GPL-3.0-only", ""),
        ("License-Expression: MIT AND LGPL-2.1-or-later", ""),
        ("License: GPLv3", ""),
        ("License: gpl 2", ""),
        ("License: AGPL", ""),
        ("License: The General Public Licence, version 3", ""),
        ("Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)", ""),
        ("Classifier: License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)", ""),
        ("License: MPLv2", ""),
        ("License: CC-BY-SA-4.0", ""),
        ("License-File: LICENSE.txt", "    GNU AFFERO GENERAL PUBLIC LICENSE\n   Version 3, 19 November 2007\n"),
    ],
)
def test_a_copyleft_library_in_the_base_would_be_found(tmp_path: Path, metadata: str, text: str) -> None:
    """Wherever it says so and however it spells it, also where another library brings it along."""
    library = made_up(tmp_path / "library", metadata, text)
    bringer = made_up(tmp_path / "bringer", "License: MIT\nRequires-Dist: made-up>=1")
    there = {"made-up": library, "bringer": bringer}
    for added in ("made-up>=1", "bringer"):
        packages = closure([*project()[""], added], lambda name: there.get(name) or distribution(name))
        assert {*KNOWN, "made-up"} == set(copyleft(packages))


def test_every_library_says_its_licence() -> None:
    assert [] == [name for name, package in with_extras().items() if not licence(package).strip()]


def carried(package: Distribution) -> Iterator[str]:
    """Names of the libraries under the GPL that a wheel carries along."""
    yield from (file.name for file in package.files or () if ".so" in file.name and CARRIED.match(file.name))


def test_no_wheel_of_the_base_carries_a_library_under_the_gpl() -> None:
    """Their metadata are silent about it: PyAV's wheel is BSD, and the encoders in it are not. So it is an extra."""
    assert {} == {name: found for name, package in base().items() if (found := list(carried(package)))}
    assert list(carried(distribution("av")))
    assert re.search(r"\bav\b.*x264.*GPL", licences.PAGE.read_text())


def test_the_documentation_names_the_two() -> None:
    text = licences.PAGE.read_text()
    assert all(re.search(rf"\b{name}\b.*{word}", text, re.IGNORECASE) for name, word in KNOWN.items())


def test_the_table_of_licences_is_made_from_the_metadata() -> None:
    """`python -m tools.licences` writes it."""
    assert licences.page() == licences.PAGE.read_text()


def test_the_licence_of_nvidias_wheels_is_named() -> None:
    """They come with a torch for GPUs, and are no free software."""
    assert re.search(r"`nvidia-\*`.*\n?.*NVIDIA Proprietary", licences.PAGE.read_text())


def test_what_was_replaced_does_not_come_back() -> None:
    """GPL-3: nothing that is installed needs it any more."""
    assert not {"pylibjpeg-libjpeg", "pylibjpeg-openjpeg"} & set(with_extras())


def test_the_licence_is_the_text_as_it_was_published() -> None:
    """Apache-2.0 is known by its words: one that was changed is another licence."""
    text = (ROOT / "LICENSE").read_text()
    assert text.lstrip().startswith("Apache License\n")
    assert "Copyright [yyyy] [name of copyright owner]" in text
    for number in range(1, 10):
        assert f"\n   {number}. " in text


def test_every_file_of_others_is_attributed() -> None:
    """In NOTICE, which travels with every copy; each file that it names is there."""
    notice = (ROOT / "NOTICE").read_text()
    named = set(re.findall(r"watcherd/[\w/.]+\.(?:jpg|safetensors)", notice))
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "watcherd" / "demo").glob("Image_*")} <= named
    assert all((ROOT / name).is_file() for name in named)
    assert "CHASE_DB1" in notice
    assert "https://creativecommons.org/licenses/by/4.0/" in notice
