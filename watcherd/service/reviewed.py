"""A person's verdict about a mask, on its way into the history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from watcherd.errors import UsageError
from watcherd.job import State
from watcherd.store import reviews
from watcherd.store.reviews import VERDICTS, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from watcherd.store import Database

LONGEST_NOTE = 2000
"""Characters of a note."""
LONGEST_NAME = 100
"""Characters of a reviewer's name."""


def record(database: Database, jobs: Sequence[int], said: Mapping[str, Any], now: datetime) -> str:
    """Write it down for each of ``jobs``; what was done, in words. Raises `UsageError` for what cannot be said."""
    verdicts = [_read({key: value for key, value in said.items() if key != "jobs"} | {"job": job}) for job in jobs]
    if not verdicts:
        raise UsageError("Which jobs?", hint="Give their numbers.")
    with database.reader() as connection:
        seen = {one.job: _seen(reviews.judgeable(connection, one.job), one) for one in verdicts}
    for one in verdicts:
        database.write(lambda c, one=one: reviews.put(c, one, attempt=seen[one.job], now=now))  # type: ignore[misc]
    return f"{len(verdicts)} {verdicts[0].verdict or 'no longer reviewed'}"


def _read(document: Mapping[str, Any]) -> Verdict:
    try:
        one = TypeAdapter(Verdict).validate_python(document)
    except ValidationError as error:
        raise UsageError(
            f"This is no review: {str(error).splitlines()[0]}", hint="Was it of another version?"
        ) from error
    if one.verdict is not None and one.verdict not in VERDICTS:
        raise UsageError(f"{one.verdict!r} is no verdict.", hint=f"There are {', '.join(VERDICTS)}.")
    if len(one.note) > LONGEST_NOTE or len(one.reviewer) > LONGEST_NAME:
        raise UsageError(f"A note has at most {LONGEST_NOTE:,} characters, a name {LONGEST_NAME}.")
    return one


def _seen(job: reviews.Judgeable | None, said: Verdict) -> int | None:
    """The attempt that is judged. Raises `UsageError` for a mask that is not there, or not the one that was seen."""
    if job is None:
        raise UsageError(f"There is no job {said.job}.", hint="See `watcherd jobs`.")
    if said.verdict is not None and job.state != State.SUCCEEDED:
        raise UsageError(
            f"Job {said.job} is {job.state}: there is no mask to review.", hint="Review it when it is done."
        )
    if said.attempt is not None and said.attempt != job.attempt:
        raise UsageError(
            f"Job {said.job} was done again since you looked at it.", hint="Look at its new mask, then review that."
        )
    return job.attempt
