"""The base is small: what the main job does without is an extra, and what asks for an extra says how to get it."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import Distribution, packages_distributions
from pathlib import Path

import pytest

from tools.licences import APART, OF_A_GPU_BUILD, closure, project
from watcherd.cli import app
from watcherd.outputs import CLUSTER, DRAWN, EXTRA_BY_MODULE, EXTRAS, NNUNET, Extra

ROOT = Path(__file__).parents[2]
MOST_PACKAGES = 70
MOST_GIB = 1.45
"""GiB on the disk at most, bytecode included, of the base and watcherd itself."""


def size(package: Distribution) -> int:
    """Bytes of what it has installed."""
    paths = (Path(str(file.locate())) for file in package.files or ())
    return sum(path.stat().st_size for path in paths if path.is_file())


def test_the_base_is_small() -> None:
    """With torch's build for CPUs; README and docs/dependencies.md tell how small."""
    base = closure(project()[""])
    if any(map(OF_A_GPU_BUILD.match, base)):
        pytest.skip("torch is built for GPUs here")
    ours = sum(path.stat().st_size for path in (ROOT / "watcherd").rglob("*") if path.is_file())
    gib = (sum(map(size, base.values())) + ours) / 2**30
    assert 1 + len(base) <= MOST_PACKAGES
    assert gib <= MOST_GIB
    for page in (ROOT / "README.md", ROOT / "docs" / "dependencies.md"):
        told = re.search(r"(\d+)\s+packages\s+and\s+([\d.]+)\s+GiB", page.read_text())
        assert told
        assert 1 + len(base) == int(told[1])
        assert abs(gib - float(told[2])) < 0.1


def test_no_extra_is_in_the_base() -> None:
    modules = packages_distributions()
    base = set(closure(project()[""]))
    for extra in EXTRAS:
        assert not {name.lower() for name in modules[extra.module]} & base


def test_the_extras_are_those_of_the_package() -> None:
    """Each with the library that the row names; and each is in the documentation with its command."""
    wanted = {name: needs for name, needs in project().items() if name}
    assert {extra.name for extra in EXTRAS} == set(wanted)
    modules = packages_distributions()
    for extra in EXTRAS:
        named = {re.split("[<>=]", need)[0].lower() for need in wanted[extra.name]}
        assert named == {name.lower() for module in (extra.module, *extra.beside) for name in set(modules[module])}
        assert f"`{extra.command}`" in (ROOT / "docs" / "dependencies.md").read_text()
        assert extra.output is None or extra.output in DRAWN


def test_nnunet_stands_apart() -> None:
    """Its libraries are installed by constraints only: each has its version there, torch's own companions too."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert NNUNET.name in APART
    assert ["nnunetv2"] == [re.split("[<>=]", need)[0] for need in table[NNUNET.name]]
    assert "--constraint constraints.txt" in NNUNET.command
    assert f"`{NNUNET.command}`" in (ROOT / "docs" / "dependencies.md").read_text()
    assert f"{NNUNET.command}\n" in (ROOT / "docs" / "nnunet.md").read_text()
    fixed = (ROOT / "constraints.txt").read_text().lower()
    for name in ("nnunetv2", "dynamic-network-architectures", "acvl-utils", "timm", "torch", "torchvision"):
        assert re.search(rf"^{name}==[0-9.]+$", fixed, re.MULTILINE), name


def test_ray_stands_apart() -> None:
    """It is not installed where the tests run; its version is fixed, and so are those of what it brings."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert CLUSTER.name in APART
    assert ["ray"] == [re.split("[<>=]", need)[0] for need in table[CLUSTER.name]]
    assert f"`{CLUSTER.command}`" in (ROOT / "docs" / "dependencies.md").read_text()
    assert f"{CLUSTER.command}\n" in (ROOT / "docs" / "cluster.md").read_text()
    fixed = (ROOT / "constraints.txt").read_text().lower()
    for name in ("ray", "jsonschema", "protobuf", "referencing", "rpds-py"):
        assert re.search(rf"^{name}==[0-9.]+$", fixed, re.MULTILINE), name


def test_nothing_imports_an_extra_before_it_is_asked_for() -> None:
    """An import at the head of a module would stop everything that uses the module; the page's folder is one that
    nothing else uses, but for its command."""
    named = "|".join(EXTRA_BY_MODULE)
    page = ROOT / "watcherd" / "web"
    for path in (ROOT / "watcherd").rglob("*.py"):
        if path.is_relative_to(page):
            continue
        users = re.findall(r"^from watcherd\.web", path.read_text(), re.MULTILINE)
        assert not users, path
        assert not re.search(rf"^(from|import) ({named})\b", path.read_text(), re.MULTILINE), path


@pytest.mark.parametrize("extra", [*EXTRAS, NNUNET, CLUSTER], ids=lambda extra: extra.name)
def test_a_command_that_needs_an_extra_names_it(
    extra: Extra, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the command that installs it, and no traceback."""
    monkeypatch.setattr(app, "app", lambda **_: lacking(f"{extra.module}.part"))
    assert 69 == app.run(["evaluate"])
    said = capsys.readouterr().err
    assert extra.library in said
    assert extra.command in said


def test_another_module_that_is_missing_is_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """No advice that does not help."""
    monkeypatch.setattr(app, "app", lambda **_: lacking("numpy"))
    with pytest.raises(ModuleNotFoundError):
        app.run(["evaluate"])


def lacking(module: str) -> None:
    raise ModuleNotFoundError(f"No module named {module!r}", name=module)
