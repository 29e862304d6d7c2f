"""What processes inherit: their environment without tokens that are not their business, and files for one user."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Final

TOKENS: Final = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
# The token that a Space gets when it is made from here.
SPACE_TOKEN: Final = "PREFLOOP_SPACE_TOKEN"
SECRETS: Final = (*TOKENS, SPACE_TOKEN, "OAUTH_CLIENT_SECRET")


def without_variables(names: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in names}


def child_environment() -> dict[str, str]:
    """The environment of a worker, an import or an export: all but the secrets, which none of them needs."""
    return without_variables(SECRETS, os.environ)


def keep_private() -> None:
    """Let no other user of the machine read what this process and all that it starts will make."""
    os.umask(0o077)
