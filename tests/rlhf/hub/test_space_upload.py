"""A Space on the Hub of this machine: created, updated, refused; and the program as it is served there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from huggingface_hub import SpaceCard

from annotation.database import Database
from annotation.hub_client import Hub, connect
from annotation.records import UserError
from annotation.store import setting_store
from annotation.web import access
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.hub import space_upload
from rlhf.hub.space_upload import SpacePlan
from rlhf.jobs import job_store
from rlhf.loop import zero_gpu
from tests.fakes.hub_sign_in import CHAT_MODEL, SECRET, SpaceHub, uploaded
from tests.machine_fixtures import PATIENCE_SECONDS, ROOT, Machine, free_port

pytestmark = pytest.mark.slow

MODEL = "models/small"
PLAN = SpacePlan("ann/loop", model=MODEL)
PASSWORD = "a long enough password"


@pytest.fixture
def hub() -> Iterator[SpaceHub]:
    with SpaceHub() as server:
        server.add_repo("model", MODEL, CHAT_MODEL)
        yield server


@pytest.fixture
def client(hub: SpaceHub) -> Hub:
    return connect("hf_write_ann", hub.url)


def errors(plan: SpacePlan, client: Hub) -> str:
    return " ".join(finding.text for finding in space_upload.check(plan, client) if finding.level == "error")


# ------------------------------------------------------------------------------------------------------------ creating
def test_a_space_is_made_with_its_settings_and_only_the_files_it_needs(hub: SpaceHub, client: Hub) -> None:
    made = space_upload.create(replace(PLAN, copies="ann/copies"), client, "hf_of_the_space")
    space = hub.repos["space", "ann/loop"]
    assert made.new
    assert made.address == f"{hub.url}/spaces/ann/loop"
    assert (space.private, space.sdk) == (True, "gradio")
    assert space.secrets == {"HF_TOKEN": "hf_of_the_space"}
    assert space.variables == {
        "PREFLOOP_ADMINS": "owner",
        "PREFLOOP_ANNOTATORS": "everybody",
        "PREFLOOP_MODEL": MODEL,
        "PREFLOOP_COPIES": "ann/copies",
    }
    held = hub.files("space", "ann/loop")
    assert set(held) == {path.as_posix() for path in space_upload.files()} | {"README.md", "requirements.txt"}
    assert held["app.py"] == (ROOT / "app.py").read_bytes()
    assert not [path for path, content in held.items() if b"hf_write_ann" in content or b"hf_of_the_space" in content]
    assert len(space.history(space.head.sha)) == 2


def test_everything_that_the_program_reads_goes_up() -> None:
    there = {path.relative_to(ROOT) for name in ("annotation", "rlhf") for path in (ROOT / name).rglob("*.*")}
    assert {path for path in there if "__pycache__" not in path.parts} <= set(space_upload.files())


def test_creating_it_twice_changes_nothing_and_a_new_version_takes_old_files_out(hub: SpaceHub, client: Hub) -> None:
    first = space_upload.create(PLAN, client)
    again = space_upload.create(PLAN, client)
    assert (again.new, again.changed, again.commit) == (False, (), first.commit)
    hub.add_repo("space", "ann/loop", {"rlhf/gone.py": b"old", "notes.md": b"a person's own"})
    updated = space_upload.create(replace(PLAN, annotators="nobody", hardware="cpu-upgrade"), client)
    assert updated.changed == ("PREFLOOP_ANNOTATORS", "cpu-upgrade")
    held = hub.files("space", "ann/loop")
    assert "rlhf/gone.py" not in held
    assert held["notes.md"] == b"a person's own"
    assert hub.repos["space", "ann/loop"].settings["hardware"] == "cpu-upgrade"


def test_what_is_not_asked_for_stays_as_the_space_has_it(hub: SpaceHub, client: Hub) -> None:
    strict = replace(PLAN, admins="ann,cem", annotators="nobody", copies="ann/copies")
    space_upload.create(strict, client)
    kept = dict(hub.repos["space", "ann/loop"].variables)
    again = space_upload.planned(client, "ann/loop")
    assert again == strict
    assert (space_upload.create(again, client).changed, hub.repos["space", "ann/loop"].variables) == ((), kept)
    wider = space_upload.planned(client, "ann/loop", hardware="cpu-upgrade", annotators="owner")
    assert wider == replace(strict, annotators="owner", hardware="cpu-upgrade")
    assert space_upload.planned(client, "ann/new") == SpacePlan("ann/new")


def test_what_would_change_is_listed_before_it_changes(
    hub: SpaceHub, client: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    space_upload.create(replace(PLAN, annotators="nobody"), client)
    plan = replace(PLAN, copies="ann/copies", hardware="cpu-upgrade")
    monkeypatch.setenv(space_upload.GIVEN_TOKEN, "hf_of_the_space")
    notes = [finding.text for finding in space_upload.check(plan, client) if finding.level == "note"]
    assert "PREFLOOP_ANNOTATORS will change from 'nobody' to 'everybody'." in notes
    assert "PREFLOOP_COPIES will be set to 'ann/copies'." in notes
    assert "The hardware will change from cpu-basic to cpu-upgrade." in notes
    assert f"The secret HF_TOKEN will be set to the token of {space_upload.GIVEN_TOKEN}." in notes
    assert not [note for note in notes if "PREFLOOP_ADMINS" in note or "PREFLOOP_MODEL" in note]
    assert hub.repos["space", "ann/loop"].variables["PREFLOOP_ANNOTATORS"] == "nobody"


def test_an_organisations_space_asks_who_is_in_it(hub: SpaceHub, client: Hub) -> None:
    hub.organisations = {"ann": {"lab": "admin"}}
    space_upload.create(replace(PLAN, repo="lab/loop"), client)
    space_upload.create(PLAN, client)
    assert b"read-memberships" in hub.files("space", "lab/loop")["README.md"]
    assert b"read-memberships" not in hub.files("space", "ann/loop")["README.md"]


def test_an_upload_that_breaks_can_be_repeated(hub: SpaceHub, client: Hub) -> None:
    hub.fail("POST", "/commit/", "cut")
    with pytest.raises(UserError, match=r"Uploading to ann/loop failed\. .*repeat"):
        space_upload.create(PLAN, client)
    assert hub.files("space", "ann/loop") == {}
    space_upload.create(PLAN, client)
    assert "app.py" in hub.files("space", "ann/loop")


# ---------------------------------------------------------------------------------------------------------- would fail
def test_a_sound_plan(client: Hub) -> None:
    assert errors(PLAN, client) == ""
    assert errors(replace(PLAN, hardware="zero-a10g", copies="ann/copies"), client) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"repo": "bob/loop"}, "no right to write to bob/loop"),
        ({"admins": "org"}, "ann is a person"),
        ({"hardware": "huge"}, "The Hub has no hardware 'huge'. It has: cpu-basic, cpu-upgrade"),
        ({"model": "models/absent"}, "Looking for the model models/absent failed. There is no such repository"),
        ({"model": "models/pickled"}, "models/pickled has no safetensors weights"),
        ({"copies": "ann/open"}, "ann/open is public, and safe copies hold accounts"),
        ({"copies": "bob/copies"}, "no right to write to bob/copies"),
        ({"repo": "ann/docker"}, "ann/docker is a Space of another kind (docker)"),
        ({"repo": "ann/public"}, "ann/public is there and public, and this was to be private"),
        ({"model": "models/dumb"}, "models/dumb has no tokenizer"),
        ({"model": "models/raw"}, "models/raw has no chat template"),
    ],
)
def test_what_would_fail_is_said_and_nothing_is_made(
    hub: SpaceHub, client: Hub, changes: Mapping[str, str], words: str
) -> None:
    hub.add_repo("model", "models/pickled", {"pytorch_model.bin": b"0"})
    hub.add_repo("model", "models/dumb", {"model.safetensors": b"0", "chat_template.jinja": b"x"})
    raw = {"model.safetensors": b"0", "tokenizer.json": b"{}", "tokenizer_config.json": b'{"chat_template": null}'}
    hub.add_repo("model", "models/raw", raw)
    hub.add_repo("dataset", "ann/open", {"a": b"0"})
    hub.add_repo("space", "ann/docker", {"Dockerfile": b"0"}, private=True)
    hub.add_repo("space", "ann/public", {"app.py": b"0"})
    hub.repos["space", "ann/docker"].sdk = "docker"
    there = set(hub.repos)
    plan = replace(PLAN, **changes)  # type: ignore[arg-type]
    assert words in errors(plan, client)
    with pytest.raises(UserError):
        space_upload.create(plan, client)
    assert set(hub.repos) == there


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("hf_read_ann", "may only read"),
        ("hf_expired", "expired"),
        (None, "No token for the Hub is set"),
    ],
)
def test_a_token_that_does_not_do(hub: SpaceHub, token: str | None, words: str) -> None:
    found = errors(PLAN, connect(token, hub.url))
    assert words in found
    assert "hf_read" not in found
    assert "hf_exp" not in found


def test_a_check_goes_on_after_a_token_that_does_not_do(hub: SpaceHub) -> None:
    client = connect("hf_read_ann", hub.url)
    plan = space_upload.planned(client, "ann/loop", "huge", admins="a b", model="models/absent")
    found = errors(plan, client)
    for words in ("may only read", "PREFLOOP_ADMINS is 'a b'", "no hardware 'huge'", "models/absent failed"):
        assert found.count(words) == 1
    with pytest.raises(UserError, match="may only read"):
        space_upload.create(plan, connect("hf_write_ann", hub.url))  # what the Space has is not known


def test_a_model_at_a_commit(hub: SpaceHub, client: Hub) -> None:
    pinned = f"{MODEL}@{hub.repos['model', MODEL].head.sha}"
    hub.add_repo("model", MODEL, {"model.safetensors": b"1"})
    del hub.repos["model", MODEL].head.tree["tokenizer.json"]
    config = b'{"chat_template": "x"}'
    hub.add_repo(
        "model", "models/config", {"a.safetensors": b"0", "vocab.json": b"{}", "tokenizer_config.json": config}
    )
    assert "no tokenizer" in errors(PLAN, client)
    assert errors(replace(PLAN, model="models/config"), client) == ""
    assert "no such revision" in errors(replace(PLAN, model=f"{MODEL}@absent"), client)
    space_upload.create(replace(PLAN, model=pinned), client)
    assert hub.repos["space", "ann/loop"].variables["PREFLOOP_MODEL"] == pinned
    head = SpaceCard(hub.files("space", "ann/loop")["README.md"].decode()).data.to_dict()
    assert head["models"] == [MODEL]
    assert "preload_from_hub" not in head


def test_a_model_that_does_not_fit_into_the_hardware_is_warned_of(client: Hub) -> None:
    def warned(size: float, hardware: str = "") -> list[str]:
        found = space_upload.check_memory(replace(PLAN, hardware=hardware), client, int(size))
        return [finding.text for finding in found if finding.level == "warning"]

    (sentence,) = warned(11e9)
    assert f"{MODEL} needs about 17.5 GB of memory, and cpu-basic has 16." in sentence
    assert (warned(9e9), warned(11e9, "unheard-of")) == ([], [])


@pytest.mark.parametrize(
    ("changes", "shut_out"),
    [
        ({}, "PREFLOOP_ANNOTATORS"),
        ({"annotators": "bob"}, "PREFLOOP_ANNOTATORS"),
        ({"annotators": "nobody", "admins": "ann,bob"}, "PREFLOOP_ADMINS"),
        ({"annotators": "Ann"}, ""),
        ({"annotators": "org", "admins": "org"}, ""),
        ({"public": True}, ""),
    ],
)
def test_people_who_can_not_open_a_private_space_are_warned_of(changes: Mapping[str, str], shut_out: str) -> None:
    plan = replace(PLAN, **changes)  # type: ignore[arg-type]
    assert plan.shuts_out == shut_out
    found = [finding.text for finding in space_upload.check_plan(plan) if "is private" in finding.text]
    assert [f"{shut_out} is '" in sentence for sentence in found] == [True] * bool(shut_out)


def test_who_may_see_a_space_stays_unless_it_is_asked_for(hub: SpaceHub, client: Hub) -> None:
    space_upload.create(replace(PLAN, public=True), client)
    kept = space_upload.planned(client, "ann/loop")
    assert kept.public
    assert not space_upload.create(kept, client).new
    assert not hub.repos["space", "ann/loop"].private
    assert "this was to be private" in errors(space_upload.planned(client, "ann/loop", public=False), client)


def test_a_database_on_a_bucket_is_refused(hub: SpaceHub, client: Hub) -> None:
    space_upload.create(PLAN, client)
    space = hub.repos["space", "ann/loop"]
    space.settings["volumes"] = [{"type": "bucket", "source": "ann/store", "mountPath": "/data"}]
    space.variables["PREFLOOP_DATA"] = "/data/prefloop"
    assert "a live database does not survive" in errors(PLAN, client)
    space.variables["PREFLOOP_DATA"] = "/home/user/data"
    assert errors(PLAN, client) == ""


@pytest.mark.parametrize(
    ("volume", "sound"),
    [
        (None, False),
        ({"type": "bucket", "source": "ann/store", "mountPath": "/data"}, True),
        ({"type": "bucket", "source": "ann/store", "mountPath": "/dat"}, False),
        ({"type": "bucket", "source": "ann/store", "mountPath": "/data", "readOnly": True}, False),
        ({"type": "dataset", "source": "ann/rows", "mountPath": "/data"}, False),
    ],
)
def test_copies_in_a_directory_need_a_bucket_there(
    hub: SpaceHub, client: Hub, volume: Mapping[str, object] | None, sound: bool
) -> None:
    plan = replace(PLAN, copies="/data/copies")
    warned = [finding.text for finding in space_upload.check(plan, client) if finding.level == "warning"]
    assert [text for text in warned if "A new Space has no bucket, and without one at /data/copies" in text]
    hub.add_repo("space", "ann/loop", {"app.py": b"0"}, private=True)
    hub.repos["space", "ann/loop"].settings["volumes"] = None if volume is None else [volume]
    found = errors(plan, client)
    assert ("No bucket that can be written is mounted at /data/copies" in found) is not sound
    assert "ann/loop-copies" in found or sound


def command(hub: SpaceHub, token: str | None, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """`python -m rlhf space …` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "rlhf", "space", *words],
        cwd=ROOT,
        env={**os.environ, **hub.environment(token)},
        input=typed,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def test_the_commands(hub: SpaceHub) -> None:
    checked = command(hub, "hf_write_ann", "check", "ann/loop", "--model", MODEL)
    assert checked.returncode == 0, checked.stderr
    assert "files would go to ann/loop. 0 errors." in checked.stdout
    assert "mounted bucket. (--copies)\n" in checked.stderr
    assert "by that setting. (--public)\n" in checked.stderr
    assert ("space", "ann/loop") not in hub.repos
    refused = command(hub, "hf_read_ann", "create", "ann/loop", "--model", MODEL)
    assert refused.returncode == 2
    assert "may only read" in refused.stderr
    paid = ("create", "ann/loop", "--model", MODEL, "--hardware", "t4-small")
    unsure = command(hub, "hf_write_ann", *paid, typed="n\n")
    assert unsure.returncode == 2
    assert "t4-small costs $0.40 an hour" in unsure.stdout
    assert ("space", "ann/loop") not in hub.repos
    made = command(hub, "hf_write_ann", *paid, "--annotators", "nobody", typed="y\n")
    assert made.returncode == 0, made.stderr
    assert hub.repos["space", "ann/loop"].settings["hardware"] == "t4-small"
    hub.repos["space", "ann/loop"].private = False
    again = command(hub, "hf_write_ann", "create", "ann/loop", "--admins", "ann,cem")
    assert again.returncode == 0, again.stderr
    assert "note: PREFLOOP_ADMINS will change from 'owner' to 'ann,cem'." in again.stderr
    assert "Changed: PREFLOOP_ADMINS." in again.stdout
    assert hub.repos["space", "ann/loop"].variables["PREFLOOP_ANNOTATORS"] == "nobody"


