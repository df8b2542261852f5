"""The words around the picture, as token ids, and the answer's tokens as words.

A turn is one user message, with no system message before it. The picture stands in it as one run of placeholder
tokens, which the visual tokens replace. Models that see in patches count their positions on three axes: a picture's
tokens stand at its rows and columns, and what comes behind it goes on from the longer side.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from watcherd.errors import InputError, UnavailableError
from watcherd.inference.segmenters.sa2va.config import PATCHED_TEMPLATE
from watcherd.inference.segmenters.sa2va.internvl import TOKENS_PER_TILE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tokenizers import Tokenizer

    from watcherd.inference.segmenters.sa2va.config import Sa2vaConfig

IMAGE = "<image>"
SYSTEM = re.compile(
    r"{% if loop\.first and message\['role'\] != 'system' %}(?P<said><\|im_start\|>[^{}]*?<\|im_end\|>(?:\n|\\n)*)"
    r"{% endif %}"
)
"""The part of a chat template that begins every conversation with a message of its own."""
_PHRASE = re.compile(r"<p>\s*(?P<name>[^<]+?)\s*</p>\s*$")

Block = int | tuple[int, int]
"""What stands for a picture in a prompt: how many tiles it is, or rows and columns of its visual tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """How pictures stand in a turn.

    ``start``, ``context``, ``end``: tokens before, for and behind a picture's visual tokens. ``between``: what parts
    the frames of a run. ``anywhere``: whether a picture goes where the words have `IMAGE`; else it goes first.
    ``tokens``: how many visual tokens a block is. ``on_axes``: whether positions are counted on three axes.
    """

    start: str
    context: str
    end: str
    between: str
    anywhere: bool
    tokens: Callable[[Block], int]
    on_axes: bool


def _of_tiles(block: Block) -> int:
    assert isinstance(block, int)
    return TOKENS_PER_TILE * block


def _of_grid(block: Block) -> int:
    assert isinstance(block, tuple)
    return block[0] * block[1]


