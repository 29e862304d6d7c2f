"""The form of a new AI judge on their tab: a chat model on this machine, a reward model, or an endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr

from annotation.database import Database
from annotation.records import UserError
from annotation.tabs.components import number_field, open_choice, text_in
from annotation.translation import N_, _
from annotation.validation import from_form
from rlhf.jobs.descriptions import Made
from rlhf.judges import judge_store, local_models, openai_client
from rlhf.judges.judge_settings import (
    Backend,
    DirectorySettings,
    EndpointSettings,
    LocalSettings,
    NoThinking,
    RewardModelSettings,
)
from rlhf.judges.judge_store import Judge
from rlhf.models import registry
from rlhf.submission import preflight

Values = Mapping[str, Any]

BACKENDS: Mapping[Backend, str] = {
    "local": N_("A chat model on this machine"),
    "reward-model": N_("A reward model"),
    "endpoint": N_("An endpoint"),
}
# Of an endpoint's settings those that are numbers, with their labels and what they mean.
NUMBERS: Mapping[str, tuple[str, str]] = {
    "timeout_seconds": (N_("Time-out, seconds"), N_("For one call.")),
    "retries": (N_("Retries"), N_("Of a call that failed for a reason that may pass.")),
    "concurrency": (N_("Calls at a time"), N_("As many as the endpoint stands.")),
    "calls": (N_("Calls in a job, at most"), N_("Repeated ones included.")),
    "total_calls": (N_("Calls in all jobs, at most"), N_("Failed and repeated ones included.")),
    "max_tokens": (N_("Tokens of a reply, at most"), N_("A model that thinks first needs thousands.")),
    "temperature": (N_("Temperature"), N_("0 for the likeliest reply.")),
    "price_in": (N_("Price of a million tokens of prompts"), ""),
    "price_out": (N_("Price of a million tokens of replies"), ""),
}
# Of these numbers those that can be left out, and what stands in the empty field then.
LEFT_OUT: Mapping[str, str] = {
    "total_calls": N_("no limit"),
    "price_in": N_("not known"),
    "price_out": N_("not known"),
}
TEXTS = ("address", "endpoint_model", "key_variable")
FIELDS = ("name", "backend", "model", "directory", "reward", *TEXTS, *NUMBERS, "no_thinking")
# Of these what is chosen of the rows.
CHOSEN = ("model", "reward")
# How an endpoint is told not to think, and what that is called.
NO_THINKING: Mapping[NoThinking, str] = {
    "": N_("not at all"),
    "enable_thinking": N_("in its chat template (vLLM, SGLang, llama.cpp)"),
    "none": N_("reasoning effort: none"),
    "minimal": N_("reasoning effort: minimal"),
    "low": N_("reasoning effort: low"),
}
KEY_NOTE = N_(
    "Name of the environment variable that holds the key where Prefloop runs: OPENAI_API_KEY, or one that "
    "begins with PREFLOOP_JUDGE_. Never the key itself."
)
LOCAL_NOTE = N_(
    "It is asked for one letter, and the probabilities of A and B are its chances. The base model if none is "
    "chosen; SmolLM2-135M-Instruct is too small to judge."
)


# --------------------------------------------------------------------------------------------------- form and judge
def settings_of(db: Database, values: Values) -> tuple[Backend, dict[str, Any]]:
    """A judge's backend and settings. Raises UserError naming what can't be meant."""
    backend = values["backend"]
    if backend == "endpoint":
        return "endpoint", endpoint_settings(values)
    if backend == "reward-model":
        if not text_in(values["reward"]):
            raise UserError(_("Choose a reward model. The Train tab makes them."))
        return "reward-model", {"model": revision_of(db, values["reward"], "reward-model")}
    if backend != "local":
        raise UserError(_("Choose what judges: a chat model, a reward model, or an endpoint."))
    directory = text_in(values["directory"]).strip()
    if directory:
        return "local", asdict(local_models.settings_of_directory(db.path.parent, directory))
    return "local", {"model": revision_of(db, text_in(values["model"]) or "base", "policy")}


def revision_of(db: Database, revision: Any, kind: Made) -> str:
    """The revision of a model of this kind. Raises UserError for another kind, and where its files were deleted."""
    found = registry.by_revision(db, text_in(revision))
    if found.kind != kind:
        other = (
            _("'{revision}' is no reward model. Choose another.")
            if kind == "reward-model"
            else _("'{revision}' is no policy. Choose another.")
        )
        raise UserError(other.format(revision=found.revision))
    registry.require_files(found)
    return found.revision


def endpoint_settings(values: Values) -> dict[str, Any]:
    """An endpoint's settings. Raises UserError naming the one at fault."""
    numbers = from_form({name: values[name] for name in NUMBERS if values[name] is not None or name not in LEFT_OUT})
    address, model, key = (text_in(values[name]).strip() for name in TEXTS)
    texts = {"address": address, "model": model, "key_variable": key, "no_thinking": text_in(values["no_thinking"])}
    labels = {name: _(label) for name, (label, _info) in NUMBERS.items()}
    return asdict(openai_client.settings_of({**texts, **numbers}, labels))


