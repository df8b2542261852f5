"""The words around the picture, as token ids, and the answer's tokens as words.

A turn is one user message, with no system message before it. The picture stands in it as one run of placeholder
tokens, which the visual tokens replace.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from watcherd.errors import InputError, UnavailableError
from watcherd.inference.segmenters.sa2va.network import TOKENS_PER_TILE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tokenizers import Tokenizer

IMAGE = "<image>"
_START, _CONTEXT, _END = "<img>", "<IMG_CONTEXT>", "</img>"
_NEEDED = (_START, _CONTEXT, _END, "[SEG]")
_PHRASE = re.compile(r"<p>\s*(?P<name>[^<]+?)\s*</p>\s*$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """How a turn is framed, as the models were trained.

    ``turn``: the words around the message. ``tokens``: those of them that must be single tokens. ``stops``: tokens that
    end an answer, besides the tokenizer's own. ``end``: the text that ends an answer, in whatever tokens it is said;
    empty where a token does.
    """

    turn: str
    tokens: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    end: str = ""


_IM = Template(
    turn="<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n",
    tokens=("<|im_start|>", "<|im_end|>"),
    stops=("<|im_end|>", "<|endoftext|>"),
)
# Qwen's tokenizer has none of these words: they are text, whose tokens run into what stands beside them.
_PHI3 = Template(turn="<|user|>\n{text}<|end|>\n<|assistant|>\n", end="<|end|>")
_BY_NAME = {"qwen_chat": _IM, "internlm2_chat": _IM, "phi3_chat": _PHI3}
"""Those of `config.TEMPLATES`; without a system message the first two frame a turn in the same way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """Token ids of one turn, and at which places in them the visual tokens go."""

    ids: tuple[int, ...]
    visual: tuple[int, ...]


