"""Starts the Python programs of tests as forks of a process that has imported the libraries already.

A worker's imports cost seconds of a processor, and the suite starts some hundred programs, those in which
pytest-xdist runs tests among them. `subprocess` asks here instead of the system (see `Client.start`): a server, started
once for a process that starts programs, forks itself, and the fork becomes the program. It has the arguments,
environment, directory, descriptors, session, umask and priority that a program of its own would have, and it is a child
of the process that asked, which signals it and waits for it as for any other. Each fork has a server of its own, so
programs that it starts begin as quickly.

What differs is its memory, which is full of libraries, and which modules are loaded. Tests whose subject that is, or
how a program starts and dies, are marked `own_start`; those start programs as users do, and so do all where there is
no Linux, or a GPU, whose driver can't be forked.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from _posixsubprocess import fork_exec
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module, reload
from pathlib import Path
from types import ModuleType
from typing import Any

# In the order in which they need each other.
FREE_OF_THE_HUB = (
    *("numpy", "pandas", "pyarrow.parquet", "torch", "fsspec", "httpx", "jinja2", "pydantic", "fastapi", "uvicorn"),
    *("PIL.Image", "psutil", "pygments.lexers", "yaml"),
)
ALL = (
    *FREE_OF_THE_HUB,
    *("huggingface_hub", "datasets", "tokenizers", "safetensors.torch", "transformers.models.auto", "accelerate"),
    *("transformers.trainer", "peft", "trl.trainer.sft_trainer", "trl.trainer.dpo_trainer"),
    "trl.trainer.reward_trainer",
)
# The project itself as it stands beside this file, for programs that begin in its directory, and what of the
# environment it reads when it is loaded: beginnings of names.
ROOT = str(Path(__file__).resolve().parent.parent)
PROJECT = ("rlhf.kinds", "rlhf.workers.worker", "rlhf.__main__", "rlhf.web_server", "rlhf.tabs.pages")
OURS = ("annotation", "rlhf")
READ_BY_THE_PROJECT = ("PREFLOOP_DATA", "PREFLOOP_LANGUAGE")
# They limit their own memory.
NOT_FORKED = ("rlhf.models.template_process", "annotation.ui.markdown_process")
# What pytest-xdist starts to run tests: execnet.gateway_io.popen_bootstrapline.
TEST_WORKER = "import sys;exec(eval(sys.stdin.readline()))"
# What libraries, Python and the C library read once, when they are loaded: beginnings of names.
READ_ONCE = ("PYTHON", "LD_", "LC_", "LANG", "TZ", "OMP_", "MKL_", "CUDA_", "TORCH_", "TORCHDYNAMO_")
READ_ONCE_BY_MORE = ("TRANSFORMERS_", "GRADIO_", "TQDM_", "XDG_")
# What huggingface_hub and datasets keep in a module each, which a fork loads again: see `read_again`.
READ_AGAIN = ("HF_", "HUGGINGFACE", "HOME")
READ_EACH_TIME = ("PYTHONPATH", "PYTHONUNBUFFERED", "HF_TOKEN", "HF_HUB_DISABLE_TELEMETRY")
READ_EACH_TIME += ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "TQDM_DISABLE")
# What the program sets for itself when it is built, as tests do in their own process.
READ_EACH_TIME += ("GRADIO_TEMP_DIR", "CUDA_VISIBLE_DEVICES")
THREADS = Path("/proc/self/task")
# A fork lacks all threads but the one that forks, which is Python's; pyarrow's allocator starts this one again.
STARTED_AGAIN = "jemalloc_bg_thd"
PR_SET_CHILD_SUBREAPER = 36
MADV_COLLAPSE = 25
LARGE_PAGE = 1 << 21
STDIN = 0
SPAWNS = subprocess._USE_POSIX_SPAWN  # type: ignore[attr-defined]
LONGEST = 1 << 20
ROOM = 1 << 15
"""For the words and variables of a program, in bytes, where those who look from outside find them."""
PATIENCE_SECONDS = 600.0


# ------------------------------------------------------------------------------------------------------- what is asked
@dataclass(frozen=True)
class Program:
    """What to become."""

    parent: int
    command: Sequence[str]
    """As it was given; the part before `python` may be `nice`."""
    path: Sequence[str]
    """What comes before the libraries on sys.path."""
    kind: str
    """'-m', '-c', or '' for a file."""
    name: str
    arguments: Sequence[str]
    directory: str
    environment: Mapping[str, str]
    new_session: bool
    umask: int
    nice: int
    unbuffered: bool


def program_of(command: Sequence[str], directory: str, environment: Mapping[str, str], **how: Any) -> Program | None:
    """What Python is asked to run by this command line; None for another program and for what is not forked."""
    words, nice = list(command), os.getpriority(os.PRIO_PROCESS, 0)
    if words[:2] == ["nice", "-n"]:
        nice, words = nice + int(words[2]), words[3:]
    if not words or words.pop(0) != sys.executable:
        return None
    flags = set()
    while words and words[0] in ("-P", "-u"):
        flags.add(words.pop(0))
    kind = words.pop(0) if words[:1] == ["-m"] or words[:2] == ["-c", TEST_WORKER] else ""
    if not words or words[0].startswith("-") or words[0] in NOT_FORKED:
        return None
    name, *arguments = words
    first = [] if "-P" in flags else [directory if kind else str((Path(directory) / name).resolve().parent)]
    further = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part]
    return Program(
        parent=os.getpid(),
        command=command,
        path=[*first, *further],
        kind=kind,
        name=name,
        arguments=arguments,
        directory=directory,
        environment=environment,
        nice=nice,
        unbuffered="-u" in flags or bool(environment.get("PYTHONUNBUFFERED")),
        **how,
    )


# ------------------------------------------------------------------------------------------------------ the asking side
@dataclass(frozen=True)
class Client:
    """A server of this process."""

    connection: socket.socket
    libraries: Sequence[str]
    environment: Mapping[str, str]
    """In which it has loaded them."""
    process: subprocess.Popen[bytes] | None = None
    number: int = 0
    """Of the server's process, where another server was forked to be it."""

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether the libraries that the server has loaded would be the same in a process with this environment."""
        return read_once(environment, self.libraries) == read_once(self.environment, self.libraries)

    def start(self, program: Program, streams: Sequence[int]) -> int | None:
        """Have a program started with these standard streams; its process number, or None where the server is gone."""
        try:
            socket.send_fds(self.connection, [json.dumps(asdict(program)).encode()], streams)
            number = int(self.connection.recv(64) or 0)
            # The process between the server and the program ends now, which makes the program a child of this one.
            adopt(True)
            self.connection.send(b"adopted")
            self.connection.recv(64)
            return number or None
        except OSError:
            return None
        finally:
            adopt(False)

    def close(self) -> None:
        """End the server."""
        self.connection.close()
        if self.process is not None:
            self.process.wait(PATIENCE_SECONDS)
        elif self.number:
            os.waitpid(self.number, 0)


def read_once(environment: Mapping[str, str], libraries: Sequence[str]) -> dict[str, str]:
    """The variables that matter to a library that is loaded already."""
    names = READ_ONCE if libraries == FREE_OF_THE_HUB else (*READ_ONCE, *READ_ONCE_BY_MORE)
    return {name: value for name, value in environment.items() if name.startswith(names) and name not in READ_EACH_TIME}


def adopt(whether: bool) -> None:
    """Whether processes below this one whose parent has ended become children of this one."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(whether), 0, 0, 0)


