"""The language model: checking a drafted answer in one pass, or generating one greedily.

A batch is padded on the right. Attention is causal, so no token ever sees the padding behind it, and a pass over
prompts and drafts needs no mask and no positions but 0, 1, 2, ... Only rows that are read go through the last norm and
the language head.

The state that becomes a mask is that of the ``[SEG]`` token itself, at the position where it was fed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from watcherd.inference.segmenters.sa2va.network import device_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from watcherd.inference.segmenters.sa2va.prompt import Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """A prompt, its visual tokens (n, D), and the answer that is expected, its end token included."""

    prompt: Prompt
    visual: torch.Tensor
    draft: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Tokens of an answer, its end token included, and the states (n, D) of the ``[SEG]`` tokens in it."""

    ids: tuple[int, ...]
    states: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Drafts:
    """What one pass over prompts and drafts gave: on the devices still, so that work elsewhere can begin meanwhile.

    ``ends``: whether an answer is over with its last token.
    ``said``: what the model would have said at every position of every draft, (tokens,); None if not asked.
    ``states``: those of all ``[SEG]`` tokens, (n, D).
    """

    turns: tuple[Turn, ...]
    seg: int
    ends: Callable[[Sequence[int]], bool]
    said: torch.Tensor | None
    states: torch.Tensor

    def answers(self) -> list[Answer | None]:
        """Each turn's draft as its answer; None where the model says something else. Waits for the device."""
        said = None if self.said is None else self.said.tolist()
        answers: list[Answer | None] = []
        token = state = 0
        for turn in self.turns:
            segs = len(fed_segs(turn.draft, self.seg))
            agreed = said is None or (
                tuple(said[token : token + len(turn.draft)]) == turn.draft and self._is_one_answer(turn.draft)
            )
            states = self.states[state : state + segs]
            answers.append(Answer(ids=turn.draft, states=states) if agreed else None)
            token, state = token + len(turn.draft), state + segs
        return answers

    def _is_one_answer(self, draft: Sequence[int]) -> bool:
        """Whether generation would stop where the draft does: not before its last token, and then."""
        ends = (count for count in range(1, len(draft) + 1) if self.ends(draft[:count]))
        return next(ends, None) == len(draft)


def fed_segs(answer: Sequence[int], seg: int) -> list[int]:
    """Where ``[SEG]`` stands in an answer; the last token is never fed in, so it has no state and does not count."""
    return [position for position, token in enumerate(answer[:-1]) if token == seg]


