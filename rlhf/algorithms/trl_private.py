"""What our trainers need of TRL and transformers and these do not promise: each private method, here and nowhere else.

A test holds `RELIED_ON` against the installed versions. Where one changes it says what that means, in these words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class PrivateDependency:
    """A private method of a library's class that `WithoutPreparation` has in its place, and where it is called."""

    owner: type
    method: str
    caller: str
    otherwise: str
    """What a trainer would do if the library no longer asked this method."""


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
)
