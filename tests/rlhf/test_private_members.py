"""The libraries still ask the private members that we put in the place of theirs or set, and have those that we ask."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch
from accelerate.state import AcceleratorState
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedConfig, Trainer
from trl import DPOTrainer, RewardTrainer, SFTTrainer

from rlhf import private_members
from tests.machine_fixtures import ROOT
from tests.syntax_trees import nodes_of


@dataclass(frozen=True)
class PrivateDependency:
    """A private member of a library's class that is put in place, set or called there, and where the class asks it."""

    owner: type
    member: str
    caller: str
    otherwise: str
    """What would happen if the library no longer asked it."""


TOKENISES = "it tokenises the rows once more, and gives answers that were cut off an end that they never had"
RELIED_ON = (
    PrivateDependency(SFTTrainer, "_prepare_dataset", "__init__", TOKENISES),
    PrivateDependency(RewardTrainer, "_prepare_dataset", "__init__", TOKENISES),
    PrivateDependency(DPOTrainer, "_prepare_dataset", "__init__", TOKENISES),
    PrivateDependency(
        DPOTrainer,
        "_precompute_ref_logps",
        "__init__",
        "it computes the reference in its constructor, before the parent's weights are in the adapter, and keeps it in "
        "a file that further processes can't find",
    ),
    PrivateDependency(
        Trainer,
        "_load_from_checkpoint",
        "train",
        "it looks for files of its own in a checkpoint, finds none, and no run can go on",
    ),
    PrivateDependency(
        BaseTunerLayer,
        "_disable_adapters",
        "disable_adapters",
        "a reference without an adapter is no longer the base, but whichever adapter was last in use",
    ),
    PrivateDependency(
        BaseTunerLayer,
        "_active_adapter",
        "active_adapter",
        "policy, reward model and critic on one base all compute with one adapter",
    ),
    PrivateDependency(
        AcceleratorState,
        "_shared_state",
        "_reset_state",
        "a job can't compute in another precision than the one before it in its process",
    ),
)


@dataclass(frozen=True)
class PrivateMember:
    """A private member of a library that is asked there."""

    owner: Any
    member: str
    otherwise: str
    """What is to be asked in its place."""


ASKED = (
    PrivateMember(PreTrainedConfig, "_attn_implementation", "how a loaded model computes attention"),
    PrivateMember(torch.cpu, "_is_avx512_bf16_supported", "whether the processor computes in bfloat16"),
    PrivateMember(torch.cpu, "_is_amx_tile_supported", "whether the processor computes in bfloat16"),
    PrivateMember(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", "whether oneDNN multiplies in bfloat16"),
    PrivateMember(torch.ops.mkldnn, "_reorder_linear_weight", "weights in blocks, or no layer is laid out"),
    PrivateMember(torch.ops.mkldnn, "_linear_pointwise", "a layer of weights in blocks, or no layer is laid out"),
    PrivateMember(torch.nn.modules.dropout, "_DropoutNd", "every kind of dropout"),
)


def asked_by(owner: type, caller: str) -> set[str]:
    """The members of its own object or class that a method's or a property's source asks; none where it is gone."""
    found = inspect.getattr_static(owner, caller, None)
    function = getattr(found, "fget", None) or getattr(found, "__func__", found)
    tree = ast.parse("" if function is None else textwrap.dedent(inspect.getsource(function)))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("self", owner.__name__)
    }


@pytest.mark.parametrize("dependency", RELIED_ON, ids=lambda one: f"{one.owner.__name__}.{one.member}")
def test_the_libraries_still_ask_what_we_put_in_place_of_theirs_or_set(dependency: PrivateDependency) -> None:
    owner = dependency.owner
    library = owner.__module__.partition(".")[0]
    assert dependency.member in asked_by(owner, dependency.caller), (
        f"{library} {version(library)} is not the version that rlhf/private_members.py was written for: "
        f"there {owner.__name__}.{dependency.caller} asks {dependency.member}. Where it does not, "
        f"{dependency.otherwise}. Find what it asks now, put that in its place there, and change RELIED_ON; until then "
        "hold requirements.txt to the version before."
    )


@pytest.mark.parametrize("asked", ASKED, ids=lambda one: one.member)
def test_the_libraries_still_have_what_is_asked(asked: PrivateMember) -> None:
    assert hasattr(asked.owner, asked.member), (
        f"torch {version('torch')} with transformers {version('transformers')} has no {asked.member}, which "
        f"rlhf/private_members.py asks. Find what says there: {asked.otherwise}; until then hold requirements.txt to "
        "the versions before."
    )


def private(name: str) -> bool:
    """Whether a name is a private one."""
    return name.startswith("_") and not name.startswith("__")


def test_the_table_names_every_private_member_that_is_used_and_no_other() -> None:
    known = [{one.member, one.caller} for one in RELIED_ON] + [{one.member} for one in ASKED]
    nodes = nodes_of(Path(private_members.__file__))
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute) and private(node.attr)}
    used |= {node.name for node in nodes if isinstance(node, ast.FunctionDef) and private(node.name)}
    assert used <= set().union(*known)
    assert [names for names in known if not names & used] == []


@dataclass(frozen=True)
class PageMember:
    """A private member of Gradio's that one module of the pages asks."""

    place: str
    asked: str
    """As it stands there."""
    owner: Callable[[], object]
    otherwise: str


PAGES_ASK = (
    PageMember(
        "annotation/tabs/guard.py",
        "event._data",
        lambda: gr.EventData(None, {}),
        "all that a press says, to be checked as it comes: attributes of an event are read of a dict only",
    ),
    PageMember(
        "annotation/tabs/address.py",
        "child._id",
        lambda: gr.Tabs(render=False),
        "the number of a page's tabs, by which its script knows which of them was opened",
    ),
    PageMember(
        "rlhf/tabs/pages.py",
        "pages._queue",
        gr.Blocks,
        "how long the queue of a page sleeps while nothing was pressed, a thousandth of a second by itself",
    ),
)


@pytest.mark.parametrize("one", PAGES_ASK, ids=lambda one: one.asked)
def test_gradio_still_has_what_pages_ask(one: PageMember) -> None:
    name = one.asked.rpartition(".")[2]
    assert hasattr(one.owner(), name), (
        f"gradio {version('gradio')} has no {name}, which {one.place} asks. Find what says there: {one.otherwise}; "
        "until then hold requirements.txt to the version before."
    )


def test_private_members_of_libraries_are_asked_in_one_module_each() -> None:
    """But for how Python itself ends a fork."""
    nodes = [
        (path.relative_to(ROOT).as_posix(), node)
        for package in ("annotation", "rlhf")
        for path in (ROOT / package).rglob("*.py")
        if path != Path(private_members.__file__)
        for node in nodes_of(path)
    ]
    found = {
        (place, asked)
        for place, node in nodes
        if isinstance(node, ast.Attribute) and private(node.attr) and (asked := ast.unparse(node)) != "os._exit"
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    }
    assert found == {(one.place, one.asked) for one in PAGES_ASK}
    assert [
        f"{place}:{node.lineno} {node.module}"
        for place, node in nodes
        if isinstance(node, ast.ImportFrom) and any(map(private, (node.module or "").split(".")))
    ] == []
