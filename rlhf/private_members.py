"""What our trainers need of TRL, transformers, PEFT and accelerate and these do not promise: here and nowhere else.

Its test holds each against the installed versions. Where one changes it says what that means.
"""

from __future__ import annotations

from typing import Any

from accelerate.state import AcceleratorState
from peft.tuners.tuners_utils import BaseTunerLayer


class WithoutPreparation:
    """Mixed into a TRL trainer, before it: it takes rows as they come, and puts back no files of its own."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        """The rows as they are."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any, **__: Any) -> Any:
        """The rows as they are."""
        return dataset

    def _load_from_checkpoint(self, *_: Any, **__: Any) -> None:
        """Nothing."""


def compute_with(layer: BaseTunerLayer, adapter: str | None) -> None:
    """Let a layer compute with this adapter, or with none. What is trained stays so, whichever is active.

    PEFT's own switch goes through the whole model four times, to say of each parameter whether it is trained.
    """
    layer._disable_adapters = adapter is None
    if adapter is not None:
        layer._active_adapter = [adapter]


def forget_precision() -> None:
    """Let the next accelerator compute in another precision than an earlier one of this process."""
    AcceleratorState._reset_state()