class Words:
    """The tokenizer of a model folder, and the tokens that mean something to us.

    ``added``: words behind its own. ``template``: how a turn is framed, one of `config.TEMPLATES`.

    Raises `UnavailableError` when the folder has no tokenizer, or one in which a needed token is not a single one.
    """

    def __init__(self, folder: Path, added: Sequence[str] = (), template: str = "qwen_chat") -> None:
        self._tokenizer = tokenizer_of(folder, added)
        self._template = _BY_NAME[template]
        needed = (*_NEEDED, *self._template.tokens)
        known = {token: self._tokenizer.token_to_id(token) for token in needed}
        ids = {token: one for token, one in known.items() if one is not None and self.encode(token) == (one,)}
        broken = [token for token in needed if token not in ids]
        if broken:
            raise UnavailableError(
                f"The tokenizer in {folder} does not know {', '.join(broken)} as single tokens: no mask can be found.",
                hint="Take the tokenizer files that were saved with the fine-tuned model, not the base model's.",
            )
        self.seg: int = ids["[SEG]"]
        self.context: int = ids[_CONTEXT]
        self.end = _end_token(folder, self._tokenizer)
        stops = (self._tokenizer.token_to_id(token) for token in self._template.stops)
        self.stops = frozenset({self.end, *(token for token in stops if token is not None)})
        # A service is asked the same few questions about pictures of the same few sizes.
        self._prompts = lru_cache(maxsize=256)(self._prompt)

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of ``text``, with nothing added around it."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """What the tokens say, special ones included, without white space at the ends."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text.strip()

    def prompt(self, text: str, blocks: Sequence[int]) -> Prompt:
        """The turn that asks ``text`` about pictures of ``blocks`` tiles each.

        ``text`` may hold ``<image>`` once, where the pictures go; otherwise they go first. Raises `InputError` when it
        holds it more often, or spells a placeholder of its own.
        """
        return self._prompts(text, tuple(blocks))

    def _prompt(self, text: str, blocks: tuple[int, ...]) -> Prompt:
        if text.count(IMAGE) > 1:
            raise InputError(f"The prompt holds {IMAGE} {text.count(IMAGE)} times; it may hold it once: {text!r}.")
        if IMAGE not in text:
            text = IMAGE + text
        # One block for all tiles of a picture; the frames of a run have a block each, on lines of their own.
        pictures = "\n".join(_START + _CONTEXT * (TOKENS_PER_TILE * tiles) + _END for tiles in blocks)
        ids = self.encode(self._template.turn.format(text=text.replace(IMAGE, pictures)))
        visual = tuple(position for position, token in enumerate(ids) if token == self.context)
        if len(visual) != TOKENS_PER_TILE * sum(blocks):
            raise InputError(f"The prompt may not spell {_CONTEXT}; say {IMAGE} where the picture goes: {text!r}.")
        return Prompt(ids=ids, visual=visual)

    def draft(self, text: str) -> tuple[int, ...]:
        """Token ids of an expected answer, with what ends it."""
        text = text.strip()
        ids = self.encode(text)
        if not ids or self.ends(ids):
            return ids
        # Where text ends it, its tokens are those of the whole: the first may hold the answer's last letters.
        return self.encode(text + self._template.end) if self._template.end else (*ids, self.end)

    def ends(self, answer: Sequence[int]) -> bool:
        """Whether an answer is over with its last token, as the reference code has it.

        It drops line breaks from what was said and looks whether that ends with the template's end.
        """
        if answer[-1] in self.stops:
            return True
        end = self._template.end
        count = len(end)
        while end:
            said = self._tokenizer.decode(list(answer[-count:]), skip_special_tokens=False)
            said = said.replace("\r", "").replace("\n", "")
            if len(said) >= len(end) or count >= len(answer):
                return bool(said.endswith(end))
            count *= 2  # line breaks, or letters of several tokens each
        return False

    def labels(self, answer: Sequence[int]) -> tuple[str, ...]:
        """A name for each ``[SEG]`` in the answer: what stands before it between ``<p>`` and ``</p>``, or a number."""
        labels: list[str] = []
        begin = 0
        for position, token in enumerate(answer):
            if token == self.seg:
                phrase = _PHRASE.search(self.decode(answer[begin:position]))
                labels.append(phrase["name"] if phrase else f"object {len(labels) + 1}")
                begin = position + 1
        return tuple(labels)


def tokenizer_of(folder: Path, added: Sequence[str] = ()) -> Tokenizer:
    """The folder's tokenizer, grown by special tokens. Raises `UnavailableError` when there is none."""
    from tokenizers import AddedToken

    tokenizer = _read(folder)
    tokenizer.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in added])
    return tokenizer


def _read(folder: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        if path.is_file():
            return Tokenizer.from_file(str(path))
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return _from_parts(folder)
    except Exception as error:  # tokenizers raises bare Exceptions
        raise UnavailableError(
            f"The tokenizer in {folder} cannot be read: {error}.", hint="Download it again."
        ) from error
    raise UnavailableError(
        f"The model folder {folder} has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt is there.",
        hint="Copy the tokenizer files of the fine-tuned model into the folder.",
    )


def _from_parts(folder: Path) -> Tokenizer:
    """Build the fast tokenizer of a folder that was saved with the slow one's files only."""
    from transformers import Qwen2Tokenizer

    tokenizer: Tokenizer = Qwen2Tokenizer.from_pretrained(folder).backend_tokenizer
    return tokenizer


def _end_token(folder: Path, tokenizer: Tokenizer) -> int:
    """The token that ends an answer: ``eos_token`` of the tokenizer's configuration."""
    path = folder / "tokenizer_config.json"
    name = "<|im_end|>"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8")).get("eos_token") or name
        name = found["content"] if isinstance(found, dict) else found
    end: int | None = tokenizer.token_to_id(name)
    if end is None:
        raise UnavailableError(f"The tokenizer in {folder} does not know its own end token {name!r}.")
    return end
