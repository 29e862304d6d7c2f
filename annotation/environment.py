"""What processes inherit: their environment without tokens that are not their business, and files for one user.

And what those that were killed leave behind.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from annotation.translation import _

TOKENS: Final = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
# The token that a Space gets when it is made from here.
SPACE_TOKEN: Final = "PREFLOOP_SPACE_TOKEN"
SECRETS: Final = (*TOKENS, SPACE_TOKEN, "OAUTH_CLIENT_SECRET")
# Names of the keys of AI judges: only who asks these gets them, and a judge may name no other variable.
JUDGE_KEY: Final = re.compile(r"PREFLOOP_JUDGE_[A-Z0-9_]{1,80}|OPENAI_API_KEY")
# After which nobody is at a half-written file any more.
LEFTOVER_SECONDS: Final = 24 * 3600.0


def named_directory(text: str) -> Path:
    """An argument that names a directory. An empty one, as of a variable without a value, would be where one is."""
    if not text.strip():
        raise argparse.ArgumentTypeError(_("the name of the directory is empty"))
    return Path(text)


def default_directory(usual: Path) -> Path:
    """The data directory where no argument names one."""
    named = os.environ.get("PREFLOOP_DATA", "")
    return Path(named) if named.strip() else usual


def remove_leftover(paths: Iterable[Path]) -> None:
    """Remove files and directories that nobody has written to for so long that whoever made them was killed."""
    for path in paths:
        with suppress(FileNotFoundError):  # another program may have finished it by now
            if time.time() - path.stat().st_mtime < LEFTOVER_SECONDS:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def without_variables(names: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in names}


def without_judge_keys(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not JUDGE_KEY.fullmatch(name)}


def child_environment() -> dict[str, str]:
    """The environment of an import, an export, or what renders or tries a model: all but the secrets."""
    return without_judge_keys(worker_environment())


def worker_environment() -> dict[str, str]:
    """That of a worker, which asks AI judges: with their keys."""
    return without_variables(SECRETS, os.environ)


def keep_private() -> None:
    """Let no other user of the machine read what this process and all that it starts will make."""
    os.umask(0o077)
