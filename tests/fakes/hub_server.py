"""A Hub on loopback: real HTTP, repositories with commits, tags and owners, and whatever can go wrong with it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

from annotation.records import now

Role = Literal["read", "write"]
PREFIXES: Final = {"model": "", "dataset": "datasets/", "space": "spaces/"}
BINARY: Final = (".safetensors", ".bin", ".pt", ".parquet", ".db", ".npz", ".gguf")
LARGE: Final = 10_000_000
CARD: Final = "README.md"
LICENCES: Final = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0", "odc-by", "llama3.1"}
LICENCES_TO_BE_NAMED: Final = {"other", "unknown"}


# --------------------------------------------------------------------------------------------------------------- state
@dataclass(frozen=True)
class Entry:
    """A file in a commit. `oid` names its content: the sha256 of a large file, git's sha1 of another."""

    oid: str
    size: int
    large: bool

    def listed(self, path: str) -> dict[str, Any]:
        """As a listing has it."""
        lfs = {"lfs": {"oid": self.oid, "size": self.size, "pointerSize": 130}} if self.large else {}
        return {"type": "file", "oid": self.oid[:40], "size": self.size, "path": path, **lfs}


@dataclass(frozen=True)
class Commit:
    """One commit with all its files."""

    sha: str
    parent: str | None
    title: str
    created: str
    tree: Mapping[str, Entry]


@dataclass
class Repo:
    """A repository. The last four are a Space's."""

    kind: str
    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    sdk: str | None = None
    secrets: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        """Whose it is."""
        return self.name.split("/")[0]

    @property
    def address(self) -> str:
        """Its path on the server."""
        return PREFIXES[self.kind] + self.name

    @property
    def head(self) -> Commit:
        """The newest commit of main."""
        return self.commits[self.branches["main"]]

    def history(self, sha: str) -> list[Commit]:
        """A commit and what came before it, newest first."""
        found: list[Commit] = []
        following: str | None = sha
        while following is not None:
            found.append(self.commits[following])
            following = found[-1].parent
        return found

    def find(self, revision: str) -> Commit:
        """The commit of a branch, a tag or a sha. Raises Refused."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]

    def add(self, branch: str, title: str, tree: Mapping[str, Entry], parent: str | None) -> str:
        """A commit on top of a branch; returns its sha."""
        listed = {path: entry.oid for path, entry in tree.items()}
        identity = json.dumps([self.kind, self.name, parent, title, listed, now(), len(self.commits)])
        sha = hashlib.sha1(identity.encode()).hexdigest()
        self.commits[sha] = Commit(sha=sha, parent=parent, title=title, created=now(), tree=dict(tree))
        self.branches[branch] = sha
        return sha


class Refused(Exception):
    """An answer that is an error, as the Hub gives it."""

    def __init__(self, status: int, message: str, code: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        named = {"X-Error-Code": code} if code else {}
        self.headers = {"X-Error-Message": message, **named, **(headers or {})}


@dataclass(frozen=True)
class Account:
    """Who asks, by the token."""

    name: str
    role: Role


@dataclass(frozen=True)
class Ask:
    """One request."""

    method: str
    path: str
    """Without query, still quoted."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    account: Account | None

    @property
    def json(self) -> dict[str, Any]:
        """The body's object."""
        value: dict[str, Any] = json.loads(self.body or b"{}")
        return value


