"""Masks of past jobs: what the history says of a job and what lies in the outbox of it."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

from watcherd.evaluation.pairing import Made
from watcherd.file_names import unshow

if TYPE_CHECKING:
    from pathlib import Path


def mask_of(record: dict[str, Any], outbox: Path) -> Made | str:
    """The mask of a job's record (`store.history.JobRecord`), or why there is none to be judged.

    A file that is gone, or is not the one that was delivered, is not judged as the model's.
    """
    outputs = {output["kind"]: output for output in record["outputs"]}
    if "mask" not in outputs:
        return f"Job {record['id']} has no mask among its results."
    mask, why = _as_delivered(outputs["mask"], outbox)
    if mask is None:
        return f"Job {record['id']}: {why}"
    probability = _as_delivered(outputs["probability"], outbox)[0] if "probability" in outputs else None
    return Made(
        mask=mask,
        probability=probability,
        model=" ".join(filter(None, (record["segmenter"], record["model"], record["model_revision"]))),
        threshold=record["threshold"],
        own=True,
    )


def _as_delivered(output: dict[str, Any], outbox: Path) -> tuple[Path | None, str]:
    path = outbox / os.fsdecode(unshow(output["path"]))
    try:
        with path.open("rb") as file:
            now = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return None, f"{path} cannot be read: {error.strerror}."
    return (path, "") if now == output["sha256"] else (None, f"{path} was changed since it was delivered.")
