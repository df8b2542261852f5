"""Where the scans of a run of the service lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """``scratch``: the run folder, for decoded scans and masks. ``spool_path``: a hash to its copy.

    ``bring_back``: looks for the bytes of a job's scan elsewhere than in the spool; whether they lie there again. For
    the intake's thread, which owns the spool.
    """

    scratch: Path
    spool_path: Callable[[str], Path]
    bring_back: Callable[[int], bool]