@dataclass(frozen=True)
class Reply:
    """One answer; anything but bytes is sent as JSON."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Trouble:
    """What goes wrong with the next requests that fit."""

    method: str
    path: re.Pattern[str]
    what: int | str | bytes
    times: int
    headers: Mapping[str, str]


# -------------------------------------------------------------------------------------------------------------- server
class HubServer(ThreadingHTTPServer):
    """A Hub within a `with` block; `repos` and `requests` are for tests to read."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tokens: dict[str, tuple[str, Role]] = {
            "hf_write_ann": ("ann", "write"),
            "hf_read_ann": ("ann", "read"),
            "hf_write_bob": ("bob", "write"),
        }
        self.organisations: dict[str, dict[str, str]] = {}
        """By user: the organisations with the user's role in each."""
        self.signing_in: str | None = None
        """Who signs in when a browser is sent to the Hub."""
        self.repos: dict[tuple[str, str], Repo] = {}
        """By kind ('model', 'dataset', 'space') and name."""
        self.contents: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, int]] = []
        """Method, path and status, in the order of the answers."""
        self.troubles: list[Trouble] = []
        self.closing = threading.Event()
        self.lock = threading.RLock()
        self.home = Path(tempfile.mkdtemp(prefix="hub-home-"))
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> HubServer:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
        self.thread.join()
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self, token: str | None) -> dict[str, str]:
        """Variables of a process that uses this Hub with a token, or without any."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": token or "",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def fail(
        self,
        method: str,
        path_pattern: str,
        what: int | str | bytes,
        times: int = 1,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Let the next requests of this method whose path has the pattern go wrong.

        A status is answered without acting; 'cut' hangs up without acting, 'cut-after' acts and hangs up in the middle
        of the answer, 'hang' never answers, 'endless' sends blanks as long as anybody reads them; bytes are the answer.
        """
        self.troubles.append(
            Trouble(method=method, path=re.compile(path_pattern), what=what, times=times, headers=headers or {})
        )

    def trouble_with(self, method: str, path: str) -> Trouble | None:
        """What goes wrong with a request, if anything."""
        with self.lock:
            for trouble in self.troubles:
                if trouble.times and trouble.method == method and trouble.path.search(path):
                    trouble.times -= 1
                    return trouble
        return None

    # ------------------------------------------------------------------------------------------------------- for tests
    def add_repo(self, kind: str, name: str, files: Mapping[str, bytes], private: bool = False) -> str:
        """A repository as if somebody had made it; returns the sha of its commit."""
        repo = self.repos.setdefault((kind, name), Repo(kind, name, private))
        tree = dict(repo.head.tree) if repo.commits else {}
        tree |= {path: self.keep(path, content) for path, content in files.items()}
        return repo.add("main", "Files", tree, repo.branches.get("main"))

    def file(self, kind: str, name: str, path: str, revision: str = "main") -> bytes:
        """A file's content."""
        return self.contents[self.repos[kind, name].find(revision).tree[path].oid]

    def files(self, kind: str, name: str, revision: str = "main") -> dict[str, bytes]:
        """All files' contents, without what the Hub itself puts there."""
        tree = self.repos[kind, name].find(revision).tree
        return {path: self.contents[entry.oid] for path, entry in tree.items() if path != ".gitattributes"}

    def keep(self, path: str, content: bytes) -> Entry:
        """Store a content."""
        large = is_large(path, len(content), content[:512])
        oid = hashlib.sha256(content).hexdigest() if large else git_sha1(content)
        self.contents[oid] = content
        return Entry(oid, len(content), large)

    # ---------------------------------------------------------------------------------------------------------- rights
    def account_of(self, authorization: str | None) -> Account | None:
        """Who asks; None without a token. Raises Refused for a token that is not valid (any more)."""
        if not authorization:
            return None
        token = authorization.removeprefix("Bearer ")
        if token not in self.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return Account(*self.tokens[token])

    def belongs(self, account: Account | None, namespace: str) -> bool:
        """Whether a namespace is the account's own, or that of an organisation it is in."""
        if account is None:
            return False
        return namespace == account.name or namespace in self.organisations.get(account.name, {})

    def visible(self, ask: Ask, kind: str, name: str) -> Repo:
        """A repository that the account may see. Raises Refused."""
        repo = self.repos.get((kind, name))
        if repo is None or (repo.private and not self.belongs(ask.account, repo.namespace)):
            raise Refused(401 if ask.account is None else 404, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, ask: Ask, kind: str, name: str) -> Repo:
        """A repository that the account may write to. Raises Refused."""
        repo = self.visible(ask, kind, name)
        self.check_write(ask, repo.namespace)
        return repo

    def check_write(self, ask: Ask, namespace: str) -> None:
        """Raises Refused where the account may not write into a namespace."""
        if ask.account is None:
            raise Refused(401, "Invalid username or password.")
        if ask.account.role != "write" or not self.belongs(ask.account, namespace):
            raise Refused(403, f"Forbidden: you don't have the right to write to {namespace}")


