"""What the layers below the lowest adapter make of a sequence: the same in every pass of a training, so it is kept.

A run goes over its data several times. Where only the upper layers have adapters, those below compute each sequence
once, before the first pass; all passes begin with what these have made, and no gradient goes below either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from rlhf.models.memory.run_memory import LOWER_BYTES
from rlhf.models.packing import Packed


class Reached(Exception):
    """The lower layers have computed: the others need not."""


class LowerLayers:
    """The layers of a model that nothing trained lies in or below, and what the last of them made of sequences."""

    def __init__(self, layers: Sequence[nn.Module], room: int = LOWER_BYTES) -> None:
        self.layers, self.room = layers, room
        self.kept: dict[tuple[int, ...], Sequence[Tensor]] = {}
        """By a sequence's token ids, (T, H) in parts, of which those of one row share a prompt's."""
        self.keeping = self.full = False

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Inside, what the lower layers make of what is read is kept, and nothing else is made of it."""
        self.keeping = True
        try:
            yield
        finally:
            self.keeping = False

    def through(self, row: Packed, sequences: Sequence[Sequence[int]], compute: Callable[[], Tensor]) -> Tensor:
        """What `compute`, which runs the model over a packed row of these sequences, makes of it, (1, L, H)."""
        keys = [tuple(ids) for ids in sequences]
        if self.keeping:
            return self.keep(row, keys, compute)
        if not all(key in self.kept for key in keys):
            return compute()
        whole = [torch.cat([*self.kept[key]]) for key in keys]
        parts = [whole[piece.rows[0]][piece.first :][: piece.end - piece.start] for piece in row.pieces]
        with self.giving(torch.cat(parts)[None]):
            return compute()

    def keep(self, row: Packed, keys: Sequence[tuple[int, ...]], compute: Callable[[], Tensor]) -> Tensor:
        """Keep what the lower layers make of a row's sequences, if there is room; returns it as it is, (1, L, H)."""
        made: list[Tensor] = []

        def note(module: nn.Module, inputs: Any, output: Tensor) -> NoReturn:
            made.append(output.detach())
            raise Reached

        handle = self.layers[-1].register_forward_hook(note)
        try:
            with suppress(Reached):
                compute()
        finally:
            handle.remove()
        (states_1LH,) = made
        self.room -= states_1LH.nbytes
        self.full = self.room < 0
        for place, key in enumerate(keys if not self.full else ()):
            own = [states_1LH[0, piece.start : piece.end] for piece in row.pieces if place in piece.rows]
            self.kept.setdefault(key, own)
        return states_1LH

    @contextmanager
    def giving(self, states_1LH: Tensor) -> Iterator[None]:
        """Inside, the lower layers compute nothing, and give these states."""
        for layer in self.layers:
            layer.forward = lambda *_, **__: states_1LH
        try:
            yield
        finally:
            for layer in self.layers:
                del layer.forward
