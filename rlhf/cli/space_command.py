"""`python -m rlhf space check|create`: what would fail on a Space, and the Space itself."""

from __future__ import annotations

import argparse
import os
import sys

from annotation.hub_client import Hub, connect, token_here
from annotation.records import UserError
from annotation.ui import terminal
from rlhf.cli.opening import Commands
from rlhf.hub import space_upload
from rlhf.hub.space_upload import GIVEN_TOKEN, SpacePlan


def add_parsers(commands: Commands) -> None:
    space = commands.add_parser("space", help="this program as a Hugging Face Space")
    space.set_defaults(act=run)
    verbs = space.add_subparsers(dest="verb", required=True)
    for verb, text in (
        ("check", "say what would fail, and upload nothing"),
        ("create", "create the Space or bring it up to date"),
    ):
        command = verbs.add_parser(verb, help=text, description=f"{text.capitalize()}. {EXPLAINED}")
        command.add_argument("repo", metavar="OWNER/NAME")
        command.add_argument("--hardware", default="", help=f"(default: what it has, or {space_upload.FREE})")
        for option, text in (
            ("admins", "owner, org, or names"),
            ("annotators", "everybody, nobody, owner, org, or names"),
            ("model", "a chat model on the Hub, NAME or NAME@COMMIT"),
            ("copies", "private dataset or mounted directory for safe copies"),
        ):
            usual = getattr(SpacePlan, option) or "none"
            command.add_argument(f"--{option}", help=f"{text} (default: what it has, or {usual})")
        command.add_argument(
            "--public", action="store_true", default=None, help="let everybody open it (default: as it is, or private)"
        )
        if verb == "check":
            command.add_argument("--offline", action="store_true", help="ask nothing of the Hub")
        else:
            command.add_argument("--yes", action="store_true", help="spend what the hardware costs without asking")


EXPLAINED = (
    f"The token of HF_TOKEN is used and not passed on. That of {GIVEN_TOKEN}, if set, becomes the Space's secret "
    "HF_TOKEN, with which the Space makes safe copies and publishes: give it no more rights than that."
)


def run(options: argparse.Namespace) -> int:
    """Do what the verb says; returns the exit code. Raises UserError."""
    offline = options.verb == "check" and options.offline
    hub = None if offline else connect(token_here())
    asked = {name: getattr(options, name) for name in space_upload.SETTINGS}
    plan = space_upload.planned(hub, options.repo, options.hardware, options.public, **asked)
    found = space_upload.check(plan, hub)
    for finding in found:
        print(f"{finding} (--{finding.option})" if finding.option else finding, file=sys.stderr)
    errors = [finding for finding in found if finding.level == "error"]
    if options.verb == "check":
        print(f"{len(space_upload.contents(plan))} files would go to {plan.repo}. {len(errors)} errors.")
        return 2 if errors else 0
    assert hub is not None
    if errors:
        mend = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        raise UserError(f"Nothing was uploaded. {mend} to be mended first.")
    if not options.yes:
        ask_before_spending(plan, hub)
    made = space_upload.create(plan, hub, os.environ.get(GIVEN_TOKEN, ""))
    print(f"{made.address} is {'made' if made.new else 'up to date'} at {made.commit[:8]}; the Hub builds it.")
    if made.changed:
        print(f"Changed: {', '.join(made.changed)}.")
    return 0


def ask_before_spending(plan: SpacePlan, hub: Hub) -> None:
    """Go on only with a yes to what the hardware costs. Raises UserError."""
    price = space_upload.hourly_prices(hub).get(plan.hardware, 0.0) if plan.hardware else 0.0
    if not price:
        return
    if not terminal.agreed(f"{plan.hardware} costs ${price:.2f} an hour while the Space runs. Go on?"):
        raise UserError("Nothing was uploaded or spent. Give --yes, or free hardware.")
