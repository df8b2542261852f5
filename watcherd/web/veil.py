"""Names as the page shows them, or jobs' numbers in their place: file names often hold patients' names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from watcherd.file_names import hidden

if TYPE_CHECKING:
    from collections.abc import Mapping

    from watcherd.config import Config

WORDS = "hidden, as names are"
"""What stands for words that may repeat what stands in a name."""
WITH_NAMES = frozenset({"result", "failed"})
"""Results that say what their scan is called."""


class Veil:
    """``is_down``: names are hidden."""

    def __init__(self, settings: Config) -> None:
        self.is_down = settings.privacy.names == "hidden" or settings.web.hide_names

    def job(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A job's row as it may be shown."""
        if not self.is_down:
            return dict(record)
        changed: dict[str, Any] = {"source": hidden("job", record["id"])}
        changed |= {key: WORDS for key in ("error", "advice", "note") if record.get(key)}
        return dict(record) | changed

    def story(self, story: Mapping[str, Any]) -> dict[str, Any]:
        """All about a job as it may be shown."""
        shown = self.job(story)
        if not self.is_down:
            return shown
        shown["dicom"] = {}
        shown["outputs"] = [self._output(output) for output in story["outputs"]]
        shown["options"] = {key: value for key, value in story["options"].items() if key not in ("frame", "refused")}
        shown["events"] = [event | {"detail": {}} for event in story["events"]]
        shown["tries"] = [one | {"error": WORDS if one["error"] else None} for one in story["tries"]]
        shown["arrivals"] = [
            one
            | {"source": hidden("arrival", one["id"]), "reason": WORDS if one["reason"] else None}
            | {"disposed_path": None, "outputs": [self._output(output) for output in one["outputs"]]}
            for one in story["arrivals"]
        ]
        return shown

    def _output(self, output: Mapping[str, Any]) -> dict[str, Any]:
        return dict(output) | {"path": WORDS}

    def moment(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """What `status.document.gather` found, as it may be shown."""
        if not self.is_down:
            return dict(answer)
        aside = [item | {"item": "an item", "error": WORDS} for item in answer["set_aside"]]
        return dict(answer) | {"set_aside": aside}

    def may_send(self, kind: str) -> bool:
        """Whether a result of this kind may be downloaded: some repeat the scan's name."""
        return not self.is_down or kind not in WITH_NAMES
