"""A prompt as the things that it names, each a class, and these as the tokens that the text encoder takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watcherd.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

SEPARATOR = ";"
MOST = 255
"""Things that a prompt may name at most: a mask has so many label values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """``ids`` and ``mask``: int64 (1, length), padded to the length that the text encoder takes."""

    ids: torch.Tensor
    mask: torch.Tensor


def things(prompt: str) -> tuple[str, ...]:
    """What a prompt names: ``"artery; vein"`` asks for two things. Raises `InputError` for none, or one twice."""
    found = tuple(" ".join(part.split()) for part in prompt.split(SEPARATOR))
    what = f"The prompt {prompt!r}"
    if not all(found):
        empty = "names nothing" if not any(found) else f"has nothing on one side of a {SEPARATOR!r}"
        raise InputError(f"{what} {empty}; a thing in a few words is needed.", hint='For example "blood vessel".')
    if len({thing.casefold() for thing in found}) < len(found):
        raise InputError(f"{what} names the same thing twice; each becomes a class of its own.")
    if len(found) > MOST:
        raise InputError(f"The prompt names {len(found)} things; a mask has {MOST} label values.")
    return found


class Tokenizer:
    """The folder's tokenizer. ``length``: tokens that the text encoder takes, with those for start and end.

    Raises `UnavailableError` when the folder has none.
    """

    def __init__(self, folder: Path, length: int) -> None:
        self._length = length
        self._tokenizer = _read(folder)

    def tokens(self, thing: str) -> Tokens:
        """Raises `InputError` for more than the text encoder takes; the processor's own would be an error in it."""
        import torch

        said = self._tokenizer(thing, padding="max_length", max_length=self._length)
        count = sum(said["attention_mask"])
        if count > self._length:
            raise InputError(
                f"The prompt {thing!r} is {count - 2} tokens long; the model takes {self._length - 2}.",
                hint="Name the thing in a few words, as in a caption; several things go apart by a semicolon.",
            )
        return Tokens(ids=torch.tensor([said["input_ids"]]), mask=torch.tensor([said["attention_mask"]]))


def _read(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    if not ((folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file()):
        raise UnavailableError(
            f"The model folder {folder} has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt is "
            "there.",
            hint="Download the whole folder again.",
        )
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exceptions
        raise UnavailableError(
            f"The tokenizer in {folder} cannot be read: {error}.", hint="Download the whole folder again."
        ) from error
