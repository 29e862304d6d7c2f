"""`python -m rlhf judges` and `add-judge`: the AI judges, and another one."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any, get_args

from annotation.records import UserError
from annotation.ui.invisible import visible
from rlhf.cli.opening import Commands, database_of
from rlhf.judges import judge_settings, judge_store


def add_parsers(commands: Commands) -> None:
    commands.add_parser("judges", help="list the AI judges").set_defaults(act=run_judges)
    judge = commands.add_parser("add-judge", help="make an AI judge")
    judge.set_defaults(act=run_add_judge)
    judge.add_argument("name")
    judge.add_argument("backend", choices=get_args(judge_settings.Backend))
    judge.add_argument("settings", help='as JSON, say {"model": "base"} or {"address": "http://…/v1", "model": "…"}')


def run_judges(options: argparse.Namespace) -> None:
    judges = judge_store.judges(database_of(options))
    for one in judges:
        kept = json.dumps(asdict(one.settings))
        print(f"{visible(one.name):<30} {one.backend:<12} {'active' if one.active else 'aside':<6} {kept}")
    if not judges:
        print("There is no AI judge yet: python -m rlhf add-judge --help says how to make one.")


def run_add_judge(options: argparse.Namespace) -> None:
    """Make a judge. Raises UserError for settings that it can't have."""
    db = database_of(options)
    settings = judge_store.checked_settings(db, options.backend, read_object(options.settings))
    added = judge_store.add(db, options.name, options.backend, settings, "the command line")
    print(f"The judge {added.name} is there.")


def read_object(text: str) -> dict[str, Any]:
    """A JSON object from the command line. Raises UserError for anything else."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"The settings are not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise UserError("The settings must be a JSON object, with a name and a value for each.")
    return value
