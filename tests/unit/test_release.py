"""What is released is whole, and says of itself what pyproject.toml says."""

from __future__ import annotations

import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools import release
from tools.licences import ROOT, closure, project


def test_the_version_stands_in_one_place() -> None:
    """Code asks the installed package; a citation names none that could be an old one."""
    wanted = release.version()
    assert re.fullmatch(r"\d+\.\d+\.\d+", wanted)
    for path in (*(ROOT / "watcherd").rglob("*.py"), ROOT / "CITATION.cff", ROOT / "tools" / "release.py"):
        assert f'"{wanted}"' not in path.read_text(), path
    assert not re.search(r"^version:", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)


def test_the_citation_is_under_the_same_licence() -> None:
    assert "\nlicense: Apache-2.0\n" in (ROOT / "CITATION.cff").read_text()


def test_the_sbom_names_every_library_of_the_base() -> None:
    """With its version as it was published, its licence, and what it asks for."""
    bill = release.bill()
    base = closure(project()[""])
    assert ("CycloneDX", "1.6") == (bill["bomFormat"], bill["specVersion"])
    assert len(base) == len(bill["components"])
    references = [component["bom-ref"] for component in bill["components"]]
    assert len(references) == len(set(references))
    for component in bill["components"]:
        assert re.fullmatch(r"pkg:pypi/[a-z0-9-]+@[\w.]+", component["purl"]), component
        ((kind, value),) = component["licenses"][0].items()
        assert value if kind == "expression" else value["name"]
    ours = bill["metadata"]["component"]["bom-ref"]
    assert {ours, *references} == {row["ref"] for row in bill["dependencies"]}
    assert {each for row in bill["dependencies"] for each in row["dependsOn"]} <= set(references)
    reached: set[str] = set()
    todo = [ours]
    asked = {row["ref"]: row["dependsOn"] for row in bill["dependencies"]}
    while todo:
        if (one := todo.pop()) not in reached:
            reached.add(one)
            todo += asked[one]
    assert {ours, *references} == reached
    assert bill == release.bill()


def test_a_version_that_the_changelog_does_not_tell_of_is_not_released() -> None:
    release.check_changelog("# Changelog\n\n## [Unreleased]\n\n## [9.9.9] - 2030-01-01\n", "9.9.9")
    with pytest.raises(release.ReleaseError, match="Unreleased"):
        release.check_changelog("# Changelog\n\n## [Unreleased]\n\n## [9.9.90]\n", "9.9.9")


def made_up(folder: Path, *, lacking: str = "", version: str = "") -> Path:
    """The files of a release without their content, but for one that is missing."""
    folder.mkdir()
    with tarfile.open(folder / "watcherd.tar.gz", "w:gz") as archive:
        for name in {*release.IN_THE_SDIST} - {lacking}:
            archive.add(ROOT / name, f"watcherd-1/{name}")
    metadata = f"Name: watcherd\nVersion: {version or release.version()}\nLicense-Expression: Apache-2.0\n"
    inside = {f"w.dist-info/{name}": "" for name in ("licenses/LICENSE", "licenses/NOTICE")}
    inside |= dict.fromkeys(release.IN_THE_WHEEL, "") | {"w.dist-info/METADATA": metadata}
    with zipfile.ZipFile(folder / "watcherd.whl", "w") as wheel:
        for name, text in inside.items():
            if name != lacking:
                wheel.writestr(name, text)
    (folder / "watcherd.cdx.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    "lacking", ["NOTICE", "CITATION.cff", "w.dist-info/licenses/NOTICE", "watcherd/migrations/env.py"]
)
def test_a_release_that_lacks_something_is_refused(tmp_path: Path, lacking: str) -> None:
    release.check(made_up(tmp_path / "whole"))
    with pytest.raises(release.ReleaseError, match=f"lacks {lacking}"):
        release.check(made_up(tmp_path / "lacking", lacking=lacking))


def test_a_release_of_another_version_is_refused(tmp_path: Path) -> None:
    """Left there by an earlier build."""
    with pytest.raises(release.ReleaseError, match="does not say 'Version: "):
        release.check(made_up(tmp_path / "old", version="0.0.1"))