_TILED = Marks(
    start="<img>",
    context="<IMG_CONTEXT>",
    end="</img>",
    between="\n",
    anywhere=True,
    tokens=_of_tiles,
    on_axes=False,
)
_PATCHED = Marks(
    start="<|vision_start|>",
    context="<|image_pad|>",
    end="<|vision_end|>",
    between="",
    anywhere=False,
    tokens=_of_grid,
    on_axes=True,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """How a turn is framed, as the models were trained.

    ``turn``: the words around the message. ``tokens``: those of them that must be single tokens. ``stops``: tokens that
    end an answer, besides the tokenizer's own. ``end``: the text that ends an answer, in whatever tokens it is said;
    empty where a token does. ``marks``: how pictures stand in the message.
    """

    turn: str
    tokens: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    end: str = ""
    marks: Marks = _TILED


_IM = Template(
    turn="<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n",
    tokens=("<|im_start|>", "<|im_end|>"),
    stops=("<|im_end|>", "<|endoftext|>"),
)
# Qwen's tokenizer has none of these words: they are text, whose tokens run into what stands beside them.
_PHI3 = Template(turn="<|user|>\n{text}<|end|>\n<|assistant|>\n", end="<|end|>")
_QWEN_VL = Template(turn=_IM.turn, tokens=_IM.tokens, stops=("<|im_end|>",), marks=_PATCHED)
_BY_NAME = {"qwen_chat": _IM, "internlm2_chat": _IM, "phi3_chat": _PHI3, PATCHED_TEMPLATE: _QWEN_VL}
"""Those of `config.TEMPLATES`, of which the first two frame a turn in the same way without a system message, and that
of models that see in patches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """Token ids of one turn, and at which places in them the visual tokens go.

    ``positions``: of each token on three axes, and of the one that comes next on all; empty where they are 0, 1, 2, ...
    """

    ids: tuple[int, ...]
    visual: tuple[int, ...]
    positions: tuple[tuple[int, int, int], ...] = ()


class Words:
    """The tokenizer of a model folder, and the tokens that mean something to us.

    ``added``: words behind its own. ``template``: how a turn is framed, one of `config.TEMPLATES` or
    `config.PATCHED_TEMPLATE`. ``system``: what stands before the turn.

    Raises `UnavailableError` when the folder has no tokenizer, or one in which a needed token is not a single one.
    """

    def __init__(self, folder: Path, added: Sequence[str] = (), template: str = "qwen_chat", system: str = "") -> None:
        self._tokenizer = tokenizer_of(folder, added)
        self._template = _BY_NAME[template]
        self._system = system
        marks = self._template.marks
        needed = (marks.start, marks.context, marks.end, "[SEG]", *self._template.tokens)
        known = {token: self._tokenizer.token_to_id(token) for token in needed}
        ids = {token: one for token, one in known.items() if one is not None and self.encode(token) == (one,)}
        broken = [token for token in needed if token not in ids]
        if broken:
            raise UnavailableError(
                f"The tokenizer in {folder} does not know {', '.join(broken)} as single tokens: no mask can be found.",
                hint="Take the tokenizer files that were saved with the fine-tuned model, not the base model's.",
            )
        self.seg: int = ids["[SEG]"]
        self.context: int = ids[marks.context]
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

    def prompt(self, text: str, blocks: Sequence[Block]) -> Prompt:
        """The turn that asks ``text`` about pictures that become ``blocks``.

        ``text`` may hold ``<image>`` once, where the pictures go; otherwise they go first, and always for models that
        see in patches. Raises `InputError` when it holds it more often or spells a placeholder of its own, or, for
        models that see in patches, ``[SEG]``: the reference code takes that for an answer.
        """
        return self._prompts(text, tuple(blocks))

    def _prompt(self, text: str, blocks: tuple[Block, ...]) -> Prompt:
        if text.count(IMAGE) > 1:
            raise InputError(f"The prompt holds {IMAGE} {text.count(IMAGE)} times; it may hold it once: {text!r}.")
        marks = self._template.marks
        if not marks.anywhere:
            text = IMAGE + text.replace(IMAGE, "")
        elif IMAGE not in text:
            text = IMAGE + text
        counts = [marks.tokens(block) for block in blocks]
        # One block for all tiles of a picture; the frames of a run have a block each.
        pictures = marks.between.join(marks.start + marks.context * count + marks.end for count in counts)
        ids = self.encode(self._system + self._template.turn.format(text=text.replace(IMAGE, pictures)))
        visual = tuple(position for position, token in enumerate(ids) if token == self.context)
        if len(visual) != sum(counts):
            raise InputError(f"The prompt may not spell {marks.context}; say {IMAGE} where the picture goes: {text!r}.")
        if not marks.on_axes:
            return Prompt(ids=ids, visual=visual)
        if self.seg in ids:
            raise InputError(f"The prompt may not spell [SEG], which this model takes for an answer: {text!r}.")
        return Prompt(ids=ids, visual=visual, positions=positions_on_axes(len(ids), visual, blocks))

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


def system_of(folder: Path, config: Sa2vaConfig) -> str:
    """The system message that a folder's chat template puts before every turn, as the reference code has it.

    Only models that see in patches are asked through their chat template. It is looked at and not run: Qwen2.5-VL's own
    has one such message, which the official export takes out.
    """
    if config.template != PATCHED_TEMPLATE:
        return ""
    found = SYSTEM.search(chat_template(folder))
    return found["said"].replace("\\n", "\n") if found else ""


def chat_template(folder: Path) -> str:
    """The text of a folder's chat template; empty where there is none. Raises `UnavailableError`."""
    plain = folder / "chat_template.jinja"
    if plain.is_file():
        return plain.read_text(encoding="utf-8", errors="replace")
    path = folder / "chat_template.json"
    if not path.is_file():
        return ""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnavailableError(f"{path} cannot be read: {error}.", hint="Download it again.") from error
    return str(said.get("chat_template") or "") if isinstance(said, dict) else ""


def positions_on_axes(length: int, visual: Sequence[int], blocks: Sequence[Block]) -> tuple[tuple[int, int, int], ...]:
    """Positions (time, row, column) of ``length`` tokens, and of the one behind them (M-RoPE of Qwen2-VL).

    Those of each block begin at the place in ``visual`` that is the first of its own.
    """
    begins: dict[int, tuple[int, int]] = {}
    done = 0
    for block in blocks:
        assert isinstance(block, tuple)
        begins[visual[done]] = block
        done += block[0] * block[1]
    positions: list[tuple[int, int, int]] = []
    following = 0
    while len(positions) < length:
        rows, columns = begins.get(len(positions), (0, 0))
        if rows:
            positions += [
                (following, following + row, following + column) for row in range(rows) for column in range(columns)
            ]
            following += max(rows, columns)
        else:
            positions.append((following,) * 3)
            following += 1
    return (*positions, (following,) * 3)


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
