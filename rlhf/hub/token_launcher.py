"""The launcher, which holds the Hub's token: it starts the token process, which gets it, and the web server without it.

It restores the newest safe copy before the first request, keeps both alive, and at the end lets the web server finish
before the token process makes the last copy. Nothing but the standard library, so that it costs little to have around.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from annotation.environment import SPACE_TOKEN, TOKENS, keep_private, without_variables

# As in annotation.database, which loads SQLite.
FILE_NAME: Final = "prefloop.db"
ROOT: Final = Path(__file__).resolve().parents[2]
# The directory or OWNER/NAME for safe copies.
PLACE: Final = "PREFLOOP_COPIES"
# Set by the launcher for its children, to its process id.
LAUNCHER: Final = "PREFLOOP_LAUNCHER"
# Tells the web server that somebody with a token does the jobs of the Hub's lane.
HELD: Final = "PREFLOOP_TOKEN_HELD"
# How the token process says that a later attempt may succeed, and that there is a newer copy to begin from.
TRY_AGAIN: Final = 75
BEGIN_AGAIN: Final = 76
# How often that may happen: programs that run side by side must not restart each other without end.
BEGINNINGS: Final = 3
RETRY_SECONDS: Final = 5.0
PATIENCE_SECONDS: Final = 300.0
LAST_COPY_SECONDS: Final = 25.0
WEB_SECONDS: Final = 40.0
# Who asks a second time does not want to wait.
HURRIED_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.25
SHORT_POLL_SECONDS: Final = 0.05
# What ends this program: being told, Ctrl+C, the terminal's end, Ctrl+\. Windows has not all of them.
ENDING: Final = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, name)
)
LONGEST_PAUSE_SECONDS: Final = 60.0
# <linux/prctl.h>
PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether there is a token to hold or a copy to make, and nobody does so yet."""
    return LAUNCHER not in environment and (bool(environment.get(PLACE)) or holds_token(environment))


def holds_token(environment: Mapping[str, str]) -> bool:
    """Whether there is a token for the Hub: in a variable, or stored by `hf auth login`."""
    if any(environment.get(name, "").strip() for name in TOKENS):
        return True
    try:
        return bool(token_path(environment).read_text("utf-8").strip())
    except (OSError, ValueError):
        return False


def token_path(environment: Mapping[str, str]) -> Path:
    """Where `hf auth login` stores a token; as in huggingface_hub.constants, which is slow to load."""
    caches = environment.get("XDG_CACHE_HOME") or "~/.cache"
    home = environment.get("HF_HOME") or os.path.join(caches, "huggingface")
    path = environment.get("HF_TOKEN_PATH") or os.path.join(home, "token")
    return Path(os.path.expandvars(os.path.expanduser(path)))


def launch_where_needed(data_dir: Path, model: str, arguments: Sequence[str]) -> None:
    """Turn this process into a launcher where one is wanted; in a web server that has one, end when that one dies."""
    if wanted(os.environ):
        own = ["--data", str(data_dir), "--model", model, "--", *arguments]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        os.execv(sys.executable, [*module("rlhf.hub.token_launcher"), *own])
    if LAUNCHER in os.environ:
        end_with_launcher()


def module(name: str) -> list[str]:
    """How to run a module of this program, whatever lies in the directory where it was started (-P)."""
    return [sys.executable, "-P", "-m", name]


def web_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What the process that serves annotators gets: no token, and no way to find one that is stored."""
    hidden = {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_TOKEN_PATH": os.devnull}
    held = {HELD: "1"} if holds_token(environment) else {}
    return {**without_variables((*TOKENS, SPACE_TOKEN), environment), **hidden, **held}


def end_with_launcher() -> None:
    """Have this process told to end when its launcher dies."""
    launcher = int(os.environ[LAUNCHER])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != launcher:
            os.kill(os.getpid(), signal.SIGTERM)
    else:
        threading.Thread(target=watch_launcher, args=(launcher,), daemon=True).start()


def watch_launcher(launcher: int) -> None:
    """End this process when its launcher is gone, where the system does not tell."""
    while os.getppid() == launcher:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def hide_environment() -> None:
    """Keep other processes of this user, such as the web server, from reading this one's environment and memory."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)


