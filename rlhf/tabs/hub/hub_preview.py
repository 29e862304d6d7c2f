"""What the forms of the Hub tab would do, as far as this machine knows: it needs no token, and asks nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from annotation.copies.safe_copies import Schedule
from annotation.database import Database
from annotation.exports import export_files
from annotation.exports.formats import ExportRequest
from annotation.translation import N_, _, joined, ngettext
from annotation.ui.formatting import duration, size
from annotation.ui.markup import Chip, paragraph, points, status, table
from rlhf.hub import push_dataset, space_upload
from rlhf.hub.hub_requests import CheckSpace, PublishModel, PushData
from rlhf.hub.push_dataset import Snapshot
from rlhf.hub.push_model import ADAPTER, CARD, WHOLE
from rlhf.hub.snapshot_card import names_annotators
from rlhf.hub.space_upload import SpaceFinding
from rlhf.jobs import job_store
from rlhf.models import registry
from rlhf.tabs import downloads

HOW_TO_GIVE_A_TOKEN = (
    N_("Make one that may write on huggingface.co, under Settings, Access Tokens."),
    N_("Give it where Prefloop is started: HF_TOKEN=…, or “hf auth login”."),
    N_("Start Prefloop again."),
)


def without_token() -> str:
    """How somebody gives Prefloop a token, in three lines."""
    return paragraph(_("Prefloop has no token for the Hub."), "warning") + points(list(map(_, HOW_TO_GIVE_A_TOKEN)))


def publish_preview(db: Database, data_dir: Path, asked: PublishModel) -> str:
    """Which files would go where. Raises UserError for a form that can't be meant, and for files that are gone."""
    asked.check()
    policy = registry.by_revision(db, asked.revision)
    directory = downloads.directory_of(db, data_dir, asked.revision)
    allowed = WHOLE if policy.form == "full" else ADAPTER
    found = [path for path in downloads.files_of(directory) if any(fnmatch(path.name, one) for one in allowed)]
    rows = [(path.name, size(path.stat().st_size)) for path in found if path.name != CARD]
    into = _("These files would go to the repository {repo}, which is made as a private one if it is not there:")
    if not asked.private:
        into = _("These files would go to the repository {repo}, which is made as a public one if it is not there:")
    said = status(into.format(repo=asked.repo))
    rows.append((CARD, _("the model's card, written from the record")))
    tag = _("Their commit gets the tag {tag}. Nothing was sent.").format(tag=policy.revision)
    return said + table((_("File"), _("Size")), rows) + paragraph(tag, "quiet")


def data_preview(db: Database, data_dir: Path, asked: PushData) -> str:
    """How much would go where, and who is named. Raises UserError for a form that can't be meant, and for lost data."""
    asked.check()
    of_annotators = True
    if asked.run is None:
        rows = export_files.count(data_dir, ExportRequest(asked.format, names=asked.names))["rows"]
    else:
        frozen = Snapshot(job_store.get(db, asked.run), asked.repo, asked.names)
        rows = push_dataset.split_sizes(data_dir, frozen)
        of_annotators = names_annotators(frozen.unit)
    total = sum(rows.values())
    if not total:
        return status(_("Nothing would go to the dataset {repo}: there are no such rows.").format(repo=asked.repo))
    if asked.private:
        into = ngettext(
            "{total:,} row ({parts}) would go to the dataset {repo}, made as a private one if it is not there.",
            "{total:,} rows ({parts}) would go to the dataset {repo}, made as a private one if it is not there.",
            total,
        )
    else:
        into = ngettext(
            "{total:,} row ({parts}) would go to the dataset {repo}, made as a public one if it is not there.",
            "{total:,} rows ({parts}) would go to the dataset {repo}, made as a public one if it is not there.",
            total,
        )
    parts = export_files.parts_of(rows)
    named = _("Annotators are named in it.") if asked.names else _("Annotators have pseudonyms in it.")
    rest = [named, _("Nothing was sent.")] if of_annotators else [_("Nothing was sent.")]
    return status(into.format(total=total, parts=parts, repo=asked.repo)) + paragraph(joined(*rest), "quiet")


def space_preview(asked: CheckSpace) -> str:
    """What a Space would be made of, with which settings, and what would fail as far as can be seen from here."""
    asked.check()
    plan = asked.plan(None)
    found = space_upload.check(plan, None)
    files = len(space_upload.contents(plan))
    into = ngettext(
        "{files} file of the program would go to the private Space {repo}. Nothing was sent.",
        "{files} files of the program would go to the private Space {repo}. Nothing was sent.",
        files,
    )
    if plan.public:
        into = ngettext(
            "{files} file of the program would go to the public Space {repo}. Nothing was sent.",
            "{files} files of the program would go to the public Space {repo}. Nothing was sent.",
            files,
        )
    said = status(into.format(files=files, repo=plan.repo))
    settings = [*plan.variables.items(), (_("Hardware"), plan.hardware or space_upload.FREE)]
    return said + table((_("Setting"), _("Value")), settings) + findings_table(found)


# How bad what a check of a Space found is, the worst first, with its colour.
LEVELS: Mapping[str, Chip] = {
    "error": Chip(N_("error"), "bad"),
    "warning": Chip(N_("warning"), "open"),
    "note": Chip(N_("hint")),
}


def findings_table(found: Sequence[SpaceFinding]) -> str:
    """What a check of a Space found, what must be mended first."""
    rows = [
        (Chip(_(chip.words), chip.state), one.text)
        for level, chip in LEVELS.items()
        for one in found
        if one.level == level
    ]
    return table((_("Severity"), _("What the check found")), rows)


def copies_preview(schedule: Schedule) -> str:
    each = _("Database and serving adapters are then copied {every} after a change, sooner after {after} judgements.")
    return paragraph(each.format(every=duration(schedule.every), after=schedule.after))
