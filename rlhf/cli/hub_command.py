"""`python -m rlhf publish`, `pull` and `push-data`: the arguments, what they mean, and what is printed."""

from __future__ import annotations

import argparse

from annotation import hub_client
from annotation.database import open_database
from annotation.exports import export_command
from annotation.exports.formats import ExportRequest
from annotation.records import UserError
from rlhf.cli.opening import Commands, database_of
from rlhf.hub import pull_model, push_dataset, push_model
from rlhf.models.base import base_identity, base_template

HIDDEN = "private unless --public; who may see what is there already is never changed"
LICENCE_HELP = "as the Hub names it, say apache-2.0 (default: what the card there says, or none, which the card says)"


def add_parsers(commands: Commands) -> None:
    """The three commands. The token is that of HF_TOKEN, or of `hf auth login`."""
    publish = commands.add_parser("publish", help="push a policy or reward model to the Hub with its card")
    publish.set_defaults(act=run_publish)
    publish.add_argument("revision")
    publish.add_argument("repo", metavar="OWNER/NAME", help=HIDDEN)
    publish.add_argument("--licence", default="", metavar="NAME", help=LICENCE_HELP)
    pull = commands.add_parser("pull", help="take an adapter, a reward model or whole weights from the Hub")
    pull.set_defaults(act=run_pull)
    pull.add_argument("address", metavar="OWNER/NAME[@REVISION]", help="the commit that it is now is kept to")
    pull.add_argument("--base", action="store_true", help="let it be the base model of this data directory")
    pull.add_argument("--precision", choices=pull_model.PRECISIONS, help="the precision that an adapter was trained on")
    push = commands.add_parser(
        "push-data", help="push judgements, or a run's frozen data, to the Hub as a dataset with its card"
    )
    push.set_defaults(act=run_push_data, container="dataset")
    push.add_argument("repo", metavar="OWNER/NAME", help=HIDDEN)
    push.add_argument(
        "--run", type=int, metavar="JOB", help="the data that this training was frozen with, instead of an export"
    )
    export_command.add_format(push)
    export_command.add_choice(push)
    for command in (publish, push):
        command.add_argument("--public", action="store_true", help="let everybody see it")


def run_publish(options: argparse.Namespace) -> None:
    db, here = database_of(options), hub_client.connect(hub_client.token_here())
    made = push_model.publish(
        here, db, options.data, options.revision, options.repo, not options.public, options.licence
    )
    print(push_model.described(made))


def run_pull(options: argparse.Namespace) -> None:
    if options.base:
        run_pull_base(options)
        return
    db, here = database_of(options), hub_client.connect(hub_client.token_here())
    policy = pull_model.pull(here, db, options.data, options.address, options.precision)
    print(f"'{policy.revision}' is in the registry, from {policy.source}.")


def run_pull_base(options: argparse.Namespace) -> None:
    """Take a base model; a database is begun once it is there. Raises UserError."""
    base = pull_model.pull_base(hub_client.connect(hub_client.token_here()), options.data, options.address)
    policy = base_identity.register(open_database(options.data), base)
    said = f"The base model is there.{base.remark} {base_template.thinking_sentence(options.data, policy)}".rstrip()
    print(f"{said} Start with --model {base.name} --data {options.data}")


def run_push_data(options: argparse.Namespace) -> None:
    """Push an export, or a run's frozen data. Raises UserError."""
    db, request = database_of(options), export_command.request_of(options)
    here, private = hub_client.connect(hub_client.token_here()), not options.public
    if options.run is None:
        made = push_dataset.push_data(here, db, request, options.repo, private)
    else:
        whole = ExportRequest(container=request.container, names=request.names, licence=request.licence)
        if request != whole:
            raise UserError("The frozen data of a run is pushed as it is: leave --format and the filters out.")
        made = push_dataset.push_snapshot(
            here, db, options.data, options.run, options.repo, private, request.names, request.licence
        )
    print(push_model.described(made))