class Starter:
    """In the place of `subprocess._fork_exec`: has programs forked where that is wanted and possible."""

    def __init__(self, clients: list[Client], *, serving: bool) -> None:
        self.clients, self.serving, self.usual = clients, serving, dict(os.environ)
        self.wanted, self.owner = True, os.getpid()
        self.lock = threading.Lock()

    def take_over(self) -> None:
        """Be asked for each program from now on; Python 3.13 would start some without."""
        subprocess._fork_exec = self.fork_exec  # type: ignore[attr-defined]
        subprocess._USE_POSIX_SPAWN = False  # type: ignore[attr-defined]

    def fork_exec(
        self,
        command: Sequence[Any],
        executables: Sequence[bytes],
        close: bool,
        kept: Sequence[int],
        directory: Any,
        environment: Sequence[bytes] | None,
        *rest: Any,
    ) -> int:
        """As _posixsubprocess.fork_exec, which is called where the program is not to be forked."""
        stdin, _, _, stdout, _, stderr, _, report, _, session, group, gid, gids, uid, umask, before = rest[:16]
        own = self.wanted and self.owner == os.getpid()
        if own and close and list(kept) == [report] and (group, gid, gids, uid, before) == (-1, *[None] * 4):
            there = os.path.realpath(os.fsdecode(directory or os.getcwd()))
            variables = dict(os.environ) if environment is None else variables_of(environment)
            mask = current_umask() if umask < 0 else umask
            words = [os.fsdecode(word) for word in command]
            program = program_of(words, there, variables, new_session=bool(session), umask=mask)
            if program is not None and os.path.isdir(there):
                streams = [given if given >= 0 else usual for usual, given in enumerate((stdin, stdout, stderr))]
                number = self.start(program, streams)
                if number is not None:
                    return number
        return fork_exec(command, executables, close, kept, directory, environment, *rest)

    def start(self, program: Program, streams: Sequence[int]) -> int | None:
        """Have a program started by a server that has loaded what it would load; None where there is no such server."""
        with self.lock:
            libraries = self.libraries_for(program.environment) if self.serving else self.clients[0].libraries
            fitting = (one for one in self.clients if one.libraries == libraries and one.fits(program.environment))
            client = next(fitting, None)
            if client is None and self.serving and libraries:
                client = self.serve(libraries, program.environment)
            return None if client is None else client.start(program, streams)

    def serve(self, libraries: Sequence[str], environment: Mapping[str, str]) -> Client | None:
        """A new server; one with all libraries begins as a fork of one with those that are the same for all programs.

        None where that one is gone.
        """
        fitting = (one for one in self.clients if one.libraries == FREE_OF_THE_HUB and one.fits(environment))
        first = next(fitting, None)
        if first is None:
            first = start_server(environment)
            self.clients.append(first)
        if libraries == FREE_OF_THE_HUB:
            return first
        client = fork_server(first, libraries, environment)
        self.clients += [client] if client else []
        return client

    def libraries_for(self, environment: Mapping[str, str]) -> Sequence[str]:
        """What a server for this environment has loaded; nothing where there are to be none."""
        for libraries in (ALL, FREE_OF_THE_HUB):
            if read_once(environment, libraries) == read_once(self.usual, libraries):
                return libraries
        return ()

    def close(self) -> None:
        """End the servers; from now on programs start as usual."""
        while self.clients:
            self.clients.pop().close()
        subprocess._fork_exec = fork_exec  # type: ignore[attr-defined]
        subprocess._USE_POSIX_SPAWN = SPAWNS  # type: ignore[attr-defined]


