"""Fetching a trained policy from the real server: whole, for admins only, and nothing beside it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import app
from annotation.database import open_database
from annotation.records import UserError
from annotation.web import access
from rlhf.jobs import job_store
from rlhf.models import registry
from rlhf.submission import job_submission
from rlhf.tabs import download_endpoint, downloads
from tests.machine_fixtures import PATIENCE_SECONDS, ROOT, Machine, make_machine
from tests.run_fixtures import finished_run

pytestmark = pytest.mark.slow

PASSWORD = "a long enough password"
# What must never leave: a token in training arguments, an optimiser's state, the database, what a link points to.
SECRETS = (b"hub-token", b"optimiser state", b"SQLite format", b"root:", b"from elsewhere")


@dataclass(frozen=True)
class Site:
    """A running server, its data directory and the policy in it."""

    url: str
    cookie: str
    machine: Machine
    revision: str

    def get(self, path: str, name: str | None) -> httpx.Response:
        """Ask for a path as it is written, as one of these people or as a stranger."""
        cookies = {}
        if name is not None:
            account = access.authorise(self.machine.db, name, "annotator")
            cookies[self.cookie] = access.open_session(self.machine.db, account)
        with httpx.Client(base_url=self.url, cookies=cookies, timeout=PATIENCE_SECONDS) as client:
            return client.get(httpx.URL(self.url).copy_with(raw_path=path.encode()))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Site]:
    """The real server without workers, and an adapter that was trained, with files beside it that must stay."""
    machine = make_machine(tmp_path_factory.mktemp("site") / "data", tiny_model)
    access.add_account(machine.db, "kim", "admin", PASSWORD)
    made = registry.of_job(machine.db, finished_run(machine).id)
    assert made is not None
    directory = machine.data_dir / str(made.path)
    (directory / "training_args.bin").write_bytes(b"hub-token")
    (directory / "optimizer.pt").write_bytes(b"optimiser state")
    (directory / ".hidden.json").write_bytes(b"from elsewhere")
    (machine.data_dir / "elsewhere.json").write_bytes(b"from elsewhere")
    (directory / "link.json").symlink_to(machine.data_dir / "elsewhere.json")
    command = [sys.executable, "app.py", "--no-workers", "--no-browser", "--port", "0", "--data", str(machine.data_dir)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("Prefloop runs at ").strip().rstrip("/")
        try:
            yield Site(url, app.Settings(port=int(url.rsplit(":", 1)[1])).cookie, machine, made.revision)
        finally:
            process.terminate()
    machine.db.close()


def test_an_admin_gets_a_zip_whose_files_load_as_the_adapter(site: Site, tmp_path: Path) -> None:
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    found = site.get(f"/{downloads.address(site.revision)}", "kim")
    assert found.status_code == 200
    assert found.headers["content-disposition"] == f'attachment; filename="{site.revision}.zip"'
    assert found.headers["content-type"] == "application/zip"
    assert found.headers["cache-control"] == "no-store"
    with zipfile.ZipFile(io.BytesIO(found.content)) as archive:
        assert archive.testzip() is None
        assert set(archive.namelist()) >= {
            f"{site.revision}/{name}" for name in ("adapter_model.safetensors", "adapter_config.json")
        }
        archive.extractall(tmp_path)
    config = json.loads((tmp_path / site.revision / "adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == site.machine.model.name, "a name, not where it lies here"
    assert f"# {site.revision}\n" in (tmp_path / site.revision / "README.md").read_text("utf-8")
    base = AutoModelForCausalLM.from_pretrained(site.machine.model)
    model = PeftModel.from_pretrained(base, tmp_path / site.revision)
    # Without a look on the Hub for whether the vocabulary has grown.
    loaded: Any = get_peft_model_state_dict(model, save_embedding_layers=False)
    stored = site.machine.adapter(site.revision)
    assert set(loaded) == set(stored)
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)
    assert any(tensor.any() for tensor in stored.values())


def test_only_weights_configuration_and_card_are_in_it(site: Site) -> None:
    found = site.get(f"/{downloads.address(site.revision)}", "kim")
    with zipfile.ZipFile(io.BytesIO(found.content)) as archive:
        names = archive.namelist()
        content = b"".join(archive.read(name) for name in names)
    assert {Path(name).suffix for name in names} <= {".safetensors", ".json", ".jinja", ".txt", ".model", ".md"}
    assert [secret for secret in SECRETS if secret in content] == []
    for place in (site.machine.data_dir, site.machine.model.parent):
        assert str(place).encode() not in content, "where things lie on this machine is nobody's business"


def test_nobody_else_gets_it(site: Site) -> None:
    found = site.get(f"/{downloads.address(site.revision)}", "ann")
    assert (found.status_code, found.text) == (403, "Only an admin may fetch this.")
    assert site.get("/models/nothing.zip", "ann").status_code == 403, "not even whether there is one"
    stranger = site.get(f"/{downloads.address(site.revision)}", None)
    assert stranger.status_code == 401
    assert b"PK" not in stranger.content


def test_an_admin_gets_all_that_a_run_has_reported_and_nobody_else_does(site: Site) -> None:
    (job,) = job_store.recent(site.machine.db, ("sft",), 1)
    path = f"/{downloads.metrics_address(job.id)}"
    found = site.get(path, "kim")
    assert found.headers["content-type"].startswith("text/csv")
    assert found.headers["content-disposition"] == f'attachment; filename="job-{job.id}.csv"'
    rows = list(csv.DictReader(io.StringIO(found.text)))
    reported = job_store.metrics(site.machine.db, job.id)
    assert [int(row["step"]) for row in rows] == [entry["step"] for entry in reported]
    assert [row["loss"] for row in rows] == [str(entry.get("loss", "")) for entry in reported]
    assert site.get(path, "ann").status_code == 403
    assert site.get(path, None).status_code == 401
    for other in ("0.csv", "999.csv", "1", "-1.csv", "%D9%A1.csv", f"{10**20}.csv", "..%2fprefloop.db"):
        assert site.get(f"/{downloads.METRICS}/{other}", "kim").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/models/../prefloop.db",
        "/models/..%2fprefloop.db",
        "/models/%2e%2e%2fprefloop.db",
        "/models/%2e%2e/prefloop.db.zip",
        "/models/..%5cprefloop.db.zip",
        "/models//etc/passwd",
        "/models/%2fetc%2fpasswd.zip",
        "/models/..zip",
        "/models/...zip",
        "/models/.zip",
        "/models/sft-1",
        "/models/sft-1.zip%00",
        "/models/sft-1.zip%0a",
        "/models/sft-1.zip/adapter_model.safetensors",
        "/models/adapters%2fsft-1.zip",
        "/models/base.zip",
        "/models/serving.zip",
        "/models/nothing.zip",
        "/models/",
        "/models",
        "/models/" + "a" * 300 + ".zip",
    ],
)
def test_no_other_name_gives_anything(site: Site, path: str) -> None:
    found = site.get(path, "kim")
    assert [secret for secret in SECRETS if secret in found.content] == []
    assert not found.content.startswith(b"PK")
    assert found.status_code != 200 or found.headers["content-type"].startswith("text/html")


def test_a_policy_whose_files_are_gone_is_not_found(site: Site) -> None:
    machine = site.machine
    made = registry.by_revision(machine.db, site.revision)
    gone = registry.add(
        machine.db,
        revision="sft-99",
        algorithm="sft",
        base=made.base,
        parent_id=1,
        job_id=int(made.job_id or 0),
        path="adapters/sft-99",
        sha256="0",
    )
    found = site.get("/models/sft-99.zip", "kim")
    assert (found.status_code, found.text) == (404, "The files of 'sft-99' are gone.")
    (machine.data_dir / "adapters" / "sft-99").mkdir()
    (machine.data_dir / "adapters" / "sft-99" / "config.json").write_text(json.dumps({}), "utf-8")
    assert site.get("/models/sft-99.zip", "kim").status_code == 200
    job_submission.delete_policy(machine.db, machine.data_dir, gone.revision, "kim")
    assert site.get("/models/sft-99.zip", "kim").status_code == 404


def test_gradio_serves_no_model_to_anybody(site: Site) -> None:
    weights = site.machine.data_dir / "adapters" / site.revision / "adapter_model.safetensors"
    for name in ("ann", "kim"):
        for way in ("file=", "file/", "stream/"):
            assert site.get(f"/gradio_api/{way}{weights}", name).status_code in (403, 404)


# ----------------------------------------------------------------------------------------------------------- streaming
def test_a_large_model_is_sent_in_pieces_and_never_held_whole(tmp_path: Path) -> None:
    size = 24 * download_endpoint.CHUNK
    (tmp_path / "model.safetensors").write_bytes(b"\1" * size)
    (tmp_path / "config.json").write_text("{}", "utf-8")
    target = tmp_path / "sent.zip"
    tracemalloc.start()
    with target.open("wb") as sent:
        for piece in download_endpoint.zip_chunks("model", downloads.files_of(tmp_path)):
            assert len(piece) < 2 * download_endpoint.CHUNK
            sent.write(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size / 3
    with zipfile.ZipFile(target) as archive:
        assert archive.namelist() == ["model/config.json", "model/model.safetensors"]
        assert archive.read("model/model.safetensors") == b"\1" * size


def test_the_base_model_has_no_files_to_fetch_here(machine: Machine) -> None:
    with pytest.raises(UserError, match="no files of its own"):
        downloads.directory_of(machine.db, machine.data_dir, "base")


def test_the_size_of_a_policy_is_that_of_all_its_files(site: Site) -> None:
    db = open_database(site.machine.data_dir)
    made = registry.by_revision(db, site.revision)
    directory = site.machine.data_dir / str(made.path)
    listed = sum(path.stat().st_size for path in directory.iterdir())
    assert downloads.bytes_on_disk(site.machine.data_dir, made) == listed
    assert downloads.bytes_on_disk(site.machine.data_dir, registry.by_revision(db, "base")) == 0
    db.close()


def test_a_metric_that_a_rented_machine_named_is_no_formula_in_a_table() -> None:
    table = download_endpoint.metrics_table([{"step": 1, "=1+1": 0.5, "a;@x": 2.0}])
    assert table == "step,'=1+1,a;'@x\r\n1,0.5,2.0\r\n"