# ---------------------------------------------------------------------------------------------------- served on a Space
@contextmanager
def served(hub: SpaceHub, data_dir: Path, **more: str) -> Iterator[str]:
    """The program without workers as a Space starts it; gives its address."""
    words = [sys.executable, "app.py", "--no-workers"]
    with free_port() as port:
        environment = {**os.environ, **hub.space_environment(port, **more), "PREFLOOP_DATA": str(data_dir)}
        with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("Prefloop runs at http://0.0.0.0:")
            address = process.stdout.readline().removeprefix("People open ").strip()
            try:
                yield address
            finally:
                process.terminate()


def test_the_pages_of_a_space(hub: SpaceHub, db: Database, data_dir: Path) -> None:
    with (
        served(hub, data_dir) as address,
        httpx.Client(base_url=address, timeout=PATIENCE_SECONDS, follow_redirects=True) as browser,
    ):
        assert "Sign in with Hugging Face" in browser.get("/", headers={"accept": "text/html"}).text
        policy = browser.get("/login").headers["content-security-policy"]
        assert f"frame-ancestors 'self' {hub.url};" in policy
        framed = browser.get("/", headers={"sec-fetch-dest": "iframe"})
        assert f'href="{address}" target="_blank"' in framed.text
        assert "Sign in" not in framed.text
        assert browser.get("/recorded").status_code == 401
        assert browser.get("/healthz", headers={"host": "10.1.2.3:7860"}).status_code == 200
        hub.signing_in = "cem"
        browser.get("/oauth/login", headers={"accept": "text/html"})
        said = browser.post("/gradio_api/run/greet", json={"data": []}, headers={"origin": address.rstrip("/")})
        assert "cem · annotator" in said.text
        assert "What is recorded" in browser.get("/recorded").text
        # Behind the Space's proxy the request's own host name may be another.
        behind = {"host": "10.1.2.3:7860", "origin": address.rstrip("/")}
        assert browser.post("/gradio_api/run/greet", json={"data": []}, headers=behind).status_code == 200
        for origin in ("http://evil.test", "http://10.1.2.3:7860", hub.url):
            foreign = {"host": "10.1.2.3:7860", "origin": origin}
            assert browser.post("/gradio_api/run/greet", json={"data": []}, headers=foreign).status_code == 403
        assert not [word for word in (SECRET, "hf_oauth_") if word in browser.get("/config").text]
    assert setting_store.setting(db, access.RULES, None) == ["owner", "everybody", "ann", "id-ann"]


