"""What processes are told by their environment, and what they must not be told: tokens that are not their business."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Final

TOKENS: Final = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
# The token that a Space gets when it is made from here.
SPACE_TOKEN: Final = "PREFLOOP_SPACE_TOKEN"
SECRETS: Final = (*TOKENS, SPACE_TOKEN, "OAUTH_CLIENT_SECRET")


def without(names: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without some variables."""
    return {name: value for name, value in environment.items() if name not in names}


def child_environment() -> dict[str, str]:
    """The environment of a worker, an import or an export: all but the secrets, which none of them needs."""
    return without(SECRETS, os.environ)