class Language:
    """Runs a Qwen2 or Qwen3 whose layers may be on different devices.

    ``seg`` is the token of a mask, ``ends`` says whether an answer is over with its last token.
    """

    def __init__(self, model: Any, seg: int, ends: Callable[[Sequence[int]], bool]) -> None:
        self._embedding: nn.Module = model.model.embed_tokens
        self._rotary: nn.Module = model.model.rotary_emb
        self._layers: list[nn.Module] = list(model.model.layers)
        self._norm: nn.Module = model.model.norm
        self._head: nn.Module = model.lm_head
        self._config = model.config
        self._seg = seg
        self._ends = ends

    def read(self, turns: Sequence[Turn], *, check: bool) -> Drafts:
        """One pass over the prompts and drafts of ``turns``; ``check`` asks what the model would have said itself."""
        hidden = self._pass(self._embed(turns, [turn.draft[:-1] for turn in turns]))
        width = hidden.shape[1]
        said: list[int] = []
        segs: list[int] = []
        for row, turn in enumerate(turns):
            begin = row * width + len(turn.prompt.ids)
            # The state before a token's position is the one that says the token.
            said += range(begin - 1, begin - 1 + len(turn.draft))
            segs += [begin + position for position in fed_segs(turn.draft, self._seg)]
        flat = hidden.flatten(0, 1)
        return Drafts(
            turns=tuple(turns),
            seg=self._seg,
            ends=self._ends,
            said=self._say(self._states(flat, said)) if check else None,
            states=self._states(flat, segs),
        )

    def generate(self, turns: Sequence[Turn], max_new_tokens: int) -> list[Answer]:
        """Greedy answers, each until its end or ``max_new_tokens``."""
        cache = DynamicCache(config=self._config)
        hidden = self._pass(self._embed(turns, [()] * len(turns)), cache=cache)
        lengths, width = [len(turn.prompt.ids) for turn in turns], hidden.shape[1]
        last = [row * width + length - 1 for row, length in enumerate(lengths)]
        states = self._states(hidden.flatten(0, 1), last)
        answers: list[list[int]] = [[] for _ in turns]
        found: list[list[torch.Tensor]] = [[] for _ in turns]
        open_rows = set(range(len(turns)))
        for step in range(max_new_tokens):
            tokens = self._say(states).tolist()
            for row in open_rows:
                answers[row].append(tokens[row])
            open_rows = {row for row in open_rows if not self._ends(answers[row])}
            if not open_rows or step == max_new_tokens - 1:
                break
            states = self._step(tokens, lengths, width, step, cache)
            for row in open_rows:
                if tokens[row] == self._seg:
                    found[row].append(states[row])
        return [
            Answer(ids=tuple(ids), states=torch.stack(segs) if segs else states[:0])
            for ids, segs in zip(answers, found, strict=True)
        ]

    def _step(self, tokens: list[int], lengths: list[int], width: int, step: int, cache: DynamicCache) -> torch.Tensor:
        """States (turns, D) of ``tokens``, the step-th of each answer, behind prompts that were padded to ``width``."""
        device = device_of(self._embedding)
        embedded = self._embedding(torch.tensor(tokens)[:, None].to(device))
        positions = torch.tensor(lengths)[:, None].to(device) + step
        mask = None
        if min(lengths) < width:
            keys = torch.arange(width + step + 1, device=device)
            # The padding between a prompt and its answer is in the cache and must not be seen.
            mask = ((keys < positions[:, :1] - step) | (keys >= width))[:, None, None, :]
        hidden = self._pass(embedded, positions=positions, mask=mask, cache=cache)
        return self._states(hidden[:, 0], range(len(tokens)))

    def _embed(self, turns: Sequence[Turn], answers: Sequence[Sequence[int]]) -> torch.Tensor:
        """Embeddings (turns, longest, D) of prompts and what has been answered, the visual tokens in their places."""
        device = device_of(self._embedding)
        sequences = [(*turn.prompt.ids, *answer) for turn, answer in zip(turns, answers, strict=True)]
        width = max(map(len, sequences))
        ids = torch.tensor([sequence + (0,) * (width - len(sequence)) for sequence in sequences])
        places = torch.tensor([row * width + place for row, turn in enumerate(turns) for place in turn.prompt.visual])
        embedded = self._embedding(ids.to(device))
        visual = torch.cat([turn.visual for turn in turns]).to(device)
        embedded.view(-1, embedded.shape[-1]).index_copy_(0, places.to(device), visual.to(embedded.dtype))
        return embedded  # type: ignore[no-any-return]

    def _pass(
        self,
        hidden: torch.Tensor,
        *,
        positions: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        cache: DynamicCache | None = None,
    ) -> torch.Tensor:
        """Through all layers, from device to device, up to the last norm. ``mask`` is True where a key is seen."""
        if positions is None:
            positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        rotation = self._rotary(hidden, positions)
        for layer in self._layers:
            device = device_of(layer)
            hidden = hidden.to(device)
            rotation = tuple(part.to(device) for part in rotation)
            mask = None if mask is None else mask.to(device)
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_embeddings=rotation,
                past_key_values=cache,
                use_cache=cache is not None,
            )
        return hidden

    def _states(self, rows: torch.Tensor, chosen: Sequence[int]) -> torch.Tensor:
        """The chosen rows behind the last norm, (n, D)."""
        # An index may be on the CPU whatever it points into.
        index = torch.tensor(list(chosen), dtype=torch.long)
        return self._norm(rows[index].to(device_of(self._norm)))  # type: ignore[no-any-return]

    def _say(self, states: torch.Tensor) -> torch.Tensor:
        """The likeliest token after each state, (n,)."""
        return self._head(states.to(device_of(self._head))).argmax(-1)  # type: ignore[no-any-return]
