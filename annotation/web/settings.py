"""What can be set when the program starts, by flags and environment variables."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from annotation.environment import default_directory, named_directory
from annotation.web.space import LOOPBACK_NAMES, SPACE_MODEL, Space

DEFAULT_DATA_DIR = Path(__file__).resolve().parents[2] / "data"


@dataclass(frozen=True)
class Settings:
    """What can be set when the program starts; each with its flag, its environment variable, or both."""

    data_dir: Path = DEFAULT_DATA_DIR
    """Everything that is kept: the database, adapters, snapshots. (--data, PREFLOOP_DATA)"""
    host: str = "127.0.0.1"
    """Address to listen on; another than loopback needs accounts. (--host, PREFLOOP_HOST)"""
    port: int = 7860
    """Port to listen on; 0 takes a free one. (--port, PREFLOOP_PORT)"""
    model: str = "embedded"
    """The base model: 'embedded', a directory, or a name on the Hub. (--model, PREFLOOP_MODEL)"""
    open_browser: bool = True
    """Open the owner's link where there is a display. (--no-browser)"""
    workers: bool = True
    """Start the workers that answer and train; without them the pages only serve what is there. (--no-workers)"""
    space: Space | None = None

    @property
    def on_loopback(self) -> bool:
        return self.space is None and self.host in LOOPBACK_NAMES

    @property
    def cookie(self) -> str:
        """The session cookie's name; browsers share cookies between ports, so each port has its own."""
        return f"prefloop-{self.port}"


def read_settings(arguments: Sequence[str] | None = None) -> Settings:
    """Settings from flags, else from the environment, else the defaults, which on a Space are those it needs.

    Raises UserError for variables of a Space that mean nothing.
    """
    here = Space.from_environment(os.environ)
    usual = Settings() if here is None else Settings(host="0.0.0.0", model=SPACE_MODEL, open_browser=False)
    options = settings_parser(usual, here is not None).parse_args(arguments)
    return Settings(
        data_dir=options.data.expanduser().resolve(),
        host=options.host,
        port=options.port,
        model=options.model,
        open_browser=usual.open_browser and not options.no_browser,
        workers=not options.no_workers,
        space=here,
    )


def settings_parser(usual: Settings, on_space: bool) -> argparse.ArgumentParser:
    """The flags with their defaults: from the environment, else the usual ones.

    On a Space GRADIO_SERVER_NAME and GRADIO_SERVER_PORT hold too, where none of ours are set.
    """
    parser = argparse.ArgumentParser(prog="python app.py", description=__doc__)
    environment = os.environ.get
    gradio = environment if on_space else dict[str, str]().get
    host, port = gradio("GRADIO_SERVER_NAME") or usual.host, gradio("GRADIO_SERVER_PORT") or str(usual.port)
    parser.add_argument(
        "--data",
        type=named_directory,
        metavar="DIR",
        default=default_directory(Settings.data_dir),
        help="data directory (default: %(default)s)",
    )
    parser.add_argument("--host", default=environment("PREFLOOP_HOST", host), help="(default: %(default)s)")
    parser.add_argument(
        "--port", type=port_number, default=environment("PREFLOOP_PORT", port), help="(default: %(default)s)"
    )
    parser.add_argument(
        "--model",
        metavar="NAME_OR_DIR",
        default=environment("PREFLOOP_MODEL", usual.model),
        help="base model: 'embedded', a directory, or a chat model's name on the Hub (default: %(default)s)",
    )
    parser.add_argument("--no-browser", action="store_true", help="don't open a browser")
    parser.add_argument("--no-workers", action="store_true", help="serve the pages only: answer nothing, train nothing")
    return parser


def port_number(text: str) -> int:
    """A port to listen on. Beyond the last one the system would take the rest of a division, and so another port."""
    if not 0 <= (port := int(text)) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{port} is no port: choose one up to 65535, or 0 for a free one")
    return port
