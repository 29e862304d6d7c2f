"""A program that is forked from a server is, for those who start it and for itself, one that was started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import conftest
from tests.machine_fixtures import PATIENCE_SECONDS, ROOT, has_ended, wait_until

pytestmark = pytest.mark.skipif(conftest.starter is None, reason="programs are not forked here")

PROBE = """
import json, os, signal, subprocess, sys

def facts():
    words = open("/proc/self/cmdline").read().split(chr(0))
    given = open("/proc/self/environ").read().split(chr(0))
    return {
        "name": __name__, "argv": sys.argv, "path": sys.path, "cwd": os.getcwd(), "environment": dict(os.environ),
        "parent": os.getppid(), "leads": os.getsid(0) == os.getpid(), "umask": os.umask(0),
        "executable": sys.executable, "nice": os.getpriority(os.PRIO_PROCESS, 0), 
        "words": [word for word in words if word],
        "given": sorted(word for word in given if word and not word.startswith("LC_CTYPE=")),
        "input": sys.stdin.read(), "encodings": [stream.encoding for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "buffered": [sys.stdout.line_buffering, sys.stdout.write_through, sys.stderr.line_buffering],
        "errors": [stream.errors for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "signals": [str(signal.getsignal(number)) for number in (2, 15, 1, 13)],
        "main": sys.modules["__main__"].facts is facts, "files": sorted(os.listdir("/proc/self/fd"), key=int)[:3],
    }
"""
TORCH = "import sys; print('torch' in sys.modules, flush=True)\n"


WHOSE = """
import os, sys
begun_with = "rlhf.__main__" in sys.modules
sys.path.insert(0, os.getcwd())
import rlhf.__main__
print(rlhf.__main__.__file__, rlhf.__main__.DEFAULT_DATA, begun_with)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a program, as a file and as a module in a package."""
    (tmp_path / "package").mkdir()
    for path in (tmp_path / "probe.py", tmp_path / "package" / "probe.py"):
        path.write_text(f"{PROBE}\nprint(json.dumps(facts()))\nprint('an error', file=sys.stderr)\nsys.exit(7)\n")
    return tmp_path


def told(command: list[str], **how: Any) -> tuple[dict[str, Any], str, int]:
    """What a program found, what it said on the error stream, and its status."""
    done = subprocess.run(command, capture_output=True, text=True, input="words", check=False, **how)
    assert done.stdout, done.stderr
    return json.loads(done.stdout), done.stderr, done.returncode


@pytest.mark.parametrize(
    "words", [["probe.py", "a", "-b"], ["-u", "-m", "package.probe", "a"], ["-P", "-m", "package.probe"]]
)
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"start_new_session": True, "umask": 0o027},
        {"env": {**os.environ, "PYTHONUNBUFFERED": "1", "WORD": "ä b\nc", "PYTHONPATH": "/one:/two"}},
    ],
)
def test_it_finds_what_one_that_was_started_finds(
    place: Path, words: list[str], how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given: libraries of this process have put more into its variables than os.environ knows of.
    how = {"env": dict(os.environ), **how}
    command = [sys.executable, *words]
    if words[0] == "-P":
        how = {**how, "env": {**how["env"], "PYTHONPATH": str(place)}}
    assert conftest.starter is not None
    forked = told(command, cwd=place, **how)
    monkeypatch.setattr(conftest.starter, "wanted", False)
    started = told(command, cwd=place, **how)
    assert forked[0]["parent"] == os.getpid()
    for name, value in forked[0].items():
        assert value == started[0][name], name
    assert forked[1:] == started[1:]


def is_forked(command: list[str], **how: Any) -> bool:
    done = subprocess.run(command, capture_output=True, text=True, check=True, **how)
    return done.stdout.splitlines()[-1] == "True"


def test_it_has_all_libraries_in_a_process_in_which_the_program_was_built(place: Path) -> None:
    (place / "gradio_here.py").write_text(TORCH.replace("torch", "gradio"))
    built = {"GRADIO_TEMP_DIR": str(place), "CUDA_VISIBLE_DEVICES": ""}
    assert is_forked([sys.executable, "gradio_here.py"], cwd=place, env={**os.environ, **built})


HUB = """
import json, huggingface_hub, datasets
from huggingface_hub import constants, hf_file_system
places = [constants.ENDPOINT, huggingface_hub.HfApi().endpoint, huggingface_hub.hf_api.api.endpoint]
places += [hf_file_system.hffs.endpoint, huggingface_hub.HfFileSystem().endpoint, datasets.config.HF_ENDPOINT]
places += [hf_file_system.hffs._api.endpoint, constants.HUGGINGFACE_CO_URL_TEMPLATE, constants.HF_HUB_CACHE]
places += [constants.HF_TOKEN_PATH, str(datasets.config.HF_DATASETS_CACHE), huggingface_hub.get_token()]
print(json.dumps([*places, constants.HF_HUB_DISABLE_IMPLICIT_TOKEN, huggingface_hub.is_offline_mode()]))
"""


def test_it_knows_its_own_hub_and_home(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "hub.py").write_text(f"{HUB}\n{TORCH}")
    command = [sys.executable, "hub.py"]
    there = {**os.environ, "HF_ENDPOINT": "http://localhost:9", "HF_HOME": str(place), "HF_TOKEN": "hf_of_a_test"}
    hidden = {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_TOKEN_PATH": os.devnull, "HF_HUB_OFFLINE": "1"}
    said = []
    for environment in (there, {**os.environ, **hidden}, {**os.environ, "HOME": str(place)}):
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=True)
        known, forked = done.stdout.splitlines()
        assert forked == "True"
        said.append(known)
    assert len(set(said)) == 3
    assert conftest.starter is not None
    monkeypatch.setattr(conftest.starter, "wanted", False)
    started = subprocess.run(command, cwd=place, env=there, capture_output=True, text=True, check=True)
    assert started.stdout.splitlines()[0] == said[0]


def test_it_has_the_libraries_unless_a_test_or_a_variable_asks_for_a_start(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "torch_here.py").write_text(TORCH)
    command = [sys.executable, "torch_here.py"]
    assert is_forked(command, cwd=place)
    assert is_forked(["nice", "-n", "3", *command], cwd=place)
    assert not is_forked([sys.executable, "-c", TORCH], cwd=place)
    assert not is_forked(command, cwd=place, env={**os.environ, "PYTHONOPTIMIZE": "1"})
    assert conftest.starter is not None
    monkeypatch.setattr(conftest.starter, "wanted", False)
    assert not is_forked(command, cwd=place)


@pytest.mark.own_start
def test_a_test_can_ask_for_a_start(place: Path) -> None:
    (place / "torch_here.py").write_text(TORCH)
    assert not is_forked([sys.executable, "torch_here.py"], cwd=place)


def test_what_it_starts_is_forked_and_is_its_child(place: Path) -> None:
    (place / "torch_here.py").write_text(f"{TORCH}\nimport os; print(os.getppid())")
    (place / "outer.py").write_text(
        "import os, subprocess, sys\n"
        "subprocess.run([sys.executable, 'torch_here.py'], check=True)\n"
        "print(os.getpid())\n"
    )
    done = subprocess.run([sys.executable, "outer.py"], cwd=place, capture_output=True, text=True, check=True)
    forked, parent, own = done.stdout.split()
    assert (forked, parent) == ("True", own)


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("sys.exit(3)", 3, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('no')", 1, "no\n"),
        ("print('yes')", 0, ""),
        ("raise ValueError('broken')", 1, "ValueError: broken\n"),
        ("atexit.register(print, 'late', file=sys.stderr)", 0, "late\n"),
        ("threading.Timer(0.1, print, ['later'], {'file': sys.stderr}).start()", 0, "later\n"),
    ],
)
def test_it_ends_as_others_end(place: Path, end: str, status: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "ending.py").write_text(f"import atexit, sys, threading\n{end}\n")
    assert conftest.starter is not None
    for forked in (True, False):
        monkeypatch.setattr(conftest.starter, "wanted", forked)
        done = subprocess.run([sys.executable, "ending.py"], cwd=place, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.endswith(said)) == (status, True), done.stderr
        assert (done.stdout, bool(done.stderr)) == ("yes\n" if "yes" in end else "", bool(said))


@pytest.fixture
def sleeper(place: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that waits, and says so."""
    (place / "sleeper.py").write_text("import signal\nprint('here', flush=True)\nsignal.pause()\n")
    with subprocess.Popen([sys.executable, "sleeper.py"], cwd=place, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_as_any_other_and_nothing_of_it_stays(
    sleeper: subprocess.Popen[str], number: signal.Signals
) -> None:
    family = psutil.Process(sleeper.pid).children(recursive=True)
    assert psutil.Process(sleeper.pid).ppid() == os.getpid()
    words = [word for word in psutil.Process(sleeper.pid).cmdline() if word]
    assert words == [sys.executable, "sleeper.py"]
    sleeper.send_signal(number)
    assert sleeper.wait(PATIENCE_SECONDS) == -number
    wait_until("the end of its server", lambda: all(map(has_ended, family)))


def test_the_project_is_there_already_unless_it_is_another_copy_or_has_other_variables(tmp_path: Path) -> None:
    program, copy = tmp_path / "whose.py", tmp_path / "copy"
    program.write_text(WHOSE, "utf-8")
    (copy / "rlhf").mkdir(parents=True)
    (copy / "rlhf" / "__main__.py").write_text("DEFAULT_DATA = 'of a copy'\n", "utf-8")
    usual = {name: value for name, value in os.environ.items() if name != "PREFLOOP_DATA"}

    def told_by(directory: Path, **variables: str) -> str:
        command = [sys.executable, str(program)]
        return subprocess.run(
            command, cwd=directory, env={**usual, **variables}, capture_output=True, text=True, check=True
        ).stdout.strip()

    here = ROOT / "rlhf" / "__main__.py"
    assert told_by(ROOT) == f"{here} {ROOT / 'data'} True"
    assert told_by(ROOT, PREFLOOP_DATA="/elsewhere") == f"{here} /elsewhere False"
    assert told_by(copy) == f"{copy / 'rlhf' / '__main__.py'} of a copy False"


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="all tests run in one process")
def test_what_runs_tests_was_forked_itself() -> None:
    assert conftest.starter is not None
    given = conftest.starter.clients[0]
    assert (given.process, given.number) == (None, 0), "it has started a server"
