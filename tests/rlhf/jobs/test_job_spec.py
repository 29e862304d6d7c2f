"""Specs: the same text for the same spec, back again unchanged, and one sentence for every mistake."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from itertools import product
from operator import attrgetter
from typing import Any, get_args

import pytest

from annotation.records import Sampling, UserError
from annotation.validation import describe, hint_at, label_of, read
from rlhf.algorithms import ALGORITHMS
from rlhf.algorithms.dpo.spec import BETAS, DPOSpec, PreferenceLoss
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.gate import Rule
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.generation.prompt_set_spec import PromptSetSpec
from rlhf.jobs.job_spec import JobSpec, TrainingSpec, from_json, from_row, target_layers, to_json
from rlhf.judges.judge_settings import EndpointSettings
from rlhf.kinds import KINDS

CHANGED: list[JobSpec] = [
    AnsweringSpec(seed=3, stock=5, answers=4, until_full=True, sampling=Sampling(1.1, 0.0, 7)),
    DPOSpec(snapshot="ab", scope="all", parent="dpo-1", reference="parent", beta=0.3, sft_weight=0.0, check=False),
    DPOSpec(annotator_noise="smooth"),
    CheckSpec(candidate="dpo-2", against="base", prompts=9, sampling=Sampling(0.5, 0.1, 12)),
]


@pytest.mark.parametrize("spec", [*(kind() for kind in KINDS.values()), *CHANGED], ids=repr)
def test_a_spec_comes_back_from_its_json_as_it_was(spec: JobSpec) -> None:
    for read_back in (from_json, from_row):
        assert read_back(to_json(spec)) == spec
        assert to_json(read_back(to_json(spec))) == to_json(spec)


def test_fields_left_out_keep_their_defaults_and_whole_numbers_pass_for_floats() -> None:
    spec = from_json('{"kind": "dpo", "beta": 1}')
    assert spec == replace(DPOSpec(), beta=1.0)
    assert isinstance(spec, DPOSpec)
    assert isinstance(spec.beta, float)
    nested = from_json('{"kind": "answering", "sampling": {"temperature": 1}}')
    assert isinstance(nested, AnsweringSpec)
    assert nested.sampling == Sampling(temperature=1.0)


def test_the_text_of_a_spec_does_not_depend_on_the_order_of_its_fields() -> None:
    assert to_json(from_json('{"kind":"dpo","seed":1,"beta":0.5}')) == to_json(
        from_json('{"beta":0.5,"seed":1,"kind":"dpo"}')
    )


def test_a_spec_of_when_a_kind_was_called_otherwise_is_read() -> None:
    for read_back in (from_json, from_row):
        assert read_back('{"kind": "generate", "stock": 7}') == AnsweringSpec(stock=7)
        assert read_back('{"kind": "answer", "each": 2}') == PromptSetSpec(each=2)
        assert read_back('{"kind": "evaluate", "candidate": "dpo-2"}') == CheckSpec(candidate="dpo-2")
        assert read_back('{"kind": "dpo", "evaluate": false, "beta": 0.2}') == DPOSpec(check=False, beta=0.2)


MISTAKES: list[tuple[Any, str]] = [
    ("{", "not JSON"),
    ([], '"kind"'),
    ({"beta": 0.1}, '"kind"'),
    ({"kind": "nothing"}, ", ".join(KINDS)),
    ({"kind": "dpo", "betta": 0.1}, "no field 'betta'"),
    ({"kind": "answering", "sampling": {"temprature": 1}}, "no field 'sampling.temprature'"),
    ({"kind": "answering", "sampling": 1}, "'sampling' must be an object"),
    ({"kind": "dpo", "beta": "0.1"}, "'beta' must be of type float"),
    ({"kind": "dpo", "beta": None}, "'beta' must be of type float"),
    ({"kind": "dpo", "epochs": 1.5}, "'epochs' must be of type int"),
    ({"kind": "dpo", "epochs": True}, "'epochs' must be of type int"),
    ({"kind": "dpo", "beta": True}, "'beta' must be of type float"),
    ({"kind": "dpo", "check": 1}, "'check' must be of type bool"),
    ({"kind": "dpo", "snapshot": 5}, "'snapshot' must be of type str"),
    ({"kind": "dpo", "reference": "copy"}, "'reference' must be one of base, parent"),
    ({"kind": "dpo", "scope": "old"}, "'scope' must be one of new, all"),
    ({"kind": "dpo", "epochs": 0}, "'epochs' must be above zero"),
    ({"kind": "dpo", "learning_rate": -1e-4}, "'learning_rate' must not be negative"),
    ({"kind": "dpo", "beta": -0.1}, "'beta' must not be negative"),
    ({"kind": "dpo", "seed": -1}, "'seed' must not be negative"),
    ({"kind": "dpo", "sft_weight": float("nan")}, "'sft_weight' must not be negative"),
    ({"kind": "dpo", "beta": float("inf")}, "'beta' must not be negative"),
    ({"kind": "answering", "sampling": {"min_p": 1}}, "'sampling.min_p' must be below 1"),
    ({"kind": "answering", "sampling": {"temperature": 0}}, "'sampling.temperature' must be above zero"),
    ({"kind": "answering", "sampling": {"max_new_tokens": 0}}, "'sampling.max_new_tokens' must be above zero"),
    ({"kind": "dpo", "annotator_noise": "flip"}, "'annotator_noise' must be one of ignore, weight, smooth"),
    ({"kind": "answering", "answers": 1}, "between 2 and 8, or 0 for the project's"),
    ({"kind": "answering", "answers": 9}, "between 2 and 8"),
    ({"kind": "check", "prompts": 0}, "'prompts' must be above zero"),
]


@pytest.mark.parametrize(("spec", "sentence"), MISTAKES, ids=[sentence for _, sentence in MISTAKES])
def test_a_mistake_is_named_with_its_field_in_one_sentence(spec: Any, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        from_json(spec if isinstance(spec, str) else json.dumps(spec))
    message = str(caught.value)
    assert sentence in message
    assert "\n" not in message


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_described_with_its_default(kind: str) -> None:
    described = describe(KINDS[kind])
    assert [name for name, _, _ in described] == [entry.name for entry in fields(KINDS[kind])]
    for name, default, sentence in described:
        assert default == getattr(KINDS[kind](), name)
        assert len(sentence.split()) > 2, name
        assert sentence.endswith("."), name


# ------------------------------------------------------------------------------------------------------------ defaults
def test_zeros_stand_for_the_defaults_of_the_method_and_of_the_loss() -> None:
    assert BETAS.keys() == set(get_args(PreferenceLoss))
    for loss, (beta, source) in BETAS.items():
        found = DPOSpec(loss=loss, method="lora").filled()
        assert (found.beta, found.learning_rate) == (beta, DPOSpec.methods["lora"].value)
        assert source
    assert BETAS["length-normalised"][0] > 10 * BETAS["sigmoid"][0], "log-ratios per token are smaller"
    assert SFTSpec(learning_rate=3e-4).filled() == SFTSpec(learning_rate=3e-4)


def test_a_beta_that_was_stored_keeps_its_meaning() -> None:
    stored = from_json('{"kind": "dpo", "beta": 0.1, "loss": "length-normalised"}')
    assert isinstance(stored, DPOSpec)
    assert stored.filled().beta == 0.1


# Numbers that are no part of a recipe: what is random, how much memory a pass takes, when what is looked at and kept.
NO_RECIPE = {"seed", "checkpoint_steps", "samples", "processes", "accepted_accuracy", "learning_rate", "flip_rate"}
# Said with another field, and by whom.
SAID_WITH = {
    "accumulation": "batch_size", "rollouts": "steps", "epochs": "minibatches", "batch_size": "minibatches"
}  # fmt: skip
SOURCE = re.compile(r"[A-Z]\w+ (et al\. )?\(?(19|20)\d\d|Our choice|TRL|Alpaca|DPO paper")


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_every_number_of_a_recipe_says_where_it_comes_from(kind: str) -> None:
    said = {name: sentence for name, _, sentence in describe(KINDS[kind])}
    for name, default, sentence in describe(KINDS[kind]):
        if isinstance(default, bool) or not isinstance(default, int | float) or name in NO_RECIPE:
            continue
        assert SOURCE.search(sentence) or SOURCE.search(said.get(SAID_WITH.get(name, ""), "")), name


# ---------------------------------------------------------------------------------------------------- what can't work
@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (SFTSpec(method="prompt", virtual_text=""), "virtual_text is empty"),
        (DPOSpec(method="prompt", virtual_text=" \n"), "virtual_text is empty"),
        (SFTSpec(lora_targets="named"), "put them into lora_layers"),
        (PPOSpec(lora_targets="named", lora_layers=" , "), "put them into lora_layers"),
        (RewardModelSpec(lora_layers="q_proj"), "lora_layers are used with lora_targets 'named' only"),
        (DPOSpec(loss="ipo", offset=0.5), "offset belongs to the sigmoid"),
        (PPOSpec(kl_coefficient=0.0), "kl_coefficient is 0, which stays 0"),
    ],
)
def test_what_cannot_work_whatever_the_data_is_refused(spec: TrainingSpec, reason: str) -> None:
    assert any(reason in sentence for sentence in spec.impossible())


def test_without_a_text_virtual_tokens_can_start_from_the_vocabulary() -> None:
    assert SFTSpec(method="prompt", virtual_text="", virtual_init="random").impossible() == []
    assert SFTSpec(method="lora", virtual_text="").impossible() == []


def test_layers_are_named_by_how_they_end() -> None:
    assert target_layers(SFTSpec()) == ()
    assert target_layers(SFTSpec(lora_targets="attention")) == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert target_layers(SFTSpec(lora_targets="named", lora_layers=" c_attn,mlp.c_proj , ")) == ("c_attn", "mlp.c_proj")


# ---------------------------------------------------------------------------------------------------------------- junk
DEEP: Any = 0
for _ in range(500):
    DEEP = [{"deeper": DEEP}]
JUNK: list[Any] = [
    *(None, True, False, "", "nan", "x" * 5000, "\u202egnp.exe", "\x07", "\ud800", b"x", [], {}, (), ["x"], {"x": 1}),
    *(0, 1, -1, 10**400, -(10**400), 0.5, -0.5, 2.0, 1e-320, 1e308, float("nan"), float("inf"), -float("inf"), DEEP),
]


def said_of(kind: type[Any], values: Mapping[str, Any], whole: str) -> str:
    """The sentence that refuses values; empty where they are taken."""
    try:
        read(kind, values, whole)
    except UserError as refusal:
        return str(refusal)
    return ""


@pytest.mark.parametrize("kind", KINDS)
def test_junk_in_any_field_is_refused_in_a_sentence_or_is_what_the_field_holds(kind: str) -> None:
    spec = KINDS[kind]
    inside = [f"sampling.{entry.name}" for entry in fields(Sampling) if hasattr(spec(), "sampling")]
    for name, junk in product([*(entry.name for entry in fields(spec)), *inside], JUNK):
        values = {"sampling": {name.removeprefix("sampling."): junk}} if name in inside else {name: junk}
        said = said_of(spec, values, "The spec")
        assert_a_sentence(said, f"'{name}")
        if not said:
            made: Any = read(spec, values, "The spec")
            found, default = ((attrgetter(name)(one)) for one in (made, spec()))
            assert type(found) is type(default), f"{name} of {junk!r:.50}"
            assert found == junk or (name == "sampling" and junk == {})
            assert from_json(to_json(made)) == made


def test_junk_in_the_gates_rule_and_an_endpoint_is_refused_by_the_fields_name() -> None:
    sound = {"address": "https://api.example.com/v1", "model": "judge-1"}
    for kind, given in ((Rule, {}), (EndpointSettings, sound)):
        for name, junk in product([entry.name for entry in fields(kind)], JUNK):
            said = said_of(kind, {**given, name: junk}, "The whole")
            assert_a_sentence(
                said, label_of(hint_at(kind, [name])) or ("" if name in (*sound, "key_variable") else name)
            )


def assert_a_sentence(said: str, name: str) -> None:
    """Whether it is empty, or one short line that names the field and shows what can't be seen escaped."""
    if said:
        assert name in said
        assert said.isprintable(), said
        assert said.endswith(".")
        assert len(said) < 400


def test_a_row_of_another_version_says_what_is_not_known_of_it() -> None:
    with pytest.raises(UserError, match="There is no field 'gone'"):
        from_row('{"kind": "dpo", "gone": 1}')
    with pytest.raises(UserError, match=r"There is no field 'sampling\.gone'"):
        from_row('{"kind": "answering", "sampling": {"gone": 1}}')
    with pytest.raises(UserError, match='needs a field "kind", one of: answering'):
        from_row('{"kind": "gone"}')
    assert from_row('{"kind": "answering", "sampling": {"min_p": 0.2}}') == AnsweringSpec(sampling=Sampling(min_p=0.2))


def test_what_is_no_json_or_no_kind_is_refused_in_a_sentence() -> None:
    for text in ("[" * 100_000, '{"kind": "dpo", "seed": ' + "9" * 5000 + "}", '{"kind": []}', '{"kind": {}}', "NaN"):
        with pytest.raises(UserError, match=r"The spec (is|needs)"):
            from_json(text)


def test_without_a_field_that_has_no_default_it_is_named() -> None:
    assert said_of(EndpointSettings, {"model": "judge-1"}, "The endpoint") == "The endpoint's 'address' is missing."
