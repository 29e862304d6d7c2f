"""Dataset directories: which files hold which split, told by their names or the card; none leads out of the directory.

A directory may be somebody else's: a clone, a download. What its README or state files name is matched against the
files that are there, and never opened as a path or an address.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Final

from annotation import hub_client
from annotation.hub_client import MAXIMUM_CARD
from annotation.imports.printable import display_name, listed
from annotation.imports.sources.byte_stream import ending
from annotation.imports.sources.file_formats import data_endings
from annotation.records import UserError, explain_errors
from annotation.translation import _, joined

# What describes a dataset rather than being its data.
DESCRIPTIONS: Final = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"}
SPLIT_WORDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "dev", "val"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
SHARD: Final = re.compile(r"data/([\w.-]+?)-\d{5}-of-\d{5}[^/]*")
MAXIMUM_FILES: Final = 10_000


@dataclass(frozen=True)
class SplitFiles:
    """The data files of a directory by split, and those that belong to none."""

    files: Mapping[str, Sequence[Path]]
    unread: Sequence[str] = ()


# ------------------------------------------------------------------------------------------------------------ finding
def find_splits(directory: Path, config: str | None) -> SplitFiles:
    """The data files that a directory's card or their own names put into splits. Raises UserError.

    `config` is one of those that the card has; without it the default one.
    """
    name = display_name(directory.name)
    there = files_in(directory)
    data = [path for path in there if is_data(path)]
    told = chosen_config(name, configs_of(directory), config)
    if told.get("data_dir"):
        inside = plain(name, told["data_dir"]).rstrip("/") + "/"
        data = [path for path in data if path.startswith(inside)]
    if told.get("data_files"):
        found = splits_told(name, told["data_files"], told.get("data_dir"), there)
    else:
        found = splits_by_name(one_format(data))
    read = {path for paths in found.values() for path in paths}
    if not read:
        said = _(
            "The directory {name} holds no dataset: none of its files is of a format that is read "
            "({data_endings}; text also packed as .gz)."
        )
        raise UserError(said.format(name=name, data_endings=", ".join(data_endings())))
    files = {split: [inside_of(directory, path, name) for path in paths] for split, paths in found.items()}
    return SplitFiles(files, tuple(path for path in data if path not in read))


def files_in(directory: Path) -> list[str]:
    """The files below a directory, sorted, relative to it; hidden ones and links to directories are passed over."""
    found: list[str] = []
    for above, below, names in os.walk(directory):
        below[:] = [one for one in below if not hidden(one)]
        place = Path(above).relative_to(directory)
        found += [(place / name).as_posix() for name in names if not hidden(name)]
        if len(found) > MAXIMUM_FILES:
            said = _("The directory {display_name} holds more than {maximum_files:,} files.")
            raise UserError(said.format(display_name=display_name(directory.name), maximum_files=MAXIMUM_FILES))
    return sorted(found)


def hidden(name: str) -> bool:
    """Whether a file or directory is not meant to be data."""
    return name.startswith((".", "__"))


def is_data(path: str) -> bool:
    """Whether a file can hold rows, by its name."""
    return ending(path) in data_endings() and PurePosixPath(path).name not in DESCRIPTIONS


def one_format(data: Sequence[str]) -> list[str]:
    """The files of the format that there is most of, as `datasets` reads a directory without a card."""
    endings = Counter(ending(path) for path in data)
    most = endings.most_common(1)[0][0] if endings else ""
    return [path for path in data if ending(path) == most]


def splits_by_name(data: Sequence[str]) -> dict[str, list[str]]:
    """Files by the split that their names have; where none has one, all are to train on."""
    found: dict[str, list[str]] = {}
    for path in data:
        split = split_named(path)
        if split:
            found.setdefault(split, []).append(path)
    return found or ({"train": list(data)} if data else {})


def split_named(path: str) -> str:
    """The split that a path names: as a shard, or as a word of it, the last one; empty if none."""
    shard = SHARD.fullmatch(path)
    if shard:
        return shard[1]
    words = re.split(r"[-._ 0-9/]+", path.lower())
    return next((SPLIT_WORDS[word] for word in reversed(words) if word in SPLIT_WORDS), "")


def choose_split(name: str, known: list[str], wanted: str | None) -> str:
    """The split to read. Raises UserError where it has to be chosen."""
    if wanted is None and len(known) == 1:
        return known[0]
    if wanted not in known:
        listed = ", ".join(f"'{display_name(split)}'" for split in known)
        problem = (
            _("{name} has several splits.").format(name=name)
            if wanted is None
            else _("{name} has no split '{split}'.").format(name=name, split=display_name(wanted))
        )
        choose = _("Choose one of {listed} under “Split to read”.").format(listed=listed)
        raise UserError(joined(problem, choose))
    return wanted


# ----------------------------------------------------------------------------------------------------------- the card
def configs_of(directory: Path) -> list[Mapping[str, Any]]:
    """The configurations in the card of a directory. What is no configuration is none."""
    told = hub_client.front_matter(text_in(directory, "README.md"))
    alone = text_in(directory, ".huggingface.yaml")
    if alone:
        told = {**told, **hub_client.front_matter(f"---\n{alone}\n---")}
    configs = told.get("configs")
    found = [one for one in configs if isinstance(one, dict)] if isinstance(configs, list) else []
    # No list is a name; and one whose parts are repeated by YAML's aliases would be gigabytes if it were written out.
    return [one for one in found if not isinstance(one.get("config_name"), list | dict | set)]


def text_in(directory: Path, name: str) -> str:
    """The beginning of a description in a directory; empty if there is none. Raises UserError if it leads outside."""
    if not os.path.lexists(directory / name):
        return ""
    path = inside_of(directory, name, display_name(directory.name))
    with path.open("rb") as file:
        return file.read(MAXIMUM_CARD).decode("utf-8-sig", "replace")


def chosen_config(name: str, configs: Sequence[Mapping[str, Any]], wanted: str | None) -> Mapping[str, Any]:
    """The configuration to read; none in a directory that has none. Raises UserError where it has to be chosen."""
    known = {str(one.get("config_name", "default")): one for one in configs}
    if wanted is not None:
        if not known:
            raise UserError(_("{name} has no configurations; leave “Configuration” empty.").format(name=name))
        if wanted not in known:
            said = _("{name} has no configuration '{display_name}'. There are: {listed}.")
            raise UserError(said.format(name=name, display_name=display_name(wanted), listed=listed(tuple(known))))
        return known[wanted]
    default = [one for key, one in known.items() if one.get("default") is True or key == "default"]
    if default or len(known) <= 1:
        return next(iter([*default, *known.values()]), {})
    said = _("{name} has several configurations. Choose one of {listed} under “Configuration”.")
    raise UserError(said.format(name=name, listed=listed(tuple(known))))


def splits_told(name: str, told: Any, data_dir: Any, there: Sequence[str]) -> dict[str, list[str]]:
    """The files by split that a configuration's `data_files` match. Raises UserError for what leads elsewhere."""
    found: dict[str, list[str]] = {}
    for split, pattern in patterns_in(name, told):
        before = f"{plain(name, data_dir).rstrip('/')}/" if data_dir else ""
        wanted = before + plain(name, pattern)
        parts = wanted.split("/")
        matching = [path for path in there if path == wanted or matches(path.split("/"), parts)]
        if not matching:
            said = _("The card of {name} names '{display_name}', and there is no such file in it.")
            raise UserError(said.format(name=name, display_name=display_name(pattern)))
        readable = [path for path in matching if is_data(path)]
        if not readable:
            raise UserError(
                _(
                    "The card of {name} names {display_name}, which is of no format that is read: "
                    "{data_endings}; text also packed as .gz."
                ).format(name=name, display_name=display_name(matching[0]), data_endings=", ".join(data_endings()))
            )
        kept = found.setdefault(split, [])
        kept += [path for path in readable if path not in kept]
    return found


