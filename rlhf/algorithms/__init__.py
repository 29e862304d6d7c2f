"""One package per algorithm: `spec.py` says all that others ask, without torch; `train.py` reads like the paper.

Algorithms never import each other, and nobody outside names one: what others ask they ask of `ALGORITHMS`. Beside them
stands what they share (comparisons, references, the trainer, checkpoints), which imports none of them, jobs on what
they make (measure, merge), and its card.

Not here: models themselves (`rlhf.models`), what is learnt from (`rlhf.data`), and which model is better
(`rlhf.evaluation`).
"""

from __future__ import annotations

from importlib import import_module

from rlhf.jobs.job_spec import TrainingSpec


def spec_in(package: str) -> type[TrainingSpec]:
    """The class in an algorithm's `spec.py` that describes it: its kind is the package's name."""
    found = vars(import_module(f"{__name__}.{package}.spec")).values()
    return next(one for one in found if isinstance(one, type) and issubclass(one, TrainingSpec) and one.kind == package)


# In the order of menus.
PACKAGES = (
    "dpo",
    "sft",
    "reward_model",
    "ppo",
)
ALGORITHMS: dict[str, type[TrainingSpec]] = {package: spec_in(package) for package in PACKAGES}
