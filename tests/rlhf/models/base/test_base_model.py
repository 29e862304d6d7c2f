"""The precision in which a base is held: chosen by the memory, changed by an admin, and what follows from that."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import huggingface_hub.constants
import psutil
import pytest
from safetensors.torch import load_file, save_file

from annotation.claims import handing_out, judging
from annotation.database import FILE_NAME, Database, open_database
from annotation.jobs import job_table
from annotation.records import UserError
from annotation.store import check_store, comparison_store, policy_comparisons, project_store, setting_store
from annotation.web import access
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.cli.policy_command import prepare
from rlhf.data.snapshots import CountedRows, prompt_rows, store_snapshot
from rlhf.evaluation import pair_outcomes
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.decisions import candidate_decision, candidate_findings
from rlhf.evaluation.finished_checks import measured_before
from rlhf.hub import job_bundle
from rlhf.jobs import job_spec, job_store
from rlhf.judges.judge_spec import JudgeSpec
from rlhf.models import registry
from rlhf.models.base import base_files, base_identity, base_model, base_precision
from rlhf.models.base.base_files import BaseModel
from rlhf.models.memory import machines
from rlhf.models.memory.machines import Machine
from rlhf.models.registry import Policy
from rlhf.submission import preconditions
from rlhf.submission.preflight import Preflight
from rlhf.tabs.judges import rubric_form
from tests.architectures import built
from tests.conftest import act, make_response, seed_prompts
from tests.fakes.hub_server import HubServer
from tests.rlhf.evaluation.test_decisions import finish_check, make_candidate, people_say


def with_memory(total: float, bf16: bool = True) -> Machine:
    """A machine with so many bytes."""
    return Machine("8 processors", int(total), int(total), bf16)


@pytest.fixture
def few_words(tmp_path: Path) -> Path:
    """A model whose embeddings, which NF4 leaves as they are, are small beside its layers."""
    built("llama", vocab_size=10).save_pretrained(tmp_path / "few-words")
    return tmp_path / "few-words"


@pytest.fixture
def bytes_in_16_bits(few_words: Path) -> int:
    """What that model's weights take in 16 bits, counted one by one."""
    return 2 * sum(weight.numel() for weight in load_file(few_words / "model.safetensors").values())


@pytest.mark.parametrize(
    ("times", "bf16", "chosen"),
    [(4.01, True, "bf16"), (3.99, True, "nf4"), (8.01, False, "fp32"), (7.99, False, "nf4")],
)
def test_16_bits_are_chosen_where_they_fit_into_a_quarter_of_the_memory(
    few_words: Path, bytes_in_16_bits: int, times: float, bf16: bool, chosen: str
) -> None:
    assert base_precision.precision_by_need(few_words, with_memory(times * bytes_in_16_bits, bf16)) == chosen


def test_nf4_is_not_chosen_where_it_saves_little(tmp_path: Path) -> None:
    """Experts stay in 16 bits all the same, so it would cost quality for nothing; unless only so it fits at all."""
    tiny = {"num_local_experts": 4, "num_experts_per_tok": 2}
    for family, settings, chosen in (("mixtral", tiny, "bf16"), ("llama", {}, "nf4")):
        model = built(family, **settings, vocab_size=10)
        model.save_pretrained(tmp_path / family)
        size = 2 * sum(weight.numel() for weight in model.parameters())
        found = [
            base_precision.precision_by_need(tmp_path / family, with_memory(share * size)) for share in (1, 0.9, 0.1)
        ]
        assert found == [chosen, "nf4", chosen]


