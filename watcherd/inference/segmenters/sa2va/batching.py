"""Which prompts share a pass of the language model: those whose padding costs less than another pass would."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PASS_TOKENS = 512
"""What one more pass costs, in tokens: the time to launch every layer and to read its weights, over the time for one
token of a large pass. An estimate for eight billion parameters in bfloat16: 15 ms over 27 microseconds."""

PASS_LIMIT = 32_768
"""Padded tokens in one pass at most, which bounds its memory: a layer's widest activation at 8 B is then 2.5 GB."""


def share(lengths: Sequence[int], pass_tokens: int = PASS_TOKENS, limit: int = PASS_LIMIT) -> list[list[int]]:
    """Group prompts of these ``lengths`` at the least cost: padded tokens, and ``pass_tokens`` for each pass.

    Returns the prompts' positions, every one in exactly one group, no group over ``limit`` padded tokens unless it is a
    single prompt. Exact: in order of length an optimal group is a run, so each prefix has one best last run.
    """
    order = sorted(range(len(lengths)), key=lambda prompt: lengths[prompt])
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        options = [
            (best[begin][0] + longest * (end - begin) + pass_tokens, begin)
            for begin in range(end)
            if begin == end - 1 or longest * (end - begin) <= limit
        ]
        best.append(min(options))
    groups: list[list[int]] = []
    end = len(order)
    while end:
        begin = best[end][1]
        groups.append(sorted(order[begin:end]))
        end = begin
    return groups[::-1]
