"""The forms of the training jobs: every field of a spec is asked once, in words, and the form makes that spec."""

from __future__ import annotations

from dataclasses import fields as fields_of
from dataclasses import replace
from typing import Any, get_args, get_type_hints

import pytest

from annotation.examples.example_sets import EXAMPLES
from annotation.records import UserError
from annotation.translation import language_of, speaking
from rlhf.algorithms import ALGORITHMS
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.measure_spec import MeasureSpec
from rlhf.algorithms.merge_spec import MergeSpec
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.jobs import job_spec
from rlhf.jobs.job_spec import to_json
from rlhf.submission import form_fields
from rlhf.submission.form_fields import Form

FORMS = form_fields.forms()
BY_NAME = {form.name: form for form in FORMS}
EVERY_FORM = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)


def first_values(form: Form) -> dict[str, Any]:
    """What the form shows at first."""
    return {name: form.described[name][0] for name in form.names}


def test_every_kind_of_training_has_a_form() -> None:
    assert {form.spec_type.kind for form in FORMS} == set(ALGORITHMS)
    assert all(form.layout.label for form in FORMS)
    assert len({form.layout.label for form in FORMS}) == len(FORMS) == len(BY_NAME)


@EVERY_FORM
def test_every_field_of_the_spec_is_asked_once_with_its_sentence(form: Form) -> None:
    asked = set(form.names)
    assert len(form.names) == len(asked)
    assert asked == {*form.layout.main, *(name for names in form.groups.values() for name in names)}
    known = {entry.name for entry in fields_of(form.spec_type)} - {*form_fields.UNASKED, *form.spec_type.unasked}
    unasked = known - asked
    assert all(name in form.layout.fixed or form.never(name) for name in unasked), unasked
    assert all(form.described[name][1].endswith(".") for name in form.names)
    assert len({form.label(name) for name in form.names}) == len(form.names)
    assert {"parent", "seed", "learning_rate"} <= set(form.layout.main)


def test_the_fields_that_one_method_alone_uses_are_not_asked_by_forms_without_it() -> None:
    assert not {"lora_r", "virtual_tokens", "method"} & set(BY_NAME["full"].names)
    assert "virtual_text" not in BY_NAME["reward_model"].names
    assert {"lora_r", "virtual_text", "method"} <= set(BY_NAME["dpo"].names)
    assert "samples" not in BY_NAME["reward_model"].names


@EVERY_FORM
def test_a_form_as_it_is_makes_the_default_spec(form: Form) -> None:
    assert form_fields.spec_of(form, "base", first_values(form)) == form.spec_type(**form.layout.fixed)


@EVERY_FORM
def test_every_choice_has_words_and_the_default_is_marked(form: Form) -> None:
    hints = get_type_hints(form.spec_type)
    for name in form.names:
        choices, allowed = form.choices(name), get_args(hints.get(name, object))
        expected = form.methods if name == "method" else allowed
        assert {value for _, value in choices} == set(expected)
        marked = [value for words, value in choices if words.endswith("(default)")]
        assert marked == ([form.described[name][0]] if choices else [])


def test_every_field_that_is_asked_gets_into_the_spec() -> None:
    """Changed one by one, with what makes it meaningful."""
    for form in FORMS:
        for name in form.names:
            default = form.described[name][0]
            others = [value for _, value in form.choices(name) if value != default]
            changed = others[0] if others else another(default)
            meaningful = what_makes_meaningful(form, name)
            made = form_fields.spec_of(form, "base", {**first_values(form), **meaningful, name: changed})
            found = made.sampling if name.startswith("sampling.") and isinstance(made, PPOSpec) else made
            assert getattr(found, name.removeprefix("sampling.")) == changed, f"{form.name}: {name}"


def what_makes_meaningful(form: Form, name: str) -> dict[str, Any]:
    """Values of other fields with which this one is asked."""
    if name not in form.only_with:
        return {}
    other, needed = form.only_with[name]
    return {**what_makes_meaningful(form, other), **({} if other in form.layout.fixed else {other: needed[0]})}


