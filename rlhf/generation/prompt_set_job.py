"""Let one policy answer a prompt set; the answers become a file. What an interrupted run has drawn is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from annotation.records import Prompt, UserError
from annotation.translation import _
from rlhf.generation import prompt_set_spec, prompt_sets
from rlhf.generation.prompt_set_spec import PromptSetSpec
from rlhf.generation.prompt_sets import PromptSetResult
from rlhf.jobs.run import Run
from rlhf.models import registry
from rlhf.models.base.base_model import ready
from rlhf.models.loading.loaded_policies import LoadedPolicies
from rlhf.models.sampling.drawing import draw_in_turn


def run(run: Run, spec: PromptSetSpec) -> dict[str, Any]:
    """Draw what is missing, and write the file when nothing is. Returns the job's result.

    Raises UserError where the policy is gone, or takes none of the prompts.
    """
    run.report(0, 0, {}, _("It loads the model."))
    policy = registry.by_revision(run.db, spec.revision)
    registry.require_answering(policy)
    models = LoadedPolicies(run.db, run.data_dir, ready(run.data_dir, spec.model).path)
    prompts = prompt_set_spec.prompts_of(run.db, spec)
    rendered = what_to_feed(run, spec, models, policy, prompts)
    draft = prompt_sets.draft_of(run.data_dir, run.job_id)
    drawn = prompt_sets.read_draft(draft)
    if not drawn and run.number > 1:  # an earlier worker may have been killed when all was written
        drawn = prompt_sets.read_draft(prompt_sets.file_of(run.data_dir, run.job_id))
    asked = [(prompt, text, seed) for prompt, text in rendered for seed in prompt_set_spec.seeds_of(spec, prompt)]
    missing = [one for one in asked if one[2] not in drawn]
    model = models.use(policy)
    said = _("{revision} answers.").format(revision=policy.revision)
    done = len(asked) - len(missing)
    run.report(done // spec.each, len(rendered), {}, said)
    rows, together = [(text, seed) for _prompt, text, seed in missing], spec.prompts_per_batch * spec.each
    for place, answer in draw_in_turn(model, models.tokenizer, rows, spec.sampling, together, lambda: run.stopped):
        prompt, _text, seed = missing[place]
        drawn[seed] = prompt_sets.row_of(prompt, asdict(answer), spec.sampling, policy.revision)
        prompt_sets.add_to_draft(draft, [drawn[seed]])
        done += 1
        run.report(done // spec.each, len(rendered), {}, said)
    run.raise_if_stopped()
    digest = prompt_sets.publish(run.data_dir, run.job_id, [drawn[seed] for _prompt, _text, seed in asked])
    run.report(len(rendered), len(rendered), {}, _("The answers are written."))
    answered = PromptSetResult(
        revision=policy.revision,
        prompts=len(rendered),
        left_out=len(prompts) - len(rendered),
        answers=len(asked),
        file=prompt_sets.address(run.job_id),
        sha256=digest,
        seconds=run.seconds(),
    )
    return asdict(answered)


def what_to_feed(
    run: Run, spec: PromptSetSpec, models: LoadedPolicies, policy: registry.Policy, prompts: Sequence[Prompt]
) -> list[tuple[Prompt, str]]:
    """The prompts that the model takes, each with the text to feed. Raises UserError if it takes none of them."""
    fed, refused = models.feed_each(prompts, spec.sampling.max_new_tokens, policy)
    if refused:
        run.log(f"{len(refused)} of {len(prompts)} prompts can't be answered, for example: {refused[0]}")
    if not fed:
        raise UserError(_("This model can answer none of these prompts."))
    return [(prompt, fed[prompt.id]) for prompt in prompts if prompt.id in fed]