def variables_of(environment: Sequence[bytes]) -> dict[str, str]:
    pairs = (os.fsdecode(entry).partition("=") for entry in environment)
    return {name: value for name, _, value in pairs}


def current_umask() -> int:
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)


def start_server(environment: Mapping[str, str]) -> Client:
    """A server for programs whose environment is like this one, with what is free of the Hub."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-P", __file__, str(theirs.fileno()), ",".join(FREE_OF_THE_HUB), "-" * ROOM]
    given = {**environment_of_server(environment), "ROOM": "-" * ROOM}
    with theirs:
        nothing = subprocess.DEVNULL
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env=given, stdin=nothing, stdout=nothing, stderr=nothing
        )
    ours.settimeout(PATIENCE_SECONDS)
    return Client(ours, FREE_OF_THE_HUB, environment, process)


def fork_server(first: Client, libraries: Sequence[str], environment: Mapping[str, str]) -> Client | None:
    """A server with more libraries than the first, of which it is a fork; None where that one is gone."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    arguments = [str(STDIN), ",".join(libraries)]
    program = Program(
        parent=os.getpid(),
        command=[sys.executable, "-P", __file__, *arguments],
        path=[],
        kind="",
        name=__file__,
        arguments=arguments,
        directory=os.getcwd(),
        environment=environment_of_server(environment),
        new_session=False,
        umask=current_umask(),
        nice=os.getpriority(os.PRIO_PROCESS, 0),
        unbuffered=False,
    )
    with theirs, open(os.devnull, "r+b") as nothing:
        number = first.start(program, [theirs.fileno(), nothing.fileno(), nothing.fileno()])
    ours.settimeout(PATIENCE_SECONDS)
    return None if number is None else Client(ours, libraries, environment, number=number)


def environment_of_server(environment: Mapping[str, str]) -> dict[str, str]:
    given = {**environment, "TQDM_DISABLE": "1", "OPENBLAS_NUM_THREADS": "1"}
    given.pop("PYTHONPATH", None)
    return given


def install() -> Starter | None:
    """From now on programs are forked, where that is possible."""
    if sys.platform != "linux" or Path("/dev/nvidiactl").exists():
        return None
    # Where this process was forked itself, it has a server already.
    before = getattr(subprocess._fork_exec, "__self__", None)  # type: ignore[attr-defined]
    starter = Starter([*getattr(before, "clients", ())], serving=True)
    starter.take_over()
    return starter