def what_it_is(judge: Judge) -> str:
    """A judge's backend and settings in a few words."""
    match judge.settings:
        case RewardModelSettings(model):
            return _("reward model {model}").format(model=model)
        case LocalSettings(model):
            return _("model {model}").format(model=model)
        case DirectorySettings(directory, precision):
            return _("model in {directory}, {precision}").format(directory=directory, precision=precision)
        case EndpointSettings(model=model, key_variable="") as known:
            return _("{model} at {host}, without a key").format(model=model, host=known.host)
        case EndpointSettings(model=model, key_variable=key) as known:
            return _("{model} at {host}, key from {key_variable}").format(
                model=model, host=known.host, key_variable=key
            )


# ---------------------------------------------------------------------------------------------------------- the page
@dataclass(frozen=True)
class JudgeFormPage:
    """The components: the fields by name, and the group of those that each backend has."""

    fields: Mapping[str, Any]
    groups: Mapping[Backend, gr.Column]

    @property
    def inputs(self) -> list[Any]:
        return [self.fields[name] for name in FIELDS]

    @property
    def typed(self) -> list[Any]:
        """Those of them that don't follow the rows."""
        return [self.fields[name] for name in FIELDS if name not in CHOSEN]

    def shown(self, backend: Any) -> list[Any]:
        return [gr.update(visible=name == backend) for name in self.groups]

    def emptied(self) -> list[Any]:
        """The typed fields and the groups as they are at first."""
        return [*(gr.update(value=field.value) for field in self.typed), *self.shown(self.fields["backend"].value)]


def lay_out() -> JudgeFormPage:
    fields: dict[str, Any] = {}
    fields["name"] = gr.Textbox(label=_("Name"), max_length=judge_store.MAXIMUM_NAME, elem_id="judge-name")
    backends = [(_(label), backend) for backend, label in BACKENDS.items()]
    fields["backend"] = gr.Radio(backends, value="local", label=_("What judges"), elem_id="judge-backend")
    with gr.Column() as local:
        fields["model"] = open_choice(_("Model"), info=_(LOCAL_NOTE))
        fields["directory"] = gr.Textbox(
            label=_("Or a model's directory"),
            info=_("Its full path where Prefloop runs. It is tried first."),
            max_length=500,
        )
    with gr.Column(visible=False) as reward:
        fields["reward"] = open_choice(_("Reward model"))
    with gr.Column(visible=False) as remote:
        fields |= lay_out_endpoint()
    return JudgeFormPage(fields, {"local": local, "reward-model": reward, "endpoint": remote})


def lay_out_endpoint() -> dict[str, Any]:
    fields: dict[str, Any] = {}
    fields["address"] = gr.Textbox(
        label=_("Address"), placeholder="https://api.openai.com/v1", max_length=500, elem_id="judge-address"
    )
    with gr.Row():
        fields["endpoint_model"] = gr.Textbox(
            label=_("Its model"), info=_("As the endpoint calls it."), max_length=200, min_width=240
        )
        fields["key_variable"] = gr.Textbox(
            label=_("Variable of the key"), info=_(KEY_NOTE), max_length=100, min_width=240
        )
    with gr.Row():
        for name, (label, info) in NUMBERS.items():
            fields[name] = number_field(
                None if name in LEFT_OUT else getattr(EndpointSettings, name),
                label=_(label),
                info=_(info) or None,
                placeholder=_(LEFT_OUT.get(name, "")) or None,
                min_width=220,
            )
        fields["no_thinking"] = gr.Dropdown(
            [(_(label), name) for name, label in NO_THINKING.items()],
            value=EndpointSettings.no_thinking,
            label=_("It is told not to think"),
            info=_("An endpoint may refuse what it does not know."),
            min_width=220,
        )
    return fields


def choice_parts(db: Database) -> dict[str, dict[str, Any]]:
    answering = [one for one in registry.all_policies(db) if one.can_answer]
    return {
        "model": gr.update(choices=[(preflight.description_of(db, one), one.revision) for one in answering]),
        "reward": gr.update(choices=preflight.models_of(db, "reward-model")),
    }
