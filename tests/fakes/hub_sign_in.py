"""What the loopback Hub does for Spaces: it signs people in by OpenID's code flow, and keeps their settings."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from rlhf.hub import space_upload
from rlhf.hub.space_upload import SpacePlan
from tests.fakes.hub_server import Ask, HubServer, Refused, Reply, route

CHAT_MODEL = {"model.safetensors": b"0", "tokenizer.json": b"{}", "chat_template.jinja": b"{{ messages }}"}
"""The files of a model that a Space would take."""
CLIENT, SECRET = "client-of-the-space", "oauth-secret-of-the-space"
FLAVORS = {"cpu-basic": 0.0, "cpu-upgrade": 0.0005, "t4-small": 0.0067, "zero-a10g": 0.0}


class SpaceHub(HubServer):
    """The Hub of a Space whose OAuth app is known. `signing_in` names who sits at the browser; None refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.signing_in = "ann"
        self.ids: dict[str, str] = {}
        """By name, where the id is not `id-NAME`."""
        self.framed = ""
        """What the Space's page shows in its frame."""
        self.codes: dict[str, dict[str, str]] = {}
        self.people: dict[str, dict[str, str]] = {}
        """By access token: who it is, and the scopes."""

    def space_environment(self, port: int, owner: str = "ann", **more: str) -> dict[str, str]:
        """What a Space of this Hub finds in its environment, reached at this port of 127.0.0.1."""
        return {
            "SYSTEM": "spaces",
            "SPACE_ID": f"{owner}/loop",
            "SPACE_HOST": f"127.0.0.1:{port}",
            "SPACE_AUTHOR_NAME": owner,
            "SPACE_REPO_NAME": "loop",
            "SPACE_CREATOR_USER_ID": self.id_of("ann"),
            "PREFLOOP_PORT": str(port),
            "OAUTH_CLIENT_ID": CLIENT,
            "OAUTH_CLIENT_SECRET": SECRET,
            "OAUTH_SCOPES": "openid profile",
            "OPENID_PROVIDER_URL": self.url,
            **more,
        }

    def id_of(self, name: str) -> str:
        """A person's id, which outlives the name."""
        return self.ids.get(name, f"id-{name}")


def uploaded(folder: Path) -> Path:
    """A folder with what `space create` would upload."""
    for path, content in space_upload.contents(SpacePlan("ann/loop")).items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    return folder


def people_of(hub: HubServer) -> SpaceHub:
    """The hub as one that signs people in."""
    assert isinstance(hub, SpaceHub)
    return hub


# ------------------------------------------------------------------------------------------------------------- sign-in
@route("GET", r"/\.well-known/openid-configuration")
def configuration(hub: HubServer, ask: Ask) -> Reply:
    ends = {"authorization_endpoint": "authorize", "token_endpoint": "token", "userinfo_endpoint": "userinfo"}
    return Reply({"issuer": hub.url, **{name: f"{hub.url}/oauth/{end}" for name, end in ends.items()}})


@route("GET", "/oauth/authorize")
def authorize(hub: HubServer, ask: Ask) -> Reply:
    """Whoever sits at the browser agrees at once, or refuses."""
    sound = ask.query.get("client_id") == CLIENT and ask.query.get("response_type") == "code"
    if not sound or ask.query.get("code_challenge_method") != "S256" or not ask.query.get("state"):
        raise Refused(400, "invalid_request")
    back = {"state": ask.query["state"]}
    if hub.signing_in is None:
        back["error"] = "access_denied"
    else:
        back["code"] = secrets.token_urlsafe(8)
        people_of(hub).codes[back["code"]] = {**ask.query, "name": hub.signing_in}
    return Reply(b"", 303, {"Location": f"{ask.query['redirect_uri']}?{urlencode(back)}"})


@route("POST", "/oauth/token")
def exchange(hub: HubServer, ask: Ask) -> Reply:
    """A token for a code: once, for the app that it was made for, to who knows the secret behind the challenge."""
    form = dict(parse_qsl(ask.body.decode()))
    expected = "Basic " + base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
    if ask.headers.get("authorization") != expected:
        raise Refused(401, "invalid_client")
    asked = people_of(hub).codes.pop(form.get("code", ""), None)
    verifier = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
    shown = base64.urlsafe_b64encode(verifier).decode().rstrip("=")
    if asked is None or asked["code_challenge"] != shown or asked["redirect_uri"] != form.get("redirect_uri"):
        raise Refused(400, "invalid_grant")
    token = f"hf_oauth_{secrets.token_urlsafe(16)}"
    people_of(hub).people[token] = asked
    return Reply({"access_token": token, "token_type": "bearer", "expires_in": 28800, "scope": asked["scope"]})