# ---------------------------------------------------------------------------------------------------- the serving side
@dataclass(frozen=True)
class Loaded:
    """What a server's forks start with."""

    libraries: Sequence[str]
    environment: Mapping[str, str]
    path: Sequence[str]


def main() -> None:
    """Load the libraries and serve; a fork comes out of `become` as a program, which ends as others end."""
    given = int(sys.argv[1])
    number = fcntl.fcntl(given, fcntl.F_DUPFD_CLOEXEC, 100)
    os.close(given)
    if given == STDIN:
        os.open(os.devnull, os.O_RDONLY)  # which is descriptor 0 now
    loaded = Loaded(tuple(sys.argv[2].split(",")), dict(os.environ), list(sys.path))
    for library in loaded.libraries:
        import_module(library)
    if loaded.libraries == ALL:
        sys.path.insert(0, ROOT)
        import_module("annotation.tabs.gradio_loading").load()
        for module in PROJECT:
            import_module(module)
        sys.path.remove(ROOT)
        look_at_packages_once()
        write_no_card_of_peft()
        draw_short_samples()
        # What transformers knows of the weights of all models, which each program would work out for its first one.
        import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("llama")
    if sum(name.read_text("utf-8").strip() != STARTED_AGAIN for name in THREADS.glob("*/comm")) > 1:
        os._exit(1)
    leave_nothing_to_tidy_up()
    gc.collect()
    gc.freeze()
    use_large_pages()
    connection: socket.socket | int = socket.socket(fileno=number)
    while isinstance(connection, socket.socket):
        program, streams = serve(connection)
        connection = become(program, streams, connection, loaded)
    here = os.getpid()
    status = run(program)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it any more
            stream.flush()
    if os.getpid() == here:  # a program may fork
        os.kill(connection, signal.SIGKILL)
        os.waitpid(connection, 0)
    os._exit(status)  # taking all the libraries down would cost half a second


def leave_nothing_to_tidy_up() -> None:
    """A fork that ends takes down none of what was loaded here: torch's 250 libraries, the times of compiling."""
    for finalizer in weakref.finalize._registry:  # type: ignore[attr-defined]
        finalizer.atexit = False
    if dynamo := sys.modules.get("torch._dynamo.utils"):
        atexit.unregister(dynamo.dump_compile_times)


