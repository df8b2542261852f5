"""What the generator hands out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One picture and what is true about it; all arrays are (size, size).

    ``image``: uint8, vessels dark. ``mask``: True on vessels. ``ignore``: True where no honest reader could say
    (a vessel too faint or too thin to see). ``field``: True where the detector or the camera saw anything.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    ignore: NDArray[np.bool_]
    field: NDArray[np.bool_]