@pytest.mark.parametrize(("how", "chosen"), [({"load_in_4bit": True}, "nf4"), ({"quant_method": "gptq"}, "bf16")])
def test_what_is_stored_quantised_is_held_as_it_is(tmp_path: Path, how: dict[str, object], chosen: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": how}), "utf-8")
    assert base_precision.precision_by_need(tmp_path, with_memory(1e12)) == chosen
    other = "bf16" if chosen == "nf4" else "nf4"
    problem = base_precision.precision_problem(tmp_path, other, with_memory(1e12))
    assert "can only be held as it is stored" in problem
    assert base_precision.precision_problem(tmp_path, chosen, with_memory(1e12)) == ""


def test_a_base_is_asked_once_and_an_earlier_data_directory_keeps_nf4(
    tmp_path: Path, few_words: Path, bytes_in_16_bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = BaseModel(str(few_words), few_words)
    for name, first, chosen in (("large", 100, "bf16"), ("small", 1, "nf4")):
        db = open_database(tmp_path / name)
        for times in (first, 101 - first):
            machine = with_memory(times * bytes_in_16_bits)
            monkeypatch.setattr(machines, "this_machine", lambda machine=machine: machine)
            assert base_identity.register(db, base).precision == chosen
        db.close()
    earlier = open_database(tmp_path / "earlier")
    registry.ensure_base(earlier, base.name)
    monkeypatch.setattr(machines, "this_machine", lambda: with_memory(1e12))
    assert base_identity.register(earlier, base).precision == "nf4"
    earlier.close()


def test_a_quantised_base_that_an_earlier_version_called_nf4_is_trained_by_lora(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left to NF4 the method would be QLoRA, which no weights in 8 bits take."""
    monkeypatch.setattr(machines, "this_machine", lambda: with_memory(1e12))
    db = open_database(tmp_path / "data")
    (tmp_path / "config.json").write_text("{}", "utf-8")
    base = BaseModel(str(tmp_path), tmp_path)
    registry.ensure_base(db, base.name)
    assert base_identity.register(db, base).precision == "nf4"
    for how in ({"load_in_8bit": True}, {"quant_method": "gptq"}):
        registry.set_precision(db, "nf4", "a test")
        (tmp_path / "config.json").write_text(json.dumps({"quantization_config": how}), "utf-8")
        spec = DPOSpec().on_weights(base_identity.register(db, base).precision)
        assert spec.method == "lora"
        assert not [*preconditions.quantised_problem(spec, base_precision.quantisation(tmp_path))]
        assert "Prefloop" not in (registry.precision_set(db) or ()), "no weights have changed, which judges ran on"
    db.close()


def test_a_precision_that_can_not_be_held_is_refused_and_nothing_changes(
    tmp_path: Path, few_words: Path, bytes_in_16_bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = open_database(tmp_path)
    registry.ensure_base(db, str(few_words))
    monkeypatch.setattr(machines, "this_machine", lambda: with_memory(bytes_in_16_bits - 1))
    for precision, said in (("int8", "not in 'int8'"), ("bf16", "Hold it in nf4"), ("fp32", "Hold it in nf4")):
        with pytest.raises(UserError, match=said):
            base_precision.change_precision(db, precision, "kim")
    assert (registry.serving(db).precision, registry.precision_set(db)) == ("nf4", None)
    monkeypatch.setattr(machines, "this_machine", lambda: with_memory(bytes_in_16_bits))
    for spec, said in ((CheckSpec(candidate="dpo-1"), "A check is running"), (JudgeSpec(judge="j"), "A judge is at")):
        at_work = job_store.enqueue(db, spec, "ann")
        job_store.claim(db, at_work, "w")
        with pytest.raises(UserError, match=said):
            base_precision.change_precision(db, "bf16", "kim")
        job_table.stop(db, at_work, "w", "failed", "for the test")
    assert (registry.serving(db).precision, registry.precision_set(db)) == ("nf4", None)
    assert base_precision.change_precision(db, "bf16", "kim") == registry.serving(db)
    found = registry.precision_set(db)
    assert (registry.serving(db).precision, found and found[0]) == ("bf16", "kim")
    db.close()


def candidate_of(db: Database) -> Policy:
    """A candidate on 4-bit weights."""
    base = registry.by_revision(db, "base")
    named = {"revision": "dpo-1", "algorithm": "dpo", "path": "adapters/dpo-1", "sha256": "0" * 64}
    return registry.add(db, base=base.base, parent_id=base.id, job_id=None, **named)


def test_in_another_precision_the_base_is_another_policy(db: Database) -> None:
    """What people said against it as it was is about that, and nobody is asked any more; it comes back with it."""
    candidate = candidate_of(db)
    project_store.set_project(db, replace(project_store.project(db), candidate_share=0.5))
    prompts = seed_prompts(db, 4, "held-out")
    for prompt in prompts:
        for model_id in (1, candidate.id):
            comparison_store.add_response(db, make_response(prompt, f"{prompt.id} by {model_id}", model_id), "check")
    assert policy_comparisons.compare_policies(db, candidate.id, 1) == 4
    ann = access.add_account(db, "ann", "annotator", "ann's password")
    for _ in range(2):
        claim = handing_out.claim_next(db, ann.id)
        assert claim is not None
        judging.judge(db, ann.id, claim.nonce, act("left-clearly"))
    before = pair_outcomes.outcomes(db, candidate.id, 1)
    assert (len(before), len(policy_comparisons.paired_answers(db, candidate.id, 1))) == (2, 4)

    registry.set_precision(db, "bf16", "kim")
    assert pair_outcomes.outcomes(db, candidate.id, 1) == []
    assert policy_comparisons.paired_answers(db, candidate.id, 1) == []
    assert check_store.checked_answers(db, 1) == []
    assert len(check_store.checked_answers(db, 1, "nf4")) == 4
    assert pair_outcomes.open_to_people(db, candidate.id, 1) == 0
    assert registry.by_revision(db, "dpo-1").precision == "nf4", "it goes on being served on what it was trained on"
    measured_on = registry.own_ground(db, registry.by_revision(db, "dpo-1"))
    assert (measured_on.revision, measured_on.precision) == ("base", "nf4")

    registry.set_precision(db, "nf4", "kim")
    assert pair_outcomes.outcomes(db, candidate.id, 1) == before


def test_every_training_is_left_to_the_precision_of_what_it_starts_from() -> None:
    for kind, spec_type in job_spec.trainings().items():
        spec = spec_type()
        assert (spec.method, spec.precision) == ("auto", "auto"), kind
        assert (spec.on_weights("nf4").method, spec.on_weights("nf4").held_in()) == ("qlora", "nf4")
        for precision in ("bf16", "fp32"):
            assert (spec.on_weights(precision).method, spec.on_weights(precision).held_in()) == ("lora", precision)
    assert DPOSpec(method="qlora").on_weights("bf16").method == "qlora", "the recipe stays, one click away"
    assert SFTSpec(method="prompt").on_weights("fp32").precision == "fp32"
    assert SFTSpec(method="lora", precision="bf16").on_weights("fp32").precision == "bf16"


def test_a_program_that_starts_again_asks_for_no_memory_that_its_workers_may_still_have(
    tiny_model: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It loads no model itself, and people are to judge; the jobs ask for what they need."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Mock(available=1))
    assert base_model.prepare(data_dir, str(tiny_model), known=True).path == tiny_model
    for ask in (base_model.prepare, base_model.ready):
        with pytest.raises(UserError, match=r"needs about 1\.0 GB of memory and 0\.0 GB are free"):
            ask(data_dir, str(tiny_model))


def test_a_model_has_to_fit_into_what_its_container_leaves(
    tiny_model: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine's memory is the host's: whoever goes by that is killed."""
    monkeypatch.setattr(machines, "container_limit", lambda: (2_000_000_000, 1_999_000_000))
    with pytest.raises(UserError, match=r"needs about 1\.0 GB of memory and 0\.0 GB are free"):
        base_model.prepare(data_dir, str(tiny_model))


@pytest.fixture
def commit(tiny_model: Path, tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], str]:
    """Make a commit of the tiny model as ann/tiny on the Hub, from which an empty cache is filled."""
    files = {path.name: path.read_bytes() for path in tiny_model.iterdir() if path.is_file()}
    address = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    told = {"HF_HUB_CACHE": str(tmp_path / "cache"), "ENDPOINT": hub.url, "HUGGINGFACE_CO_URL_TEMPLATE": address}
    for name, value in told.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    return lambda remark: hub.add_repo("model", "ann/tiny", {**files, "notes.txt": remark})


def test_a_base_of_the_hub_stays_what_it_is_under_its_adapters_until_somebody_prepares_it_anew(
    data_dir: Path, commit: Callable[[bytes], str]
) -> None:
    db, first = open_database(data_dir), commit(b"first")
    made = base_model.prepare(data_dir, "ann/tiny")
    assert made.path.name == first
    base_identity.register(db, made)
    second = commit(b"second")
    assert base_model.ready(data_dir, "ann/tiny").path.name == first
    assert base_model.prepare(data_dir, "ann/tiny", known=True).path.name == first
    assert base_model.prepare(data_dir.parent / "other", "ann/tiny").path.name == second, "moves the cache's branch"
    assert base_files.on_this_machine(data_dir, "ann/tiny") == made.path
    assert base_files.locate(data_dir, "ann/tiny") == BaseModel("ann/tiny", made.path)
    (made.path / "model.safetensors").unlink()
    assert base_model.ready(data_dir, "ann/tiny").path.name == first, "what is not whole is fetched as it was"
    third = commit(b"third")
    again = base_model.prepare(data_dir, "ann/tiny")
    assert again.path.name == first, "nor does a command that a message recommends"
    base_identity.register(db, again)
    anew = base_model.prepare(data_dir, "ann/tiny", anew=True)
    base_identity.register(db, anew)
    assert (anew.path.name, base_model.ready(data_dir, "ann/tiny").path) == (third, anew.path)
    db.close()


def test_what_the_disk_does_not_take_is_refused_before_any_of_it_is_fetched(
    data_dir: Path, commit: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = base_files.download(f"ann/tiny@{commit(b'whole')}")
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=base_files.SPARE_BYTES))
        assert base_files.download("ann/tiny") == made, "all of it is here"
        shutil.rmtree(made.parents[1])
        with pytest.raises(UserError, match=r"0\.0 GB are to be fetched and 0\.1 GB are free in .*cache"):
            base_files.download("ann/tiny")
        assert not made.exists()
    assert base_files.download("ann/tiny") == made


def test_a_repository_of_more_files_than_a_model_has_is_refused(
    hub: HubServer, commit: Callable[[bytes], str], tmp_path: Path
) -> None:
    hub.add_repo("model", "ann/many", {f"{number}.json": b"{}" for number in range(base_files.MOST_FILES + 1)})
    with pytest.raises(UserError, match="ann/many has more files than a model does: 2,001 are"):
        base_files.download("ann/many")
    assert not list(tmp_path.glob("cache/**/*.json"))


def test_nothing_that_was_answered_or_found_on_another_commit_of_the_base_decides(
    data_dir: Path, commit: Callable[[bytes], str]
) -> None:
    """Whatever policies were told of thinking meanwhile: these weights do not come back."""
    db = open_database(data_dir)
    commit(b"first")
    base_identity.register(db, base_model.prepare(data_dir, "ann/tiny"))
    made = make_candidate(db, data_dir, number=12)
    base = registry.by_revision(db, "base")
    finish_check(db, data_dir, made, against={"revision": "base", "precision": base.precision})
    people_say(db, 2, "candidate")
    before = candidate_findings.findings(db, made)
    assert (len(before.people), before.prompts) == (2, 60)
    assert candidate_findings.place_of(db, made) == len(list(measured_before(db, base))) == 1
    running = job_store.enqueue(db, CheckSpec(candidate=made.revision), "ann")
    job_store.claim(db, running, "w")
    commit(b"second")
    anew = base_model.prepare(data_dir, "ann/tiny", anew=True)
    with pytest.raises(UserError, match="A check is running"):
        base_identity.register(db, anew)
    assert base_model.ready(data_dir, "ann/tiny") != anew
    job_table.stop(db, running, "w", "failed", "for the test")
    judging = job_store.enqueue(db, JudgeSpec(judge="j"), "ann")
    job_store.claim(db, judging, "w")
    with pytest.raises(UserError, match="A judge is at work"):
        base_identity.register(db, anew)
    job_table.stop(db, judging, "w", "failed", "for the test")
    base_identity.register(db, anew)
    assert pair_outcomes.open_to_people(db, made.id, 1) == 0
    registry.set_thinking(db, "template")
    registry.set_thinking(db, "off")
    found = candidate_findings.findings(db, made)
    assert (found.people, found.prompts, candidate_findings.place_of(db, made)) == ((), None, 2)
    assert list(measured_before(db, base)) == []
    db.close()


def test_a_base_in_a_directory_that_was_changed_is_another_from_the_next_start_on(
    data_dir: Path,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By its chat template or by its weights, not by the time of its files; what nobody noted before is no change."""
    directory = shutil.copytree(tiny_model, tmp_path / "base")
    base, db = BaseModel(str(directory), directory), open_database(data_dir)
    registry.ensure_base(db, base.name)  # as an earlier version did
    base_identity.register(db, base)
    made = make_candidate(db, data_dir, number=12)
    precision = registry.by_revision(db, "base").precision
    finish_check(db, data_dir, made, against={"revision": "base", "precision": precision})
    people_say(db, 2, "candidate")
    os.utime(directory / "model.safetensors")
    monkeypatch.setattr(base_identity, "LONG_TO_READ", 0)
    for said in (True, False):
        base_identity.register(db, base)
        assert ("its weights (0.0 GB) are read" in capsys.readouterr().out) == said
    assert (candidate_findings.place_of(db, made), pair_outcomes.open_to_people(db, made.id, 1) > 0) == (1, True)
    decided = candidate_decision.decided(db, made)
    assert "others than before" not in capsys.readouterr().out
    template = directory / "chat_template.jinja"
    template.write_text(template.read_text("utf-8").replace("assistant\n", "assistant\n\n"), "utf-8")
    running = job_store.enqueue(db, CheckSpec(candidate=made.revision), "ann")
    job_store.claim(db, running, "w")
    with pytest.raises(UserError, match=r"A check is running\..* If Prefloop has just been ended, start it again in a"):
        base_identity.register(db, base)
    job_table.stop(db, running, "w", "failed", "for the test")
    base_identity.register(db, base)
    assert f"{directory}: its chat template or its weights are others than before" in capsys.readouterr().out
    assert (candidate_findings.place_of(db, made), pair_outcomes.open_to_people(db, made.id, 1)) == (2, 0)
    assert candidate_decision.decided(db, made) != decided
    changes = len(setting_store.setting(db, "thinking_changes", []))
    weights = load_file(directory / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    for _again in range(2):
        base_identity.register(db, base)
        assert len(setting_store.setting(db, "thinking_changes", [])) == changes + 1
    db.close()


def test_preparing_another_commit_says_what_is_another_from_then_on(
    data_dir: Path, commit: Callable[[bytes], str], capsys: pytest.CaptureFixture[str]
) -> None:
    other = "let judges that run on it judge again what people have judged"
    commit(b"first")
    for anew in (False, True):
        prepare(data_dir, "ann/tiny", anew)
        assert other not in capsys.readouterr().out
    commit(b"second")
    prepare(data_dir, "ann/tiny", anew=True)
    assert other in capsys.readouterr().out


def test_looking_for_the_commit_neither_writes_to_a_database_nor_brings_it_up_to_date(
    data_dir: Path, commit: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, db = commit(b"first"), open_database(data_dir)
    base_identity.register(db, base_model.prepare(data_dir, "ann/tiny"))
    db.connection.execute("DELETE FROM _sqlite_migrations WHERE name = (SELECT max(name) FROM _sqlite_migrations)")
    known = db.value("SELECT count(*) FROM _sqlite_migrations")
    monkeypatch.setattr(tempfile, "TemporaryFile", Mock(side_effect=OSError("no space left")))
    assert base_files.pinned(data_dir, "ann/tiny") == f"ann/tiny@{first}"
    assert db.value("SELECT count(*) FROM _sqlite_migrations") == known
    db.close()
    (data_dir / FILE_NAME).write_bytes(b"no database, and longer than the header of one is" * 9)
    with pytest.raises(UserError, match="not a readable SQLite database"):
        base_files.pinned(data_dir, "ann/tiny")


def test_too_little_memory_fetches_no_other_base(
    data_dir: Path, commit: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a page that looks at what is here."""
    first = commit(b"first")
    base_model.prepare(data_dir, "ann/tiny")
    commit(b"second")
    with monkeypatch.context() as full:
        full.setattr(psutil, "virtual_memory", lambda: Mock(available=1))
        with pytest.raises(UserError, match="GB are free"):
            base_model.ready(data_dir, "ann/tiny")
    assert base_model.ready(data_dir, "ann/tiny").path.name == first
    context = Mock(data_dir=data_dir, model="ann/tiny")
    rubric_form.tokenizer_of(context, Mock(settings={}))
    Preflight(Mock(), data_dir, "ann/tiny").base_directory()
    assert base_model.ready(data_dir, "ann/tiny").path.name == first


def test_what_is_sent_away_is_trained_on_the_same_commit(
    data_dir: Path, tmp_path: Path, commit: Callable[[bytes], str]
) -> None:
    db, first = open_database(data_dir), commit(b"first")
    base_identity.register(db, base_model.prepare(data_dir, "ann/tiny"))
    seed_prompts(db, 3)
    spec = SFTSpec(parent="base", snapshot=store_snapshot(db, data_dir, CountedRows(prompt_rows(db))))
    job = job_store.get(db, job_store.enqueue(db, spec, "kim"))
    for name, content in job_bundle.pack(db, data_dir, job).items():
        (tmp_path / "sent" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sent" / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    second = commit(b"second")
    assert base_model.prepare(tmp_path / "other", "ann/tiny").path.name == second
    there, arrived = job_bundle.unpack(tmp_path / "sent", tmp_path / "there")
    assert arrived.spec == replace(spec, model="ann/tiny")
    assert base_model.ready(tmp_path / "there", "ann/tiny").path.name == first
    there.close()
    db.close()


def test_a_second_form_of_the_weights_asks_for_no_memory(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Mistral's models have it beside their shards."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "consolidated.safetensors").write_bytes(b"0" * 10_000_000)
    asked: list[int] = []
    monkeypatch.setattr(base_model, "check_memory", lambda base, weights: asked.append(weights))
    base_model.check(BaseModel("model", model))
    assert asked == [(model / "model.safetensors").stat().st_size]
