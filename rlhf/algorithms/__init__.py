"""One file per kind of job; they never import each other. `runner` maps a kind to its function."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

# The modules import torch and TRL, so each is loaded only in the worker that runs it.
RUNNERS = {
    "generate": "rlhf.generation.resident_worker",
    "sft": "rlhf.algorithms.sft",
    "reward_model": "rlhf.algorithms.reward_model",
    "dpo": "rlhf.algorithms.dpo",
    "ppo": "rlhf.algorithms.ppo",
    "evaluate": "rlhf.evaluation.check",
    "judge": "rlhf.judges.judge_job",
    "answer": "rlhf.generation.answer_job",
    "measure": "rlhf.algorithms.measure",
    "merge": "rlhf.algorithms.merge",
}


def runner(kind: str) -> Callable[[Any, Any], dict[str, Any]]:
    """The function that does a job of this kind: (run, spec) → result."""
    function: Callable[[Any, Any], dict[str, Any]] = import_module(RUNNERS[kind]).run
    return function
