"""Signing in with Hugging Face, against a Hub on loopback: who gets in, as what, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from annotation.database import Database
from annotation.records import UserError
from annotation.web import access, invitations
from annotation.web.access import LoginThrottle, RateLimit
from annotation.web.middleware import SignIn
from annotation.web.oauth import COOKIE, HubSignIn, Provider, read_user
from annotation.web.space import Space
from tests.fakes.hub_sign_in import SECRET, SpaceHub
from tests.machine_fixtures import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

PORT = 7860
PASSWORD = "a long enough password"


@dataclass(frozen=True)
class Door:
    """The routes that let people in, without the pages behind them."""

    hub: SpaceHub
    db: Database
    space: Space
    scopes: str = "openid profile"

    def browser(self) -> TestClient:
        """A browser that follows no link by itself."""
        environment = {**self.hub.space_environment(PORT), "OAUTH_SCOPES": self.scopes}
        provider = Provider.from_environment(environment, self.space)
        assert provider is not None
        sign_in = SignIn(self.db, "prefloop", self.space, hub=True)
        routes = [*sign_in.routes(), *HubSignIn(self.db, self.space, provider, sign_in).routes()]
        return TestClient(Starlette(routes=routes), base_url=self.space.address, follow_redirects=False)

    def come_back(self, browser: TestClient) -> str:
        """Go to the Hub and agree there; returns the address that the Hub sends the browser back to."""
        leaving = browser.get("/oauth/login")
        assert leaving.status_code == 303, leaving.text
        return httpx.get(leaving.headers["location"], timeout=PATIENCE_SECONDS).headers["location"]

    def sign_in(self, name: str) -> httpx.Response:
        """The whole way of one person."""
        self.hub.signing_in = name
        browser = self.browser()
        return browser.get(self.come_back(browser))

    def role_of(self, name: str) -> str | None:
        """The role somebody gets by signing in; None where they are not let in."""
        answer = self.sign_in(name)
        token = answer.cookies.get("prefloop")
        if token is None:
            assert answer.status_code == 403
            return None
        annotator = access.session_annotator(self.db, token)
        assert annotator is not None
        return annotator.role


@pytest.fixture
def hub() -> Iterator[SpaceHub]:
    with SpaceHub() as server:
        yield server


@pytest.fixture
def door(hub: SpaceHub, db: Database) -> Door:
    space = Space.from_environment(hub.space_environment(PORT))
    assert space is not None
    return Door(hub, db, space)


def text_of(answer: httpx.Response) -> str:
    """What the page says went wrong."""
    return answer.text.split('role="alert">')[1].split("<")[0].replace("&#x27;", "'")


def test_the_owner_is_admin_and_everybody_else_annotator(door: Door) -> None:
    assert door.role_of("ann") == "admin"
    assert door.role_of("cem") == "annotator"
    accounts = {account.name: account for account in access.accounts(door.db)}
    assert {"ann", "cem"} <= set(accounts)
    assert accounts["cem"].on_hub
    assert not accounts["cem"].has_password


def test_the_session_is_a_cookie_of_a_day_and_nothing_of_the_hubs_is_kept(door: Door) -> None:
    answer = door.sign_in("ann")
    session, gone = answer.headers.get_list("set-cookie")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert {"httponly", "max-age=86400", "samesite=lax"} <= set(session.lower().split("; "))
    assert gone.startswith(f'{COOKIE}="";')
    (token,) = door.hub.people
    files = door.db.path.parent.glob("prefloop.db*")
    assert not [path for path in files if token.encode() in path.read_bytes()]


def test_what_the_browser_is_sent_away_with(door: Door) -> None:
    leaving = door.browser().get("/oauth/login")
    asked = {key: values[0] for key, values in parse_qs(urlsplit(leaving.headers["location"]).query).items()}
    assert asked["redirect_uri"] == f"http://127.0.0.1:{PORT}/login/callback"
    assert asked["code_challenge_method"] == "S256"
    assert SECRET not in leaving.headers["location"]
    cookie = leaving.headers["set-cookie"].lower()
    assert "path=/login/callback" in cookie
    assert "httponly" in cookie
    on_the_hub = Door(door.hub, door.db, replace(door.space, hosts=("ann-loop.hf.space",)))
    leaving = on_the_hub.browser().get("/oauth/login")
    assert "secure" in leaving.headers["set-cookie"].lower()
    assert "redirect_uri=https%3A%2F%2Fann-loop.hf.space%2Flogin%2Fcallback" in leaving.headers["location"]


# --------------------------------------------------------------------------------------------------------------- rules
def test_members_of_the_organisation(door: Door) -> None:
    door.hub.organisations = {"ann": {"lab": "admin"}, "cem": {"lab": "read"}, "dan": {"other": "admin"}}
    space = replace(door.space, id="lab/loop", author="lab", creator_id="", admins="org", annotators="nobody")
    lab = Door(door.hub, door.db, space, "openid profile read-memberships")
    assert [lab.role_of(name) for name in ("ann", "cem", "dan")] == ["admin", "admin", None]


def test_an_organisation_is_known_by_its_name_and_not_by_what_it_calls_itself() -> None:
    told = {"sub": "id-eve", "preferred_username": "eve"}
    orgs = [{"name": "lab", "preferred_username": "evil"}, {"name": "lab"}]
    assert read_user({**told, "orgs": orgs}).organisations == ("evil",)


def test_whoever_made_a_space_is_admin_only_while_in_its_organisation(door: Door) -> None:
    space = replace(door.space, id="lab/loop", author="lab")
    lab = Door(door.hub, door.db, space, "openid profile read-memberships")
    door.hub.organisations = {"ann": {"lab": "admin"}}
    assert lab.role_of("ann") == "admin"
    door.hub.organisations = {}
    assert lab.role_of("ann") == "annotator"


def test_other_rules_end_the_sessions_and_invitations_of_hub_users_at_the_next_start(door: Door) -> None:
    access.add_account(door.db, "kim", "admin", PASSWORD)
    access.follow_rules(door.db, door.space.rules)
    on_hub = door.sign_in("cem").cookies["prefloop"]
    kim = access.check_password(door.db, "kim", PASSWORD)
    assert kim is not None
    local = access.open_session(door.db, kim)
    for name in ("cem", "kim"):
        invitations.invite(door.db, {}, name)
    access.follow_rules(door.db, door.space.rules)
    assert access.session_annotator(door.db, on_hub) is not None
    assert {one.state for one in invitations.invitations(door.db)} == {"open"}
    access.follow_rules(door.db, replace(door.space, annotators="nobody").rules)
    assert access.session_annotator(door.db, on_hub) is None
    assert access.session_annotator(door.db, local) == kim
    sent = {one.invited_by: one.state for one in invitations.invitations(door.db)}
    assert sent == {"cem": "withdrawn", "kim": "open"}, "who is on the Hub may be no admin any more"


def test_a_hub_users_account_takes_no_password(door: Door) -> None:
    door.sign_in("cem")
    with pytest.raises(UserError, match="'cem' signs in with Hugging Face and has no password here"):
        access.set_password(door.db, "cem", PASSWORD)
    assert access.check_password(door.db, "cem", PASSWORD) is None


def test_a_named_list_and_nobody_else(door: Door) -> None:
    named = replace(door, space=replace(door.space, admins="cem", annotators="Dan,eva"))
    assert [named.role_of(name) for name in ("ann", "cem", "dan", "fay")] == [None, "admin", "annotator", None]
    assert "fay is not among those who may take part here. Ask ann." in text_of(named.sign_in("fay"))


def test_a_role_follows_the_rules_at_the_next_sign_in_and_ends_the_old_sessions(door: Door) -> None:
    listed = replace(door, space=replace(door.space, admins="ann,cem"))
    old = listed.sign_in("cem").cookies["prefloop"]
    assert door.role_of("cem") == "annotator"
    assert access.session_annotator(door.db, old) is None


def test_a_deactivated_account_stays_out(door: Door) -> None:
    assert door.role_of("ann") == "admin"
    assert door.role_of("cem") == "annotator"
    access.deactivate(door.db, "cem")
    assert door.role_of("cem") is None
    assert "deactivated" in text_of(door.sign_in("cem"))


# ------------------------------------------------------------------------------------------------------------ identity
def test_an_account_of_the_same_name_is_never_taken_over(door: Door) -> None:
    local = access.add_account(door.db, "cem", "admin", PASSWORD)
    first = access.session_annotator(door.db, door.sign_in("Cem").cookies["prefloop"])
    assert first is not None
    assert (first.name, first.role) == ("Cem-hf", "annotator")
    assert first.id != local.id
    owner = access.session_annotator(door.db, door.sign_in("owner").cookies["prefloop"])
    assert owner is not None
    assert (owner.name, owner.role) == ("owner-hf", "annotator")


def test_a_person_is_the_same_after_a_new_name_and_another_under_the_old_one_is_not(door: Door) -> None:
    before = access.session_annotator(door.db, door.sign_in("cem").cookies["prefloop"])
    door.hub.ids = {"cemal": "id-cem", "cem": "id-newcomer"}
    after = access.session_annotator(door.db, door.sign_in("cemal").cookies["prefloop"])
    newcomer = access.session_annotator(door.db, door.sign_in("cem").cookies["prefloop"])
    assert before == after
    assert newcomer is not None
    assert before is not None
    assert (newcomer.name, newcomer.id != before.id) == ("cem-hf", True)


def test_a_long_name_fits(door: Door) -> None:
    name = "n" * 42
    annotator = access.session_annotator(door.db, door.sign_in(name).cookies["prefloop"])
    assert annotator is not None
    assert annotator.name == "n" * 40


# ------------------------------------------------------------------------------------------------------------ refusals
def test_what_another_browser_began_is_refused(door: Door) -> None:
    address = door.come_back(door.browser())
    for browser in (door.browser(), door.browser()):
        answer = browser.get(address)
        assert answer.status_code == 400
        assert "began in another browser" in text_of(answer)
        door.come_back(browser)  # it has begun a sign-in of its own, whose state is another
        assert browser.get(address).status_code == 400
    assert door.hub.people == {}


def test_a_code_can_be_used_once(door: Door) -> None:
    browser = door.browser()
    address = door.come_back(browser)
    kept = browser.cookies.get(COOKIE)
    assert browser.get(address).status_code == 303
    assert browser.get(address).status_code == 400
    browser.cookies.set(COOKIE, kept or "")
    again = browser.get(address)
    assert again.status_code == 403
    assert "used already" in text_of(again)


def test_whoever_refuses_on_the_hub_is_not_signed_in(door: Door) -> None:
    door.hub.signing_in = None
    browser = door.browser()
    answer = browser.get(door.come_back(browser))
    assert answer.status_code == 403
    assert "You did not let Prefloop know who you are" in text_of(answer)


@pytest.mark.parametrize(("method", "path"), [("POST", "/oauth/token"), ("GET", "/oauth/userinfo")])
@pytest.mark.parametrize("what", [500, "cut", "cut-after"])
def test_a_hub_in_trouble_is_one_sentence(door: Door, method: str, path: str, what: int | str) -> None:
    browser = door.browser()
    address = door.come_back(browser)
    door.hub.fail(method, path, what)
    answer = browser.get(address)
    assert answer.status_code == 502
    assert text_of(answer) == "Hugging Face can't be asked who you are at the moment. Try again in a minute."
    assert browser.get(door.come_back(browser)).status_code == 303


def test_a_hub_that_does_not_answer_at_first_is_asked_again(door: Door) -> None:
    browser = door.browser()
    door.hub.fail("GET", "openid-configuration", "cut")
    assert browser.get("/oauth/login").status_code == 502
    assert browser.get("/oauth/login").status_code == 303


def test_the_page_offers_the_hub_says_what_is_recorded_and_asks_for_a_password_only_where_there_is_one(
    door: Door,
) -> None:
    page = door.browser().get("/login").text
    assert 'href="/oauth/login"' in page
    assert "What is recorded" in page
    assert "ann runs this Space" in page
    assert 'type="password"' not in page
    access.add_account(door.db, "kim", "admin", PASSWORD)
    assert 'type="password"' in door.browser().get("/login").text


def test_a_space_without_the_app_has_no_provider(door: Door) -> None:
    environment = door.hub.space_environment(PORT)
    del environment["OAUTH_CLIENT_SECRET"]
    assert Provider.from_environment(environment, door.space) is None
    assert SECRET not in repr(Provider.from_environment(door.hub.space_environment(PORT), door.space))


def test_failing_returns_from_one_address_have_to_wait_and_keep_nobody_else_out_before(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoginThrottle, "CHECKS", RateLimit(40, 1e6))
    browser = door.browser()
    failing = [browser.get(door.come_back(browser).replace("code=", "code=wrong")).status_code for _ in range(35)]
    assert failing == [403] * 35
    assert browser.get(door.come_back(browser)).status_code == 303
    rest = [browser.get(door.come_back(browser).replace("code=", "code=wrong")).status_code for _ in range(25)]
    assert 429 in rest


def test_rules_that_mean_nothing_are_refused(hub: SpaceHub) -> None:
    for rule in ("everybody", "ann,,bob", "owner,bob", "a b"):
        with pytest.raises(UserError, match="PREFLOOP_ADMINS is "):
            Space.from_environment(hub.space_environment(PORT, PREFLOOP_ADMINS=rule))