def another(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    return f"{value}x" if isinstance(value, str) else value + (1 if isinstance(value, int) else 0.25)


def test_what_is_hidden_keeps_its_default() -> None:
    form = BY_NAME["dpo"]
    values = {**first_values(form), "lora_r": 99, "dora": True, "flip_rate": 0.3, "virtual_tokens": 7}
    assert form_fields.hidden(form, values) >= {"virtual_tokens", "flip_rate"}
    assert form_fields.spec_of(form, "base", values) == DPOSpec(lora_r=99, dora=True)
    tuned = {**values, "method": "prompt", "loss": "robust"}
    assert form_fields.hidden(form, tuned) == {*form_fields.LORA, "offset"}
    assert form_fields.spec_of(form, "base", tuned) == DPOSpec(
        method="prompt", loss="robust", flip_rate=0.3, virtual_tokens=7
    )
    assert "kl_target" in form_fields.hidden(BY_NAME["ppo"], {"kl_control": "fixed", "method": "lora"})


def test_a_field_of_a_choice_that_is_itself_hidden_is_hidden_too() -> None:
    form = BY_NAME["sft"]
    values = {**first_values(form), "lora_targets": "named", "lora_layers": "c_attn"}
    assert form_fields.spec_of(form, "base", values) == SFTSpec(lora_targets="named", lora_layers="c_attn")
    assert "lora_layers" in form_fields.hidden(form, {**values, "lora_targets": "attention"})
    tuned = {**values, "method": "prompt", "virtual_init": "random", "virtual_text": "unused"}
    assert {"lora_layers", "virtual_text"} <= form_fields.hidden(form, tuned)
    assert form_fields.spec_of(form, "base", tuned) == SFTSpec(method="prompt", virtual_init="random")
    assert not {"lora_layers", "virtual_text"} & set(BY_NAME["full"].names)


@EVERY_FORM
def test_the_help_of_the_method_explains_what_is_offered_and_nothing_else(form: Form) -> None:
    if "method" in form.names:
        words = form.described["method"][1]
        assert {value for value in get_args(job_spec.Method) if f"'{value}'" in words} == set(form.methods)


def test_ppo_draws_from_the_policys_own_distribution() -> None:
    form = BY_NAME["ppo"]
    values = {**first_values(form), "sampling.temperature": 0.7, "sampling.max_new_tokens": 12}
    drawn = replace(PPOSpec().sampling, temperature=0.7, max_new_tokens=12)
    assert form_fields.spec_of(form, "base", values) == PPOSpec(sampling=drawn)
    assert drawn.min_p == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("annotator_noise", "flip"),
        ("annotator_noise", None),
        ("beta", -0.1),
        ("epochs", None),
        ("learning_rate", -1.0),
        ("learning_rate", float("inf")),
        ("seed", 1.5),
        ("method", ["lora"]),
        ("check", 1),
        ("parent", None),
    ],
)
def test_a_setting_that_cannot_be_meant_is_named(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=BY_NAME["dpo"].label(name)):
        form_fields.spec_of(BY_NAME["dpo"], "base", {**first_values(BY_NAME["dpo"]), name: value})


def test_the_full_form_is_full_whatever_it_is_sent() -> None:
    form = BY_NAME["full"]
    assert form_fields.spec_of(form, "base", first_values(form)) == SFTSpec(method="full")
    assert form.methods == ("full",)


def test_the_form_that_goes_on_from_a_run() -> None:
    expected = {
        ("sft", "lora"): "sft", ("sft", "full"): "full", ("dpo", "full"): "dpo", ("ppo", "lora"): "ppo",
        ("reward_model", "qlora"): "reward_model", ("merge", ""): "dpo", ("base", ""): "dpo",
    }  # fmt: skip
    assert {key: form_fields.form_for(*key).name for key in expected} == expected


def test_the_shipped_examples_can_be_chosen() -> None:
    assert {value for _, value in form_fields.form_for("sft", "lora").spec_type.offered["source"]()} == {
        "demonstrations",
        *(f"example:{name}" for name in EXAMPLES),
    }


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("accumulation", "4", 4),
        ("beta", "5", 5),
        ("beta", " 0.2 ", 0.2),
        ("beta", "0,2", 0.2),
        ("beta", "1,5", 1.5),
        ("beta", "0,125", 0.125),
        ("learning_rate", "1,5e-4", 1.5e-4),
    ],
)
def test_a_number_is_typed_where_an_empty_field_leaves_it_open(name: str, text: str, value: float) -> None:
    form = BY_NAME["dpo"]
    made = form_fields.spec_of(form, "base", {**first_values(form), name: text})
    assert getattr(made, name) == value