def use_large_pages() -> None:
    """Put this process's memory into pages of 2 MB where the system can: a fork then costs half.

    What it costs is to note each page; one that a fork writes to is divided for it. What can't be put so stays.
    """
    system = ctypes.CDLL(None)
    for line in Path("/proc/self/maps").read_text("utf-8").splitlines():
        place, rights, *_, file = (*line.split(maxsplit=5), "")[:6]
        if rights.startswith("rw") and file in ("", "[heap]"):
            start, end = (int(address, 16) for address in place.split("-"))
            for page in range(-(-start // LARGE_PAGE) * LARGE_PAGE, end - LARGE_PAGE + 1, LARGE_PAGE):
                system.madvise(ctypes.c_void_p(page), ctypes.c_size_t(LARGE_PAGE), MADV_COLLAPSE)


def look_at_packages_once() -> None:
    """Accelerate reads what is written of an installed package each time that it asks whether there is one."""
    imports: Any = import_module("accelerate.utils.imports")
    imports._is_package_available = cache(imports._is_package_available)


def write_no_card_of_peft() -> None:
    """PEFT compiles a long template for each card that it puts beside an adapter, and ours takes the card's place."""
    peft: Any = import_module("peft")
    peft.PeftModel.create_or_update_model_card = lambda model, directory: None


def draw_short_samples() -> None:
    """Sample answers of trainings are short: drawing them at full length is a third of what a quick training costs."""
    import_module("rlhf.algorithms.trainer").SAMPLE_TOKENS = 4  # type: ignore[attr-defined]


def run(program: Program) -> int:
    """Run a program in this process; returns its exit status."""
    try:
        if program.kind == "-c":
            sys.modules["__main__"] = main = ModuleType("__main__")
            exec(program.name, vars(main))
        elif program.kind:
            runpy.run_module(program.name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(program.name, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return (end.code or 0) & 0xFF
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        return 1
    return 0


def serve(connection: socket.socket) -> tuple[Program, list[int]]:
    """Fork a process for each program that is asked for; returns in these forks alone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        asked, streams, _, _ = socket.recv_fds(connection, LONGEST, 3)
        if not asked:
            os._exit(0)  # whoever could ask is gone
        between = os.fork()
        if not between:
            if os.fork():
                signal.pause()
            return Program(**json.loads(asked)), streams
        for stream in streams:
            os.close(stream)
        connection.recv(64)
        os.kill(between, signal.SIGKILL)
        os.waitpid(between, 0)
        connection.send(b"done")


def become(program: Program, streams: Sequence[int], connection: socket.socket, loaded: Loaded) -> socket.socket | None:
    """Make this process what the program's would be. In a further fork, which serves it, returns what it asks over."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if program.new_session:
        os.setsid()
    try:
        os.chdir(program.directory)
    except OSError:  # removed meanwhile
        connection.send(b"0")
        os._exit(1)
    os.umask(program.umask)
    os.setpriority(os.PRIO_PROCESS, 0, program.nice)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = os.fork()
    if not server:
        connection.close()
        ours.close()
        for stream in streams:
            os.close(stream)
        return theirs
    theirs.close()
    connection.send(str(os.getpid()).encode())
    while os.getppid() != program.parent:
        time.sleep(0.001)
    connection.close()
    take_streams(streams, program.unbuffered)
    take_words(program, loaded)
    if loaded.libraries == ALL:
        read_again(loaded.environment)
        forget(program, loaded.environment)
    Starter([Client(ours, loaded.libraries, loaded.environment)], serving=False).take_over()
    return server


def take_streams(streams: Sequence[int], unbuffered: bool) -> None:
    """The program's standard streams, as Python opens them."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors=sys.stdin.errors, closefd=False)  # noqa: SIM115
    for number, name, errors in ((1, "stdout", sys.stdout.errors), (2, "stderr", "backslashreplace")):
        raw = open(number, "wb", 0 if unbuffered else -1, closefd=False)  # noqa: SIM115 - for as long as the program runs
        lines = not unbuffered and (number == 2 or os.isatty(number))
        made = io.TextIOWrapper(raw, "utf-8", errors, line_buffering=lines, write_through=unbuffered)
        setattr(sys, name, made)
        setattr(sys, f"__{name}__", made)


def take_words(program: Program, loaded: Loaded) -> None:
    """The program's arguments and environment, here and for those who look at this process from outside."""
    os.environ.clear()
    os.environ.update(program.environment)
    sys.argv = [program.name, *program.arguments]
    sys.path[:] = [*program.path, *loaded.path]
    fields = Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()
    command, variables = program.command, [f"{name}={value}" for name, value in program.environment.items()]
    for words, start, end in ((command, *fields[45:47]), (variables, *fields[47:49])):
        said = b"".join(os.fsencode(word) + b"\0" for word in words)
        room = int(end) - int(start)
        ctypes.memmove(int(start), said[: room - 1].ljust(room, b"\0"), room)


def forget(program: Program, before: Mapping[str, str]) -> None:
    """Have a program load the project anew where it is another copy or has other variables.

    And what runs tests, to which warnings are errors, while it loads as well.
    """
    fits = program.kind != "-c" and ROOT in (program.directory, *program.path[:1])
    if fits and beginning_with(READ_BY_THE_PROJECT, os.environ) == beginning_with(READ_BY_THE_PROJECT, before):
        gone = {program.name, f"{program.name}.__main__"} - {*OURS}
    else:
        gone = {name for name in sys.modules if name.partition(".")[0] in OURS}
    for name in gone:
        sys.modules.pop(name, None)


def beginning_with(names: tuple[str, ...], variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name.startswith(names)}


def read_again(before: Mapping[str, str]) -> None:
    """Have the libraries of the Hub know this program's variables, where the server had others."""
    if beginning_with(READ_AGAIN, os.environ) == beginning_with(READ_AGAIN, before):
        return
    from huggingface_hub import constants, hf_api, hf_file_system

    for name in ("huggingface_hub.constants", "datasets.config"):
        reload(sys.modules[name])
    # What they have made for the address of the Hub; the file systems that fsspec keeps by what they are made with.
    hf_api.api.endpoint = constants.ENDPOINT
    hf_file_system.HfFileSystem.clear_instance_cache()
    vars(hf_file_system.hffs).update(vars(hf_file_system.HfFileSystem(skip_instance_cache=True)))


if __name__ == "__main__":
    main()
