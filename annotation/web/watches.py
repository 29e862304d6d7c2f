"""What open pages look at and have been sent, so that they can ask cheaply whether it has changed since. No gradio.

A page asks a handler of Gradio's for what it shows, which makes the browser walk the whole page. In between it asks
here: the handler is called as it was last, and what it says now is compared with what it said then.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from annotation.database import Database
from annotation.records import Annotator, UserError

MAXIMUM: Final = 500
"""Pages times tabs that are remembered; who is forgotten asks Gradio, and is remembered again."""
LONGEST_KEY: Final = 40
TRUSTED_SECONDS: Final = 10.0
"""For how long nothing can change that is shown without a commit: durations, and files that come and go."""

Look = Callable[[Annotator], str]


def mark_of(sent: Any) -> str:
    """The same text for the same answer."""
    return str(zlib.crc32(repr(sent).encode()))


@dataclass
class KeptLook:
    """A look at something, and what it found last."""

    look: Look
    live: bool
    """Whether it shows what is in no row, such as the progress of an import."""
    mark: str
    revision: int
    at: float


@dataclass
class Watches:
    """All looks that pages have asked to be repeated, by the account and a number that the page made up for itself."""

    db: Database
    known: OrderedDict[tuple[int, str], KeptLook] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, annotator: Annotator, key: Any, look: Look, mark: str, live: bool) -> None:
        if not isinstance(key, str) or not 0 < len(key) <= LONGEST_KEY:
            return
        # The rows may have changed while it was looked at: then it is looked at once more than needed.
        watch = KeptLook(look=look, live=live, mark=mark, revision=-1, at=0.0)
        with self.lock:
            self.known[annotator.id, key] = watch
            self.known.move_to_end((annotator.id, key))
            while len(self.known) > MAXIMUM:
                self.known.popitem(last=False)

    def changed(self, annotator: Annotator, key: str, mark: str) -> bool:
        """Whether a look would find something other than what `mark` stands for; True where nobody knows."""
        with self.lock:
            watch = self.known.get((annotator.id, key))
            if watch is not None:
                self.known.move_to_end((annotator.id, key))
        if watch is None:
            return True
        revision, at = self.db.revision(), time.monotonic()
        if watch.live or watch.revision != revision or at - watch.at > TRUSTED_SECONDS:
            try:
                watch.mark = watch.look(annotator)
            except UserError:
                return True  # Gradio says it to the person
            watch.revision, watch.at = revision, at
        return watch.mark != mark
