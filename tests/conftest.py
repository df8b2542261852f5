"""What holds for all tests: how they share the machine."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import watcherd
from tests.tree import ROOT, python_path, refuse_another_tree

if TYPE_CHECKING:
    import pytest

# Hundreds of processes are started: where compiled code may not be kept, each would compile the package for itself.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several test processes share the cores: threads that wait for one another would spin on what another one needs.
    # Said before anything loads torch or numpy.
    for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(_name, "1")

# An editable installation may be of another tree, and tests are to be about this one, in all their processes.
if not (ROOT / "watcherd").samefile(watcherd.__path__[0]):
    raise RuntimeError(f"the tests of {ROOT} would try {watcherd.__path__[0]}: run them in their tree")
os.environ["PYTHONPATH"] = python_path()
sys.addaudithook(refuse_another_tree)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes are begun first, or one process would be busy with them when the others have ended."""
    items.sort(key=lambda item: item.get_closest_marker("heavy") is None)