def patterns_in(name: str, told: Any) -> Iterator[tuple[str, str]]:
    """Each split and pattern of a configuration's `data_files`, in any form of cards. Raises UserError."""
    for entry in told if isinstance(told, list) else [told]:
        split, patterns = (entry.get("split"), entry.get("path")) if isinstance(entry, dict) else ("train", entry)
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            if not isinstance(split, str) or not isinstance(pattern, str) or not pattern:
                said = _("The card of {name} has data_files that are no files of splits. Mend its README.md.")
                raise UserError(said.format(name=name))
            yield split, pattern


def plain(name: str, pattern: Any) -> str:
    """A path or pattern inside the directory, as it is. Raises UserError for any other."""
    if not isinstance(pattern, str):
        raise UserError(_("The card of {name} has a data_dir that is no path. Mend its README.md.").format(name=name))
    shown = display_name(pattern)
    parts = PurePosixPath(pattern).parts
    if "://" in pattern or "::" in pattern:
        said = _("The card of {name} names an address, {shown}. Only files inside the directory are read.")
        raise UserError(said.format(name=name, shown=shown))
    if pattern.startswith(("/", "~")) or "\\" in pattern or re.match(r"[A-Za-z]:", pattern) or ".." in parts:
        said = _("The card of {name} names {shown}, which leads out of the directory. Nothing was read.")
        raise UserError(said.format(name=name, shown=shown))
    return PurePosixPath(pattern).as_posix()


def matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path fit those of a pattern: ** stands for any directories, * and ? for what is in one."""
    place = wanted = begun = 0
    stars: int | None = None
    while place < len(path):
        if pattern[wanted : wanted + 1] == ["**"]:
            if wanted + 1 == len(pattern):
                return True
            stars, begun, wanted = wanted, place, wanted + 1
        elif wanted < len(pattern) and fnmatchcase(path[place], pattern[wanted]):
            place, wanted = place + 1, wanted + 1
        elif stars is not None:  # the last ** stands for one more: what is before it need not change for that
            begun += 1
            place, wanted = begun, stars + 1
        else:
            return False
    return wanted == len(pattern)


# ------------------------------------------------------------------------------------------------------ saved datasets
def saved_splits(directory: Path) -> dict[str, list[Path]] | None:
    """The Arrow files of a directory of `save_to_disk`, by split; None if it is none. Raises UserError."""
    name = display_name(directory.name)
    if (directory / "dataset_dict.json").exists():
        known = description(directory, "dataset_dict.json").get("splits")
        if not isinstance(known, list) or not all(isinstance(one, str) and one and is_plain(one) for one in known):
            said = _("The directory {name} can't be read as a dataset: its splits are no names.")
            raise UserError(said.format(name=name))
        return {split: arrow_files(directory, f"{split}/") for split in known}
    return {"": arrow_files(directory, "")} if (directory / "state.json").exists() else None


def arrow_files(directory: Path, place: str) -> list[Path]:
    """The files that a saved dataset's state names, in their order. Raises UserError."""
    name = display_name(directory.name)
    state = description(directory, f"{place}state.json")
    files = state.get("_data_files")
    named = [one.get("filename") if isinstance(one, dict) else None for one in files] if isinstance(files, list) else []
    if not named or not all(isinstance(one, str) and is_plain(one) for one in named):
        said = _("The directory {name} can't be read as a dataset: its state names no files inside it.")
        raise UserError(said.format(name=name))
    if state.get("_indices_data_files") or state.get("_indices_files"):
        said = _("The directory {name} was saved by too old a version of datasets. Load and save it again.")
        raise UserError(said.format(name=name))
    return [inside_of(directory, f"{place}{one}", name) for one in named]


def description(directory: Path, path: str) -> Mapping[str, Any]:
    """A JSON object that describes a saved dataset. Raises UserError."""
    name = display_name(directory.name)
    damaged = _("The directory {name} can't be read as a dataset: {path} is damaged ({error}).")
    with (
        explain_errors(damaged, ValueError, RecursionError, name=name, path=path),
        inside_of(directory, path, name).open("rb") as file,
    ):
        found = json.loads(file.read(MAXIMUM_CARD))
    if not isinstance(found, dict):
        said = _("The directory {name} can't be read as a dataset: {path} is no JSON object.")
        raise UserError(said.format(name=name, path=path))
    return found


def is_plain(name: str) -> bool:
    """Whether a name is that of a file in a directory, and no path."""
    return "/" not in name and "\\" not in name and name not in (".", "..")


# ------------------------------------------------------------------------------------------------------------- inside
def inside_of(directory: Path, path: str, name: str) -> Path:
    """A file of a directory. Raises UserError for a link that leads out of it, and for what is no ordinary file.

    Where the directory is a snapshot in the Hub's cache, its files are links to the blobs beside the snapshots.
    """
    root = directory.resolve()
    grounds = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    missing = _("{name} has no readable file {display_name} (or a link that leads nowhere).")
    with explain_errors(missing, RuntimeError, name=name, display_name=display_name(path)):
        found = (directory / path).resolve(strict=True)
    if not any(found.is_relative_to(ground) for ground in grounds):
        said = _(
            "{display_name} in {name} is a link that leads out of the directory. Put the file itself there "
            "if it belongs to the dataset. Nothing was read."
        )
        raise UserError(said.format(display_name=display_name(path), name=name))
    if not found.is_file():
        said = _("{display_name} in {name} is no ordinary file (a device or a pipe).")
        raise UserError(said.format(display_name=display_name(path), name=name))
    return directory / path
