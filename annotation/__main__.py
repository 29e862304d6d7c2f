"""The command line of people and data: accounts, import, export, safe copies. `python -m annotation --help`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from annotation.copies import copies_command
from annotation.database import Database, existing_database, has_database, open_database
from annotation.environment import default_directory, keep_private, named_directory
from annotation.exports import export_command
from annotation.imports import import_command
from annotation.records import ROLES, UserError
from annotation.translation import kept
from annotation.ui import terminal
from annotation.web import access

# Commands with which a data directory may begin; `accounts add` is another.
BEGINNINGS = ("import", "restore")
DEFAULT_DATA_DIR = Path(__file__).resolve().parent.parent / "data"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    keep_private()
    options = parser().parse_args(arguments)
    return terminal.status_of(lambda: act(options))


def act(options: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit status.

    Raises UserError for a mistake that a person can mend, which a page that follows is told in every language.
    """
    try:
        if options.topic == "copies":  # these may be asked for where there is no database, or a broken one
            copies_command.run(options)
            return 0
        if getattr(options, "look", False) or getattr(options, "dry_run", False):
            return try_out(options)
        begins = options.topic in BEGINNINGS or getattr(options, "verb", "") == "add"
        return int(options.act(options, (open_database if begins else existing_database)(options.data)) or 0)
    except UserError as error:
        if getattr(options, "json_progress", False) or getattr(options, "count", False):
            print(json.dumps({"refused": kept(str(error))}))
        raise


def try_out(options: argparse.Namespace) -> int:
    """Run a command that writes nothing, on an empty database where there is none yet; returns its exit status."""
    with tempfile.TemporaryDirectory(prefix="prefloop-") as empty:
        db = open_database(options.data if has_database(options.data) else Path(empty))
        try:
            return int(options.act(options, db) or 0)
        finally:
            db.close()


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m annotation", description="Accounts and data of Prefloop.")
    top.add_argument(
        "--data", type=named_directory, default=default_directory(DEFAULT_DATA_DIR), help=argparse.SUPPRESS
    )
    topics = top.add_subparsers(dest="topic", required=True)
    accounts = topics.add_parser("accounts", help="who may sign in")
    accounts.set_defaults(act=run)
    verbs = accounts.add_subparsers(dest="verb", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--data",
        type=named_directory,
        metavar="DIR",
        default=argparse.SUPPRESS,  # or one that is named before the command would give way to it
        help=f"data directory (default: {top.get_default('data')})".replace("%", "%%"),
    )
    named = argparse.ArgumentParser(add_help=False, parents=[shared])
    named.add_argument("name", metavar="NAME")
    secret = argparse.ArgumentParser(add_help=False)
    secret.add_argument(
        "--generate",
        action="store_true",
        help="make a password and print it, instead of asking for one or reading a line that is piped in",
    )
    add = verbs.add_parser("add", parents=[named, secret], help="make an account")
    add.add_argument("--role", choices=ROLES, default="annotator", help="(default: %(default)s)")
    verbs.add_parser("list", parents=[shared], help="list all accounts")
    verbs.add_parser("password", parents=[named, secret], help="set a new password and end the account's sessions")
    verbs.add_parser("role", parents=[named], help="change a role").add_argument("role", choices=ROLES)
    verbs.add_parser("deactivate", parents=[named], help="shut an account out; its judgements stay")
    verbs.add_parser("activate", parents=[named], help="let a deactivated account in again")
    export_command.add_parsers(topics, shared)
    import_command.add_parser(topics, shared)
    copies_command.add_parsers(topics, shared)
    return top


def run(options: argparse.Namespace, db: Database) -> None:
    match options.verb:
        case "list":
            for account in access.accounts(db):
                state = "active" if account.active else "deactivated"
                password = "password" if account.has_password else "no password"
                print(f"{account.name:<40}  {account.role:<9}  {state:<11}  {password}")
        case "add":
            password = choose_password(options)
            access.add_account(db, options.name, options.role, password)
            print(f"Added {options.name} ({options.role}).{said(options, password)}")
        case "password":
            access.existing(db, options.name)
            password = choose_password(options)
            access.set_password(db, options.name, password)
            print(f"{options.name} has a new password and was signed out everywhere.{said(options, password)}")
        case "role":
            access.set_role(db, options.name, options.role)
            print(f"{options.name} is {options.role} now.")
        case "deactivate":
            access.deactivate(db, options.name)
            print(f"{options.name} can't sign in any more.")
        case "activate":
            access.activate(db, options.name)
            print(f"{options.name} can sign in again.")


def choose_password(options: argparse.Namespace) -> str:
    """A new password: made, asked for, or piped in. Raises UserError where there is none."""
    if options.generate:
        return access.generate_password()
    return terminal.new_password(f"New password (at least {access.MINIMUM_PASSWORD} characters): ")


def said(options: argparse.Namespace, password: str) -> str:
    """A made password, to be read once; one that was typed is not repeated."""
    return f" Password: {password}" if options.generate else ""


if __name__ == "__main__":
    sys.exit(main())
