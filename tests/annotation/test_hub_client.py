"""The Hub's client: every trouble becomes one sentence that says what to do, and nothing is half done."""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path

import pytest
import yaml

from annotation import hub_client as hubs
from annotation.hub_client import Conflict
from annotation.records import UserError
from annotation.translation import _, kept, retold
from tests.fakes.hub_server import HubServer

FILES = {"README.md": b"---\nlicense: mit\n---\n# A model", "weights.safetensors": b"\0" * 2000}


def connected(hub: HubServer, token: str | None = "hf_write_ann") -> hubs.Hub:
    """A client of the Hub with this token."""
    return hubs.connect(token, hub.url)


def made(hub: HubServer, repo: str = "ann/x") -> hubs.Hub:
    """A client of a Hub with an empty repository."""
    client = connected(hub)
    hubs.ensure_repo(client, repo, "model", private=True)
    return client


# -------------------------------------------------------------------------------------------------------------- tokens
def test_a_token_says_whose_it_is(hub: HubServer) -> None:
    hub.organisations = {"ann": {"kitchen": "write"}}
    who = hubs.check_token(connected(hub), "kitchen/x")
    assert (who.name, who.role, who.organisations) == ("ann", "write", ("kitchen",))


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        (None, "No token for the Hub is set. Make one that may write on .* and set the variable HF_TOKEN"),
        ("hf_read_ann", "The token is ann's and may only read. Make one that may write"),
        (
            "hf_expired",
            "does not accept the token: it is wrong, has expired or was withdrawn. Make a new one.* started again",
        ),
        ("hf_write_bob", "The token is bob's, who has no right to write to ann/x. Use bob/…"),
    ],
)
def test_a_token_of_no_use_is_refused_before_anything_is_sent(hub: HubServer, token: str | None, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        hubs.check_token(connected(hub, token), "ann/x")
    assert token is None or token not in str(caught.value)
    assert all(path == "/api/whoami-v2" for _, path, _ in hub.requests)


@pytest.mark.parametrize("token", ["hf_read_ann", "hf_write_bob"])
def test_who_may_not_write_changes_nothing(hub: HubServer, token: str) -> None:
    made(hub)
    hub.repos["model", "ann/x"].private = False
    before = hub.repos["model", "ann/x"].head
    with pytest.raises(UserError, match="The token has no right to do that"):
        hubs.commit(connected(hub, token), "ann/x", "model", FILES, "not mine")
    assert hub.repos["model", "ann/x"].head == before


def test_nothing_that_looks_like_a_token_is_shown() -> None:
    with pytest.raises(UserError) as caught, hubs.explained("Reading hf_abcdefghijklmnop failed."):
        raise OSError("no way for hf_abcdefghijklmnop")
    assert str(caught.value) == "Reading [token] failed. no way for [token]."
    assert "hf_write" not in repr(hubs.connect("hf_write_ann", "http://localhost"))


# --------------------------------------------------------------------------------------------------------------- names
@pytest.mark.parametrize(
    "name",
    ["", "x", "a/b/c", "a b/c", "-a/b", "a/b-", "a/.b", "a/b--c", "a/b..c", "a/b.git", "a/" + "b" * 99, "a/ü", "../a"],
)
def test_a_malformed_name_is_refused_without_asking(name: str) -> None:
    with pytest.raises(UserError, match="can't be the name of a repository" if name else "^Name the repository"):
        hubs.check_name(name)


def test_a_revision_is_told_from_a_name() -> None:
    assert hubs.split_address("ann/x") == ("ann/x", None)
    assert hubs.split_address("ann/x@dpo-7") == ("ann/x", "dpo-7")
    with pytest.raises(UserError, match="can't be a revision"):
        hubs.split_address("ann/x@a b")


def test_who_sees_a_repository_is_not_changed_in_passing(hub: HubServer) -> None:
    client = made(hub)
    hubs.ensure_repo(client, "ann/x", "model", private=True)
    with pytest.raises(UserError, match="ann/x is there and private, and this was to be public"):
        hubs.ensure_repo(client, "ann/x", "model", private=False)
    assert hub.repos["model", "ann/x"].private


# ------------------------------------------------------------------------------------------------------------- commits
def test_a_commit_on_what_somebody_else_has_changed_is_a_conflict(hub: HubServer) -> None:
    client = made(hub)
    first = hubs.commit(client, "ann/x", "model", FILES, "one")
    hubs.commit(client, "ann/x", "model", {"more": b"1"}, "two", parent=first)
    with pytest.raises(Conflict, match="Somebody else has changed the repository meanwhile"):
        hubs.commit(client, "ann/x", "model", {"more": b"2"}, "three", parent=first)
    assert hub.file("model", "ann/x", "more") == b"1"


def test_files_go_and_come_in_one_commit(hub: HubServer) -> None:
    client = made(hub)
    hubs.commit(client, "ann/x", "model", FILES, "one")
    commits = len(hub.repos["model", "ann/x"].commits)
    hubs.commit(client, "ann/x", "model", {"new": b"1"}, "two", gone=["weights.safetensors"])
    assert set(hub.files("model", "ann/x")) == {"README.md", "new"}
    assert len(hub.repos["model", "ann/x"].commits) == commits + 1


@pytest.mark.parametrize(
    ("what", "headers", "sentence"),
    [
        (402, {}, "The Hub asks for payment"),
        (404, {}, "There is no such repository, or the token may not see it"),
        (409, {}, "There is something of that name already"),
        (429, {"RateLimit": '"api";r=0;t=55'}, "rate limit is reached. Repeat it in 55 seconds."),
        (429, {"Retry-After": "7"}, "rate limit is reached. Repeat it in 7 seconds."),
        (429, {}, "rate limit is reached. Repeat it later."),
        (429, {"Retry-After": "9" * 5000}, "rate limit is reached. Repeat it later."),
        (503, {}, r"The Hub has trouble of its own \(status 503\). Repeat it later."),
        ("cut", {}, "The connection to the Hub could not be made or was lost"),
        ("cut-after", {}, "The connection to the Hub could not be made or was lost"),
    ],
)
def test_a_refused_commit_has_a_sentence(
    hub: HubServer, what: int | str, headers: dict[str, str], sentence: str
) -> None:
    client = made(hub)
    hub.fail("POST", "/commit/main", what, headers=headers)
    with pytest.raises(UserError, match=sentence):
        hubs.commit(client, "ann/x", "model", {"a": b"1"}, "one")
    assert ("a" in hub.files("model", "ann/x")) == (what == "cut-after")


def test_a_card_that_the_hub_does_not_take_says_why(hub: HubServer) -> None:
    with pytest.raises(UserError, match="license"):
        hubs.commit(made(hub), "ann/x", "model", {"README.md": b"---\nlicense: nope\n---\n"}, "one")


def test_a_hub_that_is_not_there_has_a_sentence() -> None:
    with pytest.raises(UserError, match="The connection to the Hub could not be made or was lost"):
        hubs.ensure_repo(hubs.connect("hf_write_ann", "http://127.0.0.1:1"), "ann/x", "model", private=True)


def test_a_failure_and_its_reason_are_kept_as_sentences_that_another_language_can_tell() -> None:
    failed = _("Uploading to {repo} failed.")
    with pytest.raises(UserError) as caught, hubs.explained(failed, repo="ann/model"):
        raise OSError(errno.ENOSPC, "")
    said = str(caught.value)
    assert said == "Uploading to ann/model failed. The disk is full. Free some space, then repeat it."
    stored = kept(said)
    assert json.loads(stored)["with"]["sentence_0"] == {"said": [failed], "with": {"repo": "ann/model"}}
    assert retold(stored) == said


def test_a_full_disk_has_a_sentence() -> None:
    with (
        pytest.raises(UserError, match=r"Fetching it failed\. The disk is full"),
        hubs.explained("Fetching it failed."),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_private_repository_is_not_there_for_others(hub: HubServer) -> None:
    made(hub)
    for token in (None, "hf_write_bob"):
        with (
            pytest.raises(UserError, match="There is no such repository, or the token may not see it"),
            hubs.explained("Reading failed."),
        ):
            connected(hub, token).api.repo_info("ann/x")


def test_the_head_of_any_card_can_be_read() -> None:
    assert hubs.front_matter("---\nlicense: mit\n---\ntext") == {"license": "mit"}
    odd = ("!!int ''", "!!bool x", "!!timestamp x", "!!float '-'", "!!timestamp 2001-13-01", "!!python/object:os.f x")
    for text in ("", "text", "---\n- a\n---\n", "---\na: [\n---\n", *(f"---\na: {value}\n---\n" for value in odd)):
        assert hubs.front_matter(text) == {}


@pytest.mark.skipif(not hasattr(yaml, "CSafeLoader"), reason="yaml is without libyaml")
def test_the_head_of_a_card_is_read_by_libyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long one took a minute without."""
    monkeypatch.setattr(yaml, "SafeLoader", lambda text: pytest.fail("read without"))
    assert hubs.front_matter("---\na: [1, {b: c}]\n---\n") == {"a": [1, {"b": "c"}]}


def test_a_card_is_read_no_further_than_any_card_goes(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_bytes(b"---\nlicense: mit\n---\n" + b"\xff" * hubs.MAXIMUM_CARD)
    assert hubs.card_head(card) == {"license": "mit"}
    card.write_bytes(b"---\n" + b"#" * hubs.MAXIMUM_CARD + b"\nlicense: mit\n---\n")
    assert hubs.card_head(card) == {}


def test_what_may_be_gone_soon_is_known_through_every_sentence_about_it(hub: HubServer) -> None:
    def asked(status: int) -> UserError:
        hub.fail("GET", "/api/whoami", status)
        try:
            try:
                hubs.check_token(hubs.connect(f"hf_write_ann_{status}", hub.url))
            except UserError as error:
                raise UserError(f"There is no model. {error}") from error
        except UserError as error:
            return error
        raise AssertionError("it was not refused")

    assert hubs.is_passing(asked(503))
    assert hubs.is_passing(asked(429))
    assert not hubs.is_passing(asked(403))
    assert not hubs.is_passing(UserError("of our own"))


def test_the_clients_own_warnings_do_not_stand_before_our_sentence(
    hub: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = made(hub)
    logger = logging.getLogger("huggingface_hub")
    logger.addHandler(caplog.handler)  # it passes nothing on
    try:
        for _ in range(2):
            hubs.commit(client, "ann/x", "model", FILES, "the same")
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.messages == []
