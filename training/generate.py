"""Make the scenes that a network learns from: ``python -m training.generate --out FOLDER``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from training.data import scored_parts, training_part, validation_part, write_strays

if TYPE_CHECKING:
    from training.synth import Kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--xray", type=int, default=2400, help="scenes to train on")
    parser.add_argument("--fundus", type=int, default=1000)
    parser.add_argument("--validation", type=int, default=48)
    parser.add_argument("--test", type=int, default=12, help="scenes of each difficulty")
    parser.add_argument("--strays", type=int, default=200, help="layers of leads, wires and catheters")
    parser.add_argument("--workers", type=int, help="processes; as many as cores")
    given = parser.parse_args()
    counts: dict[Kind, int] = {"xray": given.xray, "fundus": given.fundus}
    for kind, count in counts.items():
        for part in (
            training_part(kind, count),
            validation_part(kind, given.validation),
            *scored_parts(kind, given.test),
        ):
            started = time.monotonic()
            part.write(given.out, workers=given.workers)
            print(f"{part.name}: {part.count} scenes in {time.monotonic() - started:.0f} s", flush=True)
    write_strays(given.out, given.strays)


if __name__ == "__main__":
    main()
