"""Runs the launcher or the token process with looks that follow sooner on each other: for tests, which wait for them.

    python tests/rlhf/hub/paced.py NAME ARGUMENTS

NAME is the module's, `rlhf.hub.token_launcher` or `rlhf.hub.token_process`; the one starts the other so, too.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from annotation.ui import terminal


def paced(name: str) -> list[str]:
    """How to run a module so."""
    return [sys.executable, "-P", __file__, name]


PACE = {
    "rlhf.hub.token_launcher": {"POLL_SECONDS": 0.05, "RETRY_SECONDS": 0.2, "module": paced},
    "rlhf.hub.token_process": {"POLL_SECONDS": 0.1, "LOOK_SECONDS": 0.2},
}

if __name__ == "__main__":
    name = sys.argv.pop(1)
    module = import_module(name)
    for own, instead in PACE[name].items():
        setattr(module, own, instead)
    terminal.outlast_readers()
    ended_with = module.main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended_with)
