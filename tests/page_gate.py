"""Holds the building of pages in processes of the program, so that a test can look at what is served meanwhile."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from tests.machine_fixtures import ROOT, wait_until

# Runs first in every process: one that loads Gradio writes its number down, and waits where the gate is closed. It does
# so in the loader: a finder is asked under the lock of all imports, which would hold every other thread that imports.
CODE = """
import os, sys
from importlib.machinery import PathFinder

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name != "gradio":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        load = spec.loader.exec_module
        def wait_and_load(module):
            with open({loaders!r}, "a") as loaders:
                print(os.getpid(), file=loaders)
            if os.path.exists({gate!r}):
                open({gate!r}).close()
            load(module)
        spec.loader.exec_module = wait_and_load
        return spec

sys.meta_path.insert(0, Watch())
"""


class PageGate:
    """Open at first. `environment` is what the program has to be started with."""

    def __init__(self, folder: Path) -> None:
        self._gate, self._loaders, site = folder / "gate", folder / "loaders", folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(CODE.format(gate=str(self._gate), loaders=str(self._loaders)), "utf-8")
        self.environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}

    def close(self) -> None:
        """Hold who loads Gradio from now on."""
        os.mkfifo(self._gate)

    def open(self) -> None:
        """Let the one that is held go on, as soon as there is one: none is forked from one that has loaded Gradio."""
        wait_until("a process that waits at the gate (is the test marked `own_start`?)", self._opened)
        self._gate.unlink()

    def _opened(self) -> bool:
        try:
            os.close(os.open(self._gate, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return False
        return True

    def loaders(self) -> list[int]:
        """The processes that have loaded Gradio, in order."""
        return [int(line) for line in self._loaders.read_text("utf-8").splitlines()]