def was_killed(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended, and neither by itself nor because somebody asked it to."""
    status = process.poll()
    return status is not None and status < 0 and -status not in ENDING


class Launcher:
    """The token process and the web server, as processes of this one."""

    def __init__(self, data_dir: Path, model: str, arguments: Sequence[str]) -> None:
        self.data_dir, self.model, self.arguments = data_dir, model, arguments
        self.told: int | None = None
        """The signal that asked this program to end."""
        self.hurried: float | None = None
        """When it was asked again."""
        self.token_process: subprocess.Popen[bytes] | None = None
        self.pause, self.token_process_not_before = 1.0, 0.0
        self.web: subprocess.Popen[bytes] | None = None
        self.web_pause, self.web_not_before = 1.0, 0.0
        self.left_behind, self.beginnings = False, BEGINNINGS

    def run(self) -> int:
        """Restore, serve until told to end, make the last copy. Returns the exit status.

        A Space that is updated runs on while its successor starts. The successor begins again if the one before it has
        put a newer copy away, as long as nobody has done anything here. Where somebody does at that moment, what is
        here goes on, and its copies go aside.
        """
        for number in ENDING:
            # What nohup has it ignore, it does; not Ctrl+C, which shells have all ignore that run in the background.
            if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self.on_signal)
        os.environ[LAUNCHER] = str(os.getpid())
        while True:
            status = self.begin()
            if status and self.left_behind and (self.data_dir / FILE_NAME).is_file():
                self.beginnings = status = 0
            if status or self.told is not None:
                return status
            status = self.serve()
            if not self.left_behind:
                return status
            self.beginnings -= 1

    def serve(self) -> int:
        """Keep the web server and the token process until either has a reason to end; the exit status."""
        self.left_behind, self.token_process, self.web = False, None, None
        self.keep_token_process()
        web = self.keep_web()
        try:
            while (web.poll() is None or was_killed(web)) and self.told is None and not self.left_behind:
                self.keep_token_process()
                web = self.keep_web()
                time.sleep(POLL_SECONDS)
            return self.end_web(web)
        finally:
            if not self.left_behind:
                self.end_token_process()

    def on_signal(self, number: int, frame: object) -> None:
        """Remember that this program is to end, and whether somebody has no patience."""
        if self.told is not None:
            self.hurried = time.monotonic()
        self.told = number

    def begin(self) -> int:
        """Restore what is to be restored and fetch the model, repeatedly while the Hub can't be reached."""
        copies = bool(os.environ.get(PLACE))
        if not copies and (self.model == "embedded" or Path(self.model).is_dir()):
            return 0
        deadline = time.monotonic() + (PATIENCE_SECONDS if copies else 0.0)
        while True:
            status = self.begun(self.start_token_process("--begin", "--model", self.model))
            if status != TRY_AGAIN or self.told is not None or time.monotonic() > deadline:
                return status if self.told is None else 0
            time.sleep(RETRY_SECONDS)

    def begun(self, process: subprocess.Popen[bytes]) -> int:
        """How a beginning ends. A model may be fetched for hours; a Hub that says nothing ends it by itself."""
        while process.poll() is None:
            if self.told is not None:
                process.terminate()
            time.sleep(POLL_SECONDS)
        return process.returncode

    def start_token_process(self, *flags: str) -> subprocess.Popen[bytes]:
        """Start the process that has the token. It is in a session of its own: Ctrl+C must not cut the last copy."""
        command = [*module("rlhf.hub.token_process"), "--data", str(self.data_dir), *flags]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def keep_token_process(self) -> None:
        """Start the token process, and again if it dies, after longer and longer pauses.

        Without a token or copies to make it has nothing to do.
        """
        if not os.environ.get(PLACE) and not holds_token(os.environ):
            return
        ended = None if self.token_process is None else self.token_process.poll()
        if ended == BEGIN_AGAIN:
            self.left_behind = True
        elif (self.token_process is None or ended is not None) and time.monotonic() >= self.token_process_not_before:
            flags = {"--first": self.token_process is None, "--follow": self.beginnings > 0}
            self.token_process = self.start_token_process(*(name for name, given in flags.items() if given))
            self.token_process_not_before = time.monotonic() + self.pause
            self.pause = min(self.pause * 2, LONGEST_PAUSE_SECONDS)

    def keep_web(self) -> subprocess.Popen[bytes]:
        """Start the web server, and again where it was killed, after longer and longer pauses; the one there is."""
        if self.web is not None and not (was_killed(self.web) and time.monotonic() >= self.web_not_before):
            return self.web
        if self.web is not None:
            with suppress(OSError):  # whoever read this may be gone
                print(
                    f"The web server died of signal {-self.web.returncode}; it is started again.",
                    file=sys.stderr,
                    flush=True,
                )
        command = [sys.executable, str(ROOT / "app.py"), *self.arguments]
        self.web = subprocess.Popen(command, env=web_environment(os.environ), start_new_session=True)
        self.web_not_before = time.monotonic() + self.web_pause
        self.web_pause = min(self.web_pause * 2, LONGEST_PAUSE_SECONDS)
        return self.web

    def end_web(self, web: subprocess.Popen[bytes]) -> int:
        """Let the web server end in the way in which this program was told to.

        It waits for its workers, and whoever ends this program may not wait so long: what has been judged is copied
        meanwhile.
        """
        if web.poll() is None:
            web.send_signal(signal.SIGINT if self.told == signal.SIGINT else signal.SIGTERM)
            if self.token_process is not None and self.token_process.poll() is None:
                self.token_process.send_signal(signal.SIGUSR1)
        self.wait_for(web, time.monotonic() + WEB_SECONDS)
        return 0 if self.told is not None else web.returncode

    def wait_for(self, process: subprocess.Popen[bytes], deadline: float) -> int:
        """A process's status; it is killed at the deadline, which is near once somebody has asked twice."""
        while process.poll() is None:
            hurried = deadline if self.hurried is None else self.hurried + HURRIED_SECONDS
            if time.monotonic() >= min(deadline, hurried):
                process.kill()
                return process.wait()
            time.sleep(SHORT_POLL_SECONDS)
        return process.returncode

    def end_token_process(self) -> None:
        """Have the last copy made; a Hub that does not answer is not waited for without end."""
        if self.token_process is None:
            return
        deadline = time.monotonic() + LAST_COPY_SECONDS
        self.token_process.terminate()
        if self.wait_for(self.token_process, deadline) == 0 or not os.environ.get(PLACE):
            return
        # It died, or had only just been started and did not know yet what to do about a signal.
        if self.wait_for(self.start_token_process("--last"), deadline) != 0:
            with suppress(OSError):  # whoever read this may be gone
                print("The last safe copy was not finished.", file=sys.stderr, flush=True)


def main() -> int:
    """The command line that app.py turns into: python -m rlhf.hub.token_launcher --data DIR --model M --
    APP_ARGUMENTS."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("arguments", nargs="*")
    options = parser.parse_args()
    keep_private()
    hide_environment()
    return Launcher(options.data, options.model, options.arguments).run()


if __name__ == "__main__":
    sys.exit(main())
