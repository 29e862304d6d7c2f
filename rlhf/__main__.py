"""The command line of jobs and policies: all that the page can start, from the same specs. `python -m rlhf --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from annotation.environment import default_directory, keep_private, named_directory
from annotation.translation import ENGLISH, speaking
from annotation.ui import terminal
from rlhf.cli import hub_command, job_command, judge_command, policy_command, space_command

DEFAULT_DATA = default_directory(Path(__file__).parent.parent / "data")
EPILOG = """A job waits while others run or are before it in the queue; Ctrl-C takes it out, or stops it once it runs.

Exit codes: 0 done, 1 the job failed or was stopped, 2 bad input (a sentence on standard error says which).

For example: python -m rlhf spec KIND > spec.json; edit it; python -m rlhf run spec.json"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rlhf", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=named_directory, default=DEFAULT_DATA, help="the data directory (default: %(default)s)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for module in (job_command, policy_command, judge_command, hub_command, space_command):
        module.add_parsers(commands)
    for command in commands.choices.values():  # behind a command too
        command.add_argument("--data", type=named_directory, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    keep_private()
    options = build_parser().parse_args(arguments)
    with speaking(ENGLISH):
        return terminal.status_of(lambda: int(options.act(options) or 0))


if __name__ == "__main__":
    sys.exit(main())