def is_large(path: str, size: int, sample: bytes) -> bool:
    """Whether a file is kept by its sha256."""
    return path.endswith(BINARY) or size > LARGE or b"\0" in sample


def git_sha1(content: bytes) -> str:
    """The name that git gives to a content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


# -------------------------------------------------------------------------------------------------------------- routes
Answer = Callable[..., Reply]
ROUTES: list[tuple[str, re.Pattern[str], Answer]] = []
REPO: Final = r"/api/(?P<kinds>models|datasets|spaces)/(?P<owner>[^/]+)/(?P<short>[^/]+)"


def route(method: str, pattern: str) -> Callable[[Answer], Answer]:
    """Let a function (hub, ask, **named groups, unquoted) answer what fits the whole path; the first one that fits."""

    def register(answer: Answer) -> Answer:
        ROUTES.append((method, re.compile(pattern), answer))
        return answer

    return register


@route("GET", "/api/whoami-v2")
def whoami(hub: HubServer, ask: Ask) -> Reply:
    if ask.account is None:
        raise Refused(401, "Invalid username or password.")
    name, role = ask.account.name, ask.account.role
    organisations = [
        {"type": "org", "id": f"id-{one}", "name": one, "fullname": one, "roleInOrg": part}
        for one, part in hub.organisations.get(name, {}).items()
    ]
    token = {"displayName": "a token", "role": role, "createdAt": "2026-01-01T00:00:00.000Z"}
    return Reply(
        {
            "type": "user",
            "id": f"id-{name}",
            "name": name,
            "fullname": name.title(),
            "isPro": False,
            "canPay": False,
            "orgs": organisations,
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


@route("POST", "/api/repos/create")
def create_repo(hub: HubServer, ask: Ask) -> Reply:
    asked = ask.json
    kind = asked.get("type", "model")
    namespace = asked.get("organization") or (ask.account.name if ask.account else "")
    hub.check_write(ask, namespace)
    name = f"{namespace}/{asked['name']}"
    made = Repo(kind, name, asked.get("visibility") == "private", sdk=asked.get("sdk"))
    with hub.lock:
        if (kind, name) in hub.repos:
            return Reply({"error": f"You already created this {kind} repo", "url": f"{hub.url}/{made.address}"}, 409)
        made.secrets = {one["key"]: one["value"] for one in asked.get("secrets", [])}
        made.variables = {one["key"]: one["value"] for one in asked.get("variables", [])}
        wanted = ("hardware", "sleepTimeSeconds", "volumes")
        made.settings = {key: asked[key] for key in wanted if key in asked}
        attributes = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
        made.add("main", "initial commit", {".gitattributes": hub.keep(".gitattributes", attributes)}, None)
        hub.repos[kind, name] = made
    return Reply({"url": f"{hub.url}/{made.address}", "name": name, "id": f"id-{name}"})


@route("DELETE", "/api/repos/delete")
def delete_repo(hub: HubServer, ask: Ask) -> Reply:
    namespace = ask.json.get("organization") or (ask.account.name if ask.account else "")
    repo = hub.writable(ask, ask.json.get("type", "model"), f"{namespace}/{ask.json['name']}")
    with hub.lock:
        del hub.repos[repo.kind, repo.name]
    return Reply({})


@route("PUT", f"{REPO}/settings")
def change_settings(hub: HubServer, ask: Ask, kinds: str, owner: str, short: str) -> Reply:
    repo = hub.writable(ask, kinds[:-1], f"{owner}/{short}")
    repo.private = ask.json.get("visibility", "private" if repo.private else "public") == "private"
    return Reply({})


@route("GET", f"{REPO}/auth-check(?P<write>/write)?")
def auth_check(hub: HubServer, ask: Ask, kinds: str, owner: str, short: str, write: str | None) -> Reply:
    look = hub.writable if write else hub.visible
    look(ask, kinds[:-1], f"{owner}/{short}")
    return Reply({})


@route("POST", "/api/validate-yaml")
def validate_yaml(hub: HubServer, ask: Ask) -> Reply:
    errors = [{"message": problem} for problem in front_matter_problems(ask.json["content"])]
    return Reply({"errors": errors, "warnings": []}, 400 if errors else 200)


def front_matter(content: str) -> dict[str, Any]:
    """The YAML at the head of a card."""
    found = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    data = yaml.safe_load(found[1]) if found else {}
    return data if isinstance(data, dict) else {}


def front_matter_problems(content: str) -> list[str]:
    """What the Hub would not take of a card's front matter."""
    try:
        data = front_matter(content)
    except yaml.YAMLError as error:
        return [f"YAML: {error}"]
    licence = data.get("license")
    if licence is not None and licence not in LICENCES | LICENCES_TO_BE_NAMED:
        return [f'"license" must be one of {sorted(LICENCES)}']
    return []


