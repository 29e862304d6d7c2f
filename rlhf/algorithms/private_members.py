"""What our trainers need of TRL, transformers, PEFT and accelerate and these do not promise: here and nowhere else.

A test holds `RELIED_ON` against the installed versions. Where one changes it says what that means, in these words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accelerate.state import AcceleratorState
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import Trainer
from trl import DPOTrainer, RewardTrainer, SFTTrainer


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


@dataclass(frozen=True)
class PrivateDependency:
    """A private member of a library's class that is put in place, set or called here, and where the class asks it."""

    owner: type
    member: str
    caller: str
    otherwise: str
    """What would happen if the library no longer asked it."""


TOKENISES = "it tokenises the rows once more, and gives answers that were cut off an end that they never had"
RELIED_ON = (
    PrivateDependency(SFTTrainer, "_prepare_dataset", "__init__", TOKENISES),
    PrivateDependency(RewardTrainer, "_prepare_dataset", "__init__", TOKENISES),
    PrivateDependency(DPOTrainer, "_prepare_dataset", "__init__", TOKENISES),
    PrivateDependency(
        DPOTrainer,
        "_precompute_ref_logps",
        "__init__",
        "it computes the reference in its constructor, before the parent's weights are in the adapter, and keeps it in "
        "a file that further processes can't find",
    ),
    PrivateDependency(
        Trainer,
        "_load_from_checkpoint",
        "train",
        "it looks for files of its own in a checkpoint, finds none, and no run can go on",
    ),
    PrivateDependency(
        BaseTunerLayer,
        "_disable_adapters",
        "disable_adapters",
        "a reference without an adapter is no longer the base, but whichever adapter was last in use",
    ),
    PrivateDependency(
        BaseTunerLayer,
        "_active_adapter",
        "active_adapter",
        "policy, reward model and critic on one base all compute with one adapter",
    ),
    PrivateDependency(
        AcceleratorState,
        "_shared_state",
        "_reset_state",
        "a job can't compute in another precision than the one before it in its process",
    ),
)