@route("GET", "/oauth/userinfo")
def userinfo(hub: HubServer, ask: Ask) -> Reply:
    person = people_of(hub).people.get(ask.headers.get("authorization", "").removeprefix("Bearer "))
    if person is None:
        raise Refused(401, "invalid_token")
    name = person["name"]
    told = {"sub": people_of(hub).id_of(name), "preferred_username": name, "name": name.title(), "isPro": False}
    if "read-memberships" in person["scope"].split():
        memberships = hub.organisations.get(name, {})
        told["orgs"] = [
            {"sub": f"id-{one}", "preferred_username": one, "name": one.title(), "roleInOrg": role}
            for one, role in memberships.items()
        ]
    return Reply(told)


# -------------------------------------------------------------------------------------------------------------- spaces
SPACE = r"/api/spaces/(?P<owner>[^/]+)/(?P<short>[^/]+)"


@route("GET", "/api/spaces/hardware")
def hardware(hub: HubServer, ask: Ask) -> Reply:
    listed = [
        {
            "name": name,
            "prettyName": name,
            "cpu": "2 vCPU",
            "ram": "16 GB",
            "accelerator": None,
            "ephemeralStorage": "50 GB",
            "unitCostMicroUSD": round(price * 1e6),
            "unitCostUSD": price,
            "unitLabel": "minute",
        }
        for name, price in FLAVORS.items()
    ]
    return Reply(listed)


def names_of(values: Mapping[str, str]) -> Reply:
    """A list without what may not be read."""
    return Reply({key: {"key": key} for key in values})


@route("GET", "/spaces/(?P<owner>[^/]+)/(?P<short>[^/]+)")
def space_page(hub: HubServer, ask: Ask, owner: str, short: str) -> Reply:
    """The page of a Space, which has the program in a frame."""
    page = f"<!doctype html><title>{short}</title><iframe src='{people_of(hub).framed}'></iframe>"
    return Reply(page.encode(), headers={"Content-Type": "text/html"})


@route("GET", f"{SPACE}/secrets")
def secrets_of(hub: HubServer, ask: Ask, owner: str, short: str) -> Reply:
    return names_of(hub.writable(ask, "space", f"{owner}/{short}").secrets)


@route("POST", f"{SPACE}/secrets")
def add_secret(hub: HubServer, ask: Ask, owner: str, short: str) -> Reply:
    hub.writable(ask, "space", f"{owner}/{short}").secrets[ask.json["key"]] = ask.json["value"]
    return Reply({})


@route("GET", f"{SPACE}/variables")
def variables_of(hub: HubServer, ask: Ask, owner: str, short: str) -> Reply:
    kept = hub.visible(ask, "space", f"{owner}/{short}").variables
    return Reply({key: {"key": key, "value": value} for key, value in kept.items()})


@route("POST", f"{SPACE}/variables")
def add_variable(hub: HubServer, ask: Ask, owner: str, short: str) -> Reply:
    kept = hub.writable(ask, "space", f"{owner}/{short}").variables
    kept[ask.json["key"]] = ask.json["value"]
    return Reply({key: {"key": key, "value": value} for key, value in kept.items()})


@route("POST", f"{SPACE}/hardware")
def ask_for_hardware(hub: HubServer, ask: Ask, owner: str, short: str) -> Reply:
    repo = hub.writable(ask, "space", f"{owner}/{short}")
    if ask.json["flavor"] not in FLAVORS:
        raise Refused(400, "Invalid hardware flavor")
    repo.settings["hardware"] = ask.json["flavor"]
    return Reply(runtime(repo.settings))


@route("GET", f"{SPACE}/runtime")
def runtime_of(hub: HubServer, ask: Ask, owner: str, short: str) -> Reply:
    return Reply(runtime(hub.visible(ask, "space", f"{owner}/{short}").settings))


def runtime(settings: Mapping[str, Any]) -> dict[str, Any]:
    """How a Space stands."""
    flavor = settings.get("hardware", "cpu-basic")
    hardware = {"current": flavor, "requested": flavor}
    return {"stage": "RUNNING", "hardware": hardware, "gcTimeout": 172800, "volumes": settings.get("volumes")}