def test_an_admins_page_on_zero_gpu_says_what_can_not_work(hub: SpaceHub, db: Database, data_dir: Path) -> None:
    with (
        served(hub, data_dir, SPACES_ZERO_GPU="true") as address,
        httpx.Client(base_url=address, timeout=PATIENCE_SECONDS, follow_redirects=True) as browser,
    ):
        browser.get("/oauth/login", headers={"accept": "text/html"})
        assert "This Space has ZeroGPU" in browser.get("/config").text
        names = {entry["api_name"] for entry in browser.get("/config").json()["dependencies"]}
        assert "write-answers" in names


def test_a_space_where_nobody_could_sign_in_is_refused(hub: SpaceHub, db: Database, data_dir: Path) -> None:
    environment = {**os.environ, **hub.space_environment(1), "PREFLOOP_DATA": str(data_dir)}
    del environment["OAUTH_CLIENT_ID"]
    words = [sys.executable, "app.py", "--no-workers"]
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 2
    assert "Put `hf_oauth: true` between the lines" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    access.add_account(db, "kim", "admin", PASSWORD)
    with served(hub, data_dir, OAUTH_CLIENT_ID="") as address:
        assert 'type="password"' in httpx.get(f"{address}login", timeout=PATIENCE_SECONDS).text


# -------------------------------------------------------------------------------------------------------------- ZeroGPU
WRITING = """
import sys
from pathlib import Path
import rlhf, rlhf.models.loading.loaded_policies, transformers.models.llama.modeling_llama
from annotation.database import open_database
from rlhf.loop import zero_gpu
folder = Path(sys.argv[1])
assert Path(rlhf.__file__).is_relative_to(Path.cwd()), rlhf.__file__
print(zero_gpu.write_answers(open_database(folder), folder, "ann"))
"""