@pytest.mark.parametrize(("language", "thousands", "fraction"), [("en", "2,000", "2.000"), ("de", "2.000", "2,000")])
def test_what_may_stand_between_thousands_in_the_readers_language_is_no_point(
    language: str, thousands: str, fraction: str
) -> None:
    form = BY_NAME["dpo"]
    with speaking(language_of(language)):
        for name in ("beta", "accumulation"):
            with pytest.raises(UserError, match=thousands):
                form_fields.spec_of(form, "base", {**first_values(form), name: thousands})
            made = form_fields.spec_of(form, "base", {**first_values(form), name: fraction})
            assert getattr(made, name) == 2


@EVERY_FORM
def test_checkpoints_are_left_to_their_share_of_the_time_by_an_empty_field(form: Form) -> None:
    values = {**first_values(form), "checkpoint_steps": ""}
    assert form_fields.spec_of(form, "base", values).checkpoint_steps == 0
    assert form_fields.spec_of(form, "base", {**values, "checkpoint_steps": "20"}).checkpoint_steps == 20
    assert "0 for" not in form.described["checkpoint_steps"][1]


def test_what_an_empty_field_stands_for_is_written_as_it_may_be_typed() -> None:
    form = BY_NAME["dpo"]
    values = {**first_values(form), "method": "lora"}
    with speaking(language_of("de")):
        meant = form_fields.spec_of(form, "base", values).open_values()
    for name in ("beta", "learning_rate"):
        assert "," in meant[name]
        typed = form_fields.spec_of(form, "base", {**values, name: meant[name]})
        assert getattr(typed, name) == float(meant[name].replace(",", "."))


@EVERY_FORM
def test_what_can_not_be_meant_is_refused_under_the_label_that_the_form_shows(form: Form) -> None:
    for name in form.names:
        default = form.described[name][0]
        if isinstance(default, bool) or form.choices(name) or name in form.spec_type.lists or isinstance(default, str):
            continue
        for language in ("en", "de"):
            with speaking(language_of(language)):
                label = form.label(name)
                values = {**first_values(form), **what_makes_meaningful(form, name)}
                for wrong in (-1, "x", float("inf")):
                    with pytest.raises(UserError) as refused:
                        form_fields.spec_of(form, "base", {**values, name: wrong})
                    said = str(refused.value)
                    assert said[1:].startswith(label), said  # in quotation marks
                    assert "float" not in said, said
                    assert " int" not in said, said


def test_sentences_about_settings_call_them_what_the_form_does() -> None:
    said = "lora_targets 'named' needs the names: put them into lora_layers, or lower sampling.max_new_tokens."
    assert form_fields.in_labels(said, PPOSpec()) == (
        "“LoRA targets” 'named' needs the names: put them into “LoRA layers”, or lower “Max new tokens”."
    )
    with speaking(language_of("de")):
        assert form_fields.in_labels("Senke batch_size (8) und erhöhe accumulation ebenso.", DPOSpec()) == (
            "Senke „Batchgröße“ (8) und erhöhe „Akkumulation“ ebenso."
        )
    assert form_fields.in_labels("No memory.", MergeSpec()) == "No memory."
    measuring = MeasureSpec(training=to_json(DPOSpec()))
    assert form_fields.in_labels("Raise max_length.", measuring) == "Raise “Max length”."


@pytest.mark.parametrize(
    "said",
    [
        *("/data/reward_model/x: not there", "reward_model/x: not there", "reward_model.safetensors: not there"),
        *("my-reward_model", "old.reward_model", "no attribute 'reward_model'", 'KeyError: "reward_model"'),
        "give that share as accepted_accuracy, which no form asks for",
    ],
)
def test_what_is_no_setting_that_a_form_asks_for_keeps_its_name(said: str) -> None:
    assert form_fields.in_labels(said, PPOSpec()) == said
