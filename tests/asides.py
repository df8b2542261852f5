"""What is set aside, for parts of the daemon that are tried by themselves."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from watcherd.pauses import Pauses
from watcherd.set_aside import SetAside


def aside(database: Any = None, **options: Any) -> SetAside:
    """Without a database nothing can be set aside; without ``marks`` no start knows how the last one ended."""
    marks = options.pop("marks", Path(os.devnull))
    return SetAside(database, Pauses(threading.Event()), run_id=1, marks=marks, **options)