# ------------------------------------------------------------------------------------------------------------- uploads
@route("POST", f"{REPO}/preupload/(?P<revision>[^/]+)")
def preupload(hub: HubServer, ask: Ask, kinds: str, owner: str, short: str, revision: str) -> Reply:
    commit = hub.writable(ask, kinds[:-1], f"{owner}/{short}").find(revision)
    files = []
    for asked in ask.json["files"]:
        large = is_large(asked["path"], asked["size"], base64.b64decode(asked["sample"]))
        there = commit.tree.get(asked["path"])
        files.append(
            {
                "path": asked["path"],
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": False,
                "oid": there.oid if there else None,
            }
        )
    return Reply({"files": files, "commitOid": commit.sha})


@route("POST", r"/(?P<prefix>(?:datasets/|spaces/)?)(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
def lfs_batch(hub: HubServer, ask: Ask, prefix: str, name: str) -> Reply:
    kind = next(kind for kind, text in PREFIXES.items() if text == prefix)
    hub.writable(ask, kind, name)
    objects = []
    for asked in ask.json["objects"]:
        one = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in hub.contents:
            upload = {"href": f"{hub.url}/lfs/{asked['oid']}"}
            one["actions"] = {"upload": upload, "verify": {"href": f"{hub.url}/lfs-verify"}}
        objects.append(one)
    return Reply({"transfer": "basic", "objects": objects})


@route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
def lfs_put(hub: HubServer, ask: Ask, oid: str) -> Reply:
    if hashlib.sha256(ask.body).hexdigest() != oid:
        raise Refused(422, "The content does not fit its sha256")
    hub.contents[oid] = ask.body
    return Reply(b"", headers={"ETag": oid})


@route("POST", "/lfs-verify")
def lfs_verify(hub: HubServer, ask: Ask) -> Reply:
    if len(hub.contents.get(ask.json["oid"], b"")) != ask.json["size"]:
        raise Refused(422, "The upload is not whole")
    return Reply({})


@route("POST", f"{REPO}/commit/(?P<revision>[^/]+)")
def commit_files(hub: HubServer, ask: Ask, kinds: str, owner: str, short: str, revision: str) -> Reply:
    repo = hub.writable(ask, kinds[:-1], f"{owner}/{short}")
    header: dict[str, Any] = {}
    with hub.lock:
        if revision not in repo.branches:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        head = repo.commits[repo.branches[revision]]
        tree = dict(head.tree)
        for line in ask.body.splitlines():
            said = json.loads(line)
            value = said["value"]
            if said["key"] == "header":
                header = value
            elif said["key"] == "file":
                content = base64.b64decode(value["content"])
                tree[value["path"]] = Entry(git_sha1(content), len(content), False)
                hub.contents[git_sha1(content)] = content
            elif said["key"] == "lfsFile":
                if value["oid"] not in hub.contents:
                    raise Refused(400, "LFS pointer pointed to a file that does not exist")
                tree[value["path"]] = Entry(value["oid"], len(hub.contents[value["oid"]]), True)
            else:
                gone = value["path"].rstrip("/")
                tree = {path: entry for path, entry in tree.items() if path != gone and not within(path, gone)}
        if header.get("parentCommit") not in (None, head.sha):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        sha = repo.add(revision, header.get("summary", ""), tree, head.sha)
    url = f"{hub.url}/{repo.address}/commit/{sha}"
    return Reply({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})


def within(path: str, directory: str) -> bool:
    """Whether a path lies in a directory ('' holds all)."""
    return not directory or path.startswith(f"{directory}/")


# ----------------------------------------------------------------------------------------------------- branches, tags
@route("GET", f"{REPO}/refs")
def refs(hub: HubServer, ask: Ask, kinds: str, owner: str, short: str) -> Reply:
    repo = hub.visible(ask, kinds[:-1], f"{owner}/{short}")

    def listed(kind: str, names: Mapping[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in names.items()]

    return Reply({"branches": listed("heads", repo.branches), "tags": listed("tags", repo.tags), "converts": []})


@route("POST", f"{REPO}/(?P<what>tag|branch)/(?P<revision>[^/]+)")
def add_ref(hub: HubServer, ask: Ask, kinds: str, owner: str, short: str, what: str, revision: str) -> Reply:
    repo = hub.writable(ask, kinds[:-1], f"{owner}/{short}")
    names = repo.tags if what == "tag" else repo.branches
    name, start = (ask.json["tag"], revision) if what == "tag" else (revision, ask.json.get("startingPoint", "main"))
    with hub.lock:
        if name in names:
            raise Refused(409, f"The {what} {name} exists already")
        names[name] = repo.find(start).sha
    return Reply({})


@route("DELETE", f"{REPO}/(?P<what>tag|branch)/(?P<name>[^/]+)")
def delete_ref(hub: HubServer, ask: Ask, kinds: str, owner: str, short: str, what: str, name: str) -> Reply:
    repo = hub.writable(ask, kinds[:-1], f"{owner}/{short}")
    if (repo.tags if what == "tag" else repo.branches).pop(name, None) is None:
        raise Refused(404, f"There is no {what} {name}", "RevisionNotFound")
    return Reply({})


@route("POST", f"{REPO}/super-squash/(?P<branch>[^/]+)")
def squash(hub: HubServer, ask: Ask, kinds: str, owner: str, short: str, branch: str) -> Reply:
    repo = hub.writable(ask, kinds[:-1], f"{owner}/{short}")
    with hub.lock:
        repo.add(branch, ask.json.get("message", ""), repo.find(branch).tree, None)
    return Reply({})


# ------------------------------------------------------------------------------------------------------------- reading
@route("GET", f"{REPO}(?:/revision/(?P<revision>[^/]+))?")
def repo_info(hub: HubServer, ask: Ask, kinds: str, owner: str, short: str, revision: str | None) -> Reply:
    repo = hub.visible(ask, kinds[:-1], f"{owner}/{short}")
    commit = repo.find(revision or "main")
    blobs = ask.query.get("blobs", "").lower() == "true"
    siblings = [
        {"rfilename": path, **({"size": entry.size, "blobId": entry.oid[:40]} if blobs else {}), **lfs_of(entry, blobs)}
        for path, entry in sorted(commit.tree.items())
    ]
    told = {
        "_id": f"id-{repo.name}",
        "id": repo.name,
        "author": repo.namespace,
        "private": repo.private,
        "sha": commit.sha,
        "lastModified": moment(commit),
        "createdAt": moment(commit),
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "gated": False,
        "disabled": False,
        "siblings": siblings,
    }
    if CARD in commit.tree:
        told["cardData"] = front_matter(hub.contents[commit.tree[CARD].oid].decode())
    if repo.kind == "model":
        told["modelId"] = repo.name
    if repo.kind == "space":
        told["sdk"] = repo.sdk
    return Reply(told)


def lfs_of(entry: Entry, blobs: bool) -> dict[str, Any]:
    """What a list of files with their sizes says of a large one."""
    if not blobs or not entry.large:
        return {}
    return {"lfs": {"sha256": entry.oid, "size": entry.size, "pointerSize": 130}}


def moment(commit: Commit) -> str:
    """A commit's time as the Hub writes it."""
    return commit.created[:23] + "Z"


@route("GET", f"{REPO}/commits/(?P<revision>[^/]+)")
def commits(hub: HubServer, ask: Ask, kinds: str, owner: str, short: str, revision: str) -> Reply:
    repo = hub.visible(ask, kinds[:-1], f"{owner}/{short}")
    return Reply(
        [
            {"id": one.sha, "title": one.title, "message": "", "date": moment(one), "authors": [{"user": owner}]}
            for one in repo.history(repo.find(revision).sha)
        ]
    )


@route("GET", f"{REPO}/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?")
def tree(hub: HubServer, ask: Ask, kinds: str, owner: str, short: str, revision: str, path: str | None) -> Reply:
    files = hub.visible(ask, kinds[:-1], f"{owner}/{short}").find(revision).tree
    directory = (path or "").rstrip("/")
    below = {name: entry for name, entry in files.items() if within(name, directory)}
    if directory and not below:
        raise Refused(404, "Entry not found", "EntryNotFound")
    recursive = ask.query.get("recursive", "").lower() in ("true", "1")
    start = len(directory) + 1 if directory else 0
    listed: dict[str, dict[str, Any]] = {}
    for name, entry in sorted(below.items()):
        parts = name[start:].split("/")
        for depth in range(1, len(parts)):
            above = name[:start] + "/".join(parts[:depth])
            if recursive or depth == 1:
                listed[above] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": above}
        if recursive or len(parts) == 1:
            listed[name] = entry.listed(name)
    return Reply(list(listed.values()))


@route("POST", f"{REPO}/paths-info/(?P<revision>[^/]+)")
def paths_info(hub: HubServer, ask: Ask, kinds: str, owner: str, short: str, revision: str) -> Reply:
    files = hub.visible(ask, kinds[:-1], f"{owner}/{short}").find(revision).tree
    form = [value for key, value in parse_qsl(ask.body.decode()) if key == "paths"]
    wanted = ask.json["paths"] if "json" in ask.headers.get("content-type", "") else form
    directories = {path for path in wanted if any(within(name, path.rstrip("/")) for name in files)}
    found = [files[path].listed(path) for path in wanted if path in files]
    found += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in sorted(directories)]
    return Reply(found)


RESOLVE: Final = (
    r"/(?P<prefix>(?:datasets/|spaces/)?)(?P<name>[^/]+/[^/]+)/(?:resolve|raw)/(?P<revision>[^/]+)/(?P<path>.+)"
)


@route("GET", RESOLVE)
@route("HEAD", RESOLVE)
def resolve(hub: HubServer, ask: Ask, prefix: str, name: str, revision: str, path: str) -> Reply:
    kind = next(kind for kind, text in PREFIXES.items() if text == prefix)
    commit = hub.visible(ask, kind, name).find(revision)
    entry = commit.tree.get(path)
    if entry is None:
        raise Refused(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit.sha})
    content = hub.contents[entry.oid]
    headers = {"ETag": f'"{entry.oid}"', "X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
    if entry.large:
        headers |= {"X-Linked-Etag": f'"{entry.oid}"', "X-Linked-Size": str(entry.size)}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", ask.headers.get("range", ""))
    if wanted is None:
        return Reply(content, headers=headers)
    first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
    headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
    return Reply(content[first : last + 1], 206, headers)


# ----------------------------------------------------------------------------------------------------- rented hardware
@route("GET", "/api/jobs/hardware")
def jobs_hardware(hub: HubServer, ask: Ask) -> Reply:
    gpu = {"type": "gpu", "model": "T4", "quantity": "1", "vram": "16 GB", "manufacturer": "Nvidia"}
    rented = (("cpu-basic", "CPU Basic", None, 167), ("t4-small", "Nvidia T4 - small", gpu, 6667))
    return Reply(
        [
            {
                "name": name,
                "prettyName": label,
                "cpu": "2 vCPU",
                "ram": "16 GB",
                "ephemeralStorage": "20 GB",
                "accelerator": accelerator,
                "unitCostMicroUSD": cost,
                "unitCostUSD": cost / 1e6,
                "unitLabel": "minute",
            }
            for name, label, accelerator, cost in rented
        ]
    )


# ---------------------------------------------------------------------------------------------------------- connection
class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits for its head to be acknowledged: 40 ms
    server: HubServer

    def handle(self) -> None:
        """Answer until the other side goes, which it may do in the middle."""
        with suppress(ConnectionError):
            super().handle()

    def answer(self) -> None:
        """One request, sound or with the trouble that was asked for."""
        body = self.read_body()
        path = urlsplit(self.path).path
        trouble = self.server.trouble_with(self.command, path)
        if trouble is not None and trouble.what in ("cut", "hang"):
            if trouble.what == "hang":
                self.server.closing.wait()
            self.note(path, 0)
            self.hang_up()
        elif trouble is not None and trouble.what == "endless":
            self.send_without_end(path)
        elif trouble is not None and isinstance(trouble.what, bytes):
            self.send(Reply(trouble.what, headers={"Content-Type": "application/json"}), path, whole=True)
        elif trouble is not None and isinstance(trouble.what, int):
            self.send(Reply({"error": "Not this time."}, trouble.what, trouble.headers), path, whole=True)
        else:
            self.send(self.reply_to(path, body), path, whole=trouble is None)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def reply_to(self, path: str, body: bytes) -> Reply:
        """The answer of the first route that fits."""
        query = dict(parse_qsl(urlsplit(self.path).query))
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            # What signs a person in has tokens of its own.
            account = None if path.startswith("/oauth/") else self.server.account_of(headers.get("authorization"))
            ask = Ask(method=self.command, path=path, query=query, headers=headers, body=body, account=account)
            for method, pattern, answer in ROUTES:
                found = pattern.fullmatch(path)
                if method == self.command and found is not None:
                    groups = {name: value and unquote(value) for name, value in found.groupdict().items()}
                    return answer(self.server, ask, **groups)
            raise Refused(404, f"There is nothing at {path}")
        except Refused as error:
            return Reply({"error": str(error)}, error.status, error.headers)

    def read_body(self) -> bytes:
        """The request's body, in one piece."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def send(self, reply: Reply, path: str, whole: bool) -> None:
        """The response, or its first half."""
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        kind = "application/octet-stream" if isinstance(reply.body, bytes) else "application/json"
        self.note(path, reply.status)
        self.send_response(reply.status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if whole else body[: len(body) // 2])
        if not whole:
            self.hang_up()

    def send_without_end(self, path: str) -> None:
        """Blanks, in pieces of an answer whose length is not said."""
        self.note(path, 200)
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True:  # until the connection breaks
            self.wfile.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")

    def note(self, path: str, status: int) -> None:
        """Remember what was asked."""
        with self.server.lock:
            self.server.requests.append((self.command, path, status))

    def hang_up(self) -> None:
        """Break the connection."""
        self.close_connection = True
        self.wfile.flush()
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests say what was asked."""