def test_answers_are_written_by_a_function_that_could_be_lent_a_gpu_and_needs_only_what_is_uploaded(
    machine: Machine, tmp_path: Path
) -> None:
    machine.add_prompts(4, 2)
    before = machine.db.value("SELECT count(*) FROM comparison")
    here = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    application = uploaded(tmp_path / "app")
    (application / "writing.py").write_text(WRITING, "utf-8")
    done = subprocess.run(
        [sys.executable, "writing.py", str(machine.data_dir)],
        cwd=application, env=here, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (job,) = job_store.recent(machine.db, ("answering",))
    assert job.status == "finished", job.message
    assert machine.db.value("SELECT count(*) FROM comparison") > before


def test_a_job_waits_for_no_gpu_that_was_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def gpu(duration: int) -> Callable[[object], Callable[..., None]]:
        def refuse(*given: object) -> None:
            raise RuntimeError("You have exceeded your GPU quota")

        return lambda function: refuse

    machine.add_prompts(4, 2)
    forgotten = job_store.enqueue(machine.db, AnsweringSpec(), "ann")
    package = ModuleType("spaces")
    package.GPU = gpu  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spaces", package)
    monkeypatch.setattr(zero_gpu, "write_stock", zero_gpu.lent(60)(zero_gpu.write_stock))
    with pytest.raises(UserError, match="ZeroGPU lent no GPU"):
        zero_gpu.write_answers(machine.db, machine.data_dir, "ann")
    assert job_store.active(machine.db, ("answering",)) == []
    assert job_store.get(machine.db, forgotten).status == "cancelled"


def test_the_decorator_leaves_a_function_as_it_is_where_there_is_no_zero_gpu() -> None:
    def double(number: int) -> int:
        return 2 * number

    assert zero_gpu.lent(30)(double) is double
    zero_gpu.start_up()
