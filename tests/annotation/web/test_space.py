"""A Space: what its environment means, who may do what there, and what would be uploaded."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import SpaceCard
from packaging.requirements import Requirement
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

import app
from annotation.records import UserError
from annotation.web.space import PROXIES, SPACE_MODEL, ZERO_GPU_NOTICE, HubUser, Space
from rlhf.hub import space_upload
from rlhf.hub.space_upload import SpacePlan
from tests.machine_fixtures import ROOT

ENVIRONMENT = {
    "SYSTEM": "spaces",
    "SPACE_ID": "ann/loop",
    "SPACE_HOST": "ann-loop.hf.space,judge.example.org",
    "SPACE_AUTHOR_NAME": "ann",
    "SPACE_CREATOR_USER_ID": "id-ann",
    "OPENID_PROVIDER_URL": "https://huggingface.co",
}
ANN, BOB = HubUser("id-ann", "ann"), HubUser("id-bob", "Bob", ("lab",))
PLAN = SpacePlan("ann/loop")


def space(**changes: str) -> Space:
    found = Space.from_environment({**ENVIRONMENT, **changes})
    assert found is not None
    return found


# --------------------------------------------------------------------------------------------------------- environment
def test_only_a_space_is_a_space() -> None:
    assert Space.from_environment({}) is None
    assert Space.from_environment({**ENVIRONMENT, "SYSTEM": ""}) is None
    assert Space.from_environment({"SYSTEM": "spaces"}) is None
    with pytest.raises(UserError, match="SPACE_HOST is not set"):
        Space.from_environment({"SYSTEM": "spaces", "SPACE_ID": "ann/loop"})


def test_addresses() -> None:
    assert (space().address, space().secure) == ("https://ann-loop.hf.space/", True)
    assert space().hosts == ("ann-loop.hf.space", "judge.example.org")
    assert space().framed_by == "https://huggingface.co"
    here = space(SPACE_HOST="127.0.0.1:7860", OPENID_PROVIDER_URL="http://127.0.0.1:99/x")
    assert (here.address, here.secure) == ("http://127.0.0.1:7860/", False)
    assert here.framed_by == "http://127.0.0.1:99"


def test_the_program_finds_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = app.read_settings([])
    assert (usual.host, usual.space, usual.model) == ("127.0.0.1", None, "embedded")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    there = app.read_settings([])
    assert (there.host, there.port, there.model) == ("0.0.0.0", 7860, SPACE_MODEL)
    assert not there.open_browser
    assert not there.on_loopback
    assert not app.read_settings(["--host", "127.0.0.1"]).on_loopback  # a proxy may be on this machine too
    monkeypatch.setenv("PREFLOOP_MODEL", "some/model")
    assert app.read_settings([]).model == "some/model"


def test_gradios_own_variables_say_where_a_space_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"GRADIO_SERVER_NAME": "0.0.0.1", "GRADIO_SERVER_PORT": "7000"}.items():
        monkeypatch.setenv(name, value)
    off = app.read_settings([])
    assert (off.host, off.port) == ("127.0.0.1", 7860), "elsewhere they are another program's"
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    there = app.read_settings([])
    assert (there.host, there.port) == ("0.0.0.1", 7000)
    monkeypatch.setenv("PREFLOOP_PORT", "7001")
    monkeypatch.setenv("PREFLOOP_HOST", "0.0.0.2")
    ours = app.read_settings([])
    assert (ours.host, ours.port) == ("0.0.0.2", 7001)


def test_zero_gpu_is_detected() -> None:
    assert not space().zero_gpu
    assert space(SPACES_ZERO_GPU="true").zero_gpu


def test_only_private_networks_are_proxies() -> None:
    """Behind them the right-most foreign address counts, which the proxy wrote and not the visitor."""
    seen: list[Any] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["scheme"], scope["client"][0]))

    said = [(b"x-forwarded-for", b"6.6.6.6, 203.0.113.7, 10.20.9.9"), (b"x-forwarded-proto", b"https")]
    server = ProxyHeadersMiddleware(page, trusted_hosts=list(PROXIES))  # type: ignore[arg-type]
    for peer in ("10.20.3.4", "203.0.113.9", "127.0.0.1"):
        scope = {"type": "http", "scheme": "http", "client": (peer, 1), "headers": said}
        asyncio.run(server(scope, None, None))  # type: ignore[arg-type]
    assert seen == [("https", "203.0.113.7"), ("http", "203.0.113.9"), ("http", "127.0.0.1")]


# --------------------------------------------------------------------------------------------------------------- rules
def test_roles() -> None:
    assert [space().role_of(user) for user in (ANN, BOB)] == ["admin", "annotator"]
    lab = space(SPACE_AUTHOR_NAME="lab")
    assert lab.role_of(replace(ANN, organisations=("Lab",))) == "admin"  # she made it for her organisation
    assert lab.role_of(replace(ANN, organisations=("other",))) == "annotator"  # and has left it since
    assert space(SPACE_AUTHOR_NAME="bob").role_of(ANN) == "annotator"  # it was given away
    assert space(SPACE_CREATOR_USER_ID="").role_of(HubUser("id-9", "ANN")) == "admin"
    closed = space(PREFLOOP_ANNOTATORS="nobody")
    assert [closed.role_of(user) for user in (ANN, BOB)] == ["admin", None]
    lab = space(SPACE_AUTHOR_NAME="lab", SPACE_CREATOR_USER_ID="id-x", PREFLOOP_ADMINS="org", PREFLOOP_ANNOTATORS="org")
    assert [lab.role_of(user) for user in (ANN, BOB)] == [None, "admin"]
    listed = space(PREFLOOP_ADMINS=" bob , eva ", PREFLOOP_ANNOTATORS="fay")
    assert [listed.role_of(user) for user in (ANN, BOB)] == [None, "admin"]


@pytest.mark.parametrize("rule", ["everybody", "nobody", ",", "a,,b", "owner,bob", "<b>", "-bob", "bob,org"])
def test_rules_that_mean_nothing(rule: str) -> None:
    with pytest.raises(UserError, match=r"PREFLOOP_ADMINS is '.*' can't stand"):
        space(PREFLOOP_ADMINS=rule)


# --------------------------------------------------------------------------------------------------------- what goes up
def test_only_the_program_goes_up(tmp_path: Path) -> None:
    found = {path.as_posix() for path in space_upload.files()}
    assert {
        "app.py",
        "LICENSE",
        "annotation/web/middleware.py",
        "annotation/tabs/annotate.js",
        "rlhf/workers/worker.py",
    } <= found
    assert "annotation/starter_prompts.jsonl" in found
    assert not [path for path in found if not re.match(r"app\.py|LICENSE|annotation/|rlhf/", path)]
    assert not [path for path in found if "__pycache__" in path or "/." in path]
    for name in ("app.py", "LICENSE", "annotation/a.py", "rlhf/b.py", "rlhf/prefloop.db", "rlhf/.env", "data/x.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [path.as_posix() for path in space_upload.files(tmp_path)] == [
        "app.py",
        "LICENSE",
        "annotation/a.py",
        "rlhf/b.py",
    ]


def test_the_front_matter() -> None:
    from importlib.metadata import version

    data = SpaceCard(space_upload.readme(PLAN)).data.to_dict()
    assert (data["sdk"], data["sdk_version"], data["app_file"]) == ("gradio", version("gradio"), "app.py")
    assert data["hf_oauth"] is True
    assert data["python_version"] == "3.12"
    assert "hf_oauth_scopes" not in data
    assert data["preload_from_hub"] == [SPACE_MODEL]
    assert len(data["short_description"]) <= 60
    lab = SpaceCard(space_upload.readme(replace(PLAN, repo="lab/loop", admins="org"))).data.to_dict()
    assert lab["hf_oauth_scopes"] == ["read-memberships"]
    owned = SpaceCard(space_upload.readme(replace(PLAN, repo="lab/loop", organisation=True))).data.to_dict()
    assert owned["hf_oauth_scopes"] == ["read-memberships"]
    assert (
        SpaceCard(space_upload.readme(replace(PLAN, hardware="zero-a10g"))).data.to_dict()["python_version"]
        == "3.12.12"
    )


def test_requirements_fit_the_hardware() -> None:
    text = (ROOT / "requirements.txt").read_text("utf-8")
    free, paid, lent = (
        space_upload.requirements(replace(PLAN, hardware=flavor), text).splitlines()
        for flavor in ("", "t4-small", "zero-a10g")
    )
    assert free[0] == space_upload.CPU_TORCH
    assert free[1:] == paid
    torch = next(line for line in text.splitlines() if line.startswith("torch=="))
    assert torch in paid
    assert torch not in lent
    assert space_upload.ZERO_TORCH in lent
    # A Space that rents other hardware has only the requirements of its own.
    assert space_upload.requirements(replace(PLAN, hardware="t4-small"), "\n".join(free)).splitlines() == paid
    names = {Requirement(line).name for line in paid}
    assert "gradio" not in names
    wanted = {Requirement(line).name for line in space_upload.requirement_lines(text)}
    assert names == wanted - {"gradio"}


# ------------------------------------------------------------------------------------------------------ what would fail
def problems(plan: SpacePlan, root: Path = ROOT) -> list[str]:
    return [finding.text for finding in space_upload.check(plan, None, root) if finding.level == "error"]


def test_a_sound_plan_has_no_errors() -> None:
    assert problems(PLAN) == []
    assert problems(replace(PLAN, copies="ann/copies", hardware="zero-a10g")) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"repo": "loop"}, "'loop' can't be the name of a repository"),
        ({"repo": "ann/lo op"}, "can't be the name of a repository"),
        ({"admins": "everybody"}, "PREFLOOP_ADMINS is 'everybody'"),
        ({"annotators": "a b"}, "PREFLOOP_ANNOTATORS is 'a b'"),
        ({"model": "embedded"}, "The model 'embedded' is on this machine only"),
        ({"model": "/"}, "is on this machine only"),
        ({"copies": "ann/loop"}, "can't have the Space's own name"),
    ],
)
def test_a_plan_that_would_fail(changes: dict[str, str], words: str) -> None:
    (problem,) = problems(replace(PLAN, **changes))  # type: ignore[arg-type]
    assert words in problem


def test_files_that_should_not_go_up(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(f"TOKEN = 'hf_{'a1B2' * 9}'")
    (tmp_path / "annotation").mkdir()
    (tmp_path / "annotation" / "big.jsonl").write_bytes(b"x" * 10_000_001)
    (tmp_path / "requirements.txt").write_text("gradio>=7\n")
    found = " ".join(problems(PLAN, tmp_path))
    assert "app.py holds what looks like a token" in found
    assert "LICENSE is missing" in found
    assert "annotation/big.jsonl has 10 MB" in found
    assert "requirements.txt has gradio>=7" in found
    assert "a1B2" not in found


def test_what_a_plan_warns_of() -> None:
    def warnings(plan: SpacePlan) -> str:
        return " ".join(finding.text for finding in space_upload.check(plan, None) if finding.level == "warning")

    assert "disk is empty after each restart" in warnings(PLAN)
    assert warnings(replace(PLAN, copies="ann/copies", public=True)) == ""
    assert "training there has only the processors" in warnings(replace(PLAN, copies="/data", hardware="zero-a10g"))


def test_the_notice_of_zero_gpu_names_the_section_of_a_form_that_trains_elsewhere() -> None:
    section = "On rented hardware"
    assert f"“{section}”" in ZERO_GPU_NOTICE
    assert f'gr.Accordion(_("{section}")' in (ROOT / "rlhf/tabs/train/rental_form.py").read_text("utf-8")
