"""Two or more runs beside each other: the settings that differ, their curves overlaid, their figures. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from annotation.translation import N_, _, numeral
from annotation.ui.formatting import NOTHING, duration, short_number, size
from annotation.ui.invisible import visible
from annotation.ui.line_plots import plot, plots
from annotation.ui.markup import paragraph, table
from rlhf.evaluation.report import CheckReport
from rlhf.jobs.descriptions import Curve, HeldOutFigure
from rlhf.jobs.finished_training import FinishedTraining
from rlhf.jobs.job_spec import JobSpec, TrainingSpec, kinds
from rlhf.jobs.job_store import Job
from rlhf.models.reward_model_quality import quality_in
from rlhf.submission.form_fields import choice_label, label_of
from rlhf.tabs.jobs.job_cards import early_end
from rlhf.tabs.jobs.job_words import about, final_figures
from rlhf.tabs.plot_zoom import CurveData
from rlhf.tabs.runs.curves import along, line_of, plots_of

FEWEST = 2
CHOOSE = N_(
    "Choose two or more runs above: the settings that differ, the curves that they share and their figures follow."
)
SAME_SETTINGS = N_("These runs have the same settings.")
NO_SHARED_CURVES = N_("No two of these runs have reported the same metric.")
OTHER_LOSSES = N_("These runs minimise different losses: compare the shapes of the curves, not their heights.")


@dataclass(frozen=True)
class RunSummary:
    job: Job
    metrics: Sequence[Mapping[str, Any]]
    made: str | None
    check: CheckReport | None
    called: str = ""

    @property
    def name(self) -> str:
        return f"{self.job.id} · {visible(self.called) or self.made or about(self.job)}"


# ----------------------------------------------------------------------------------------------------------- settings
def flat(spec: JobSpec) -> dict[str, Any]:
    """Every setting of a run by name; those of an object within it as 'sampling.temperature'."""
    found: dict[str, Any] = {"kind": spec.kind}
    for name, value in asdict(spec).items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": entry for inner, entry in value.items()}
        else:
            found[name] = value
    return found


def differing(specs: Sequence[JobSpec]) -> list[tuple[str, list[Any]]]:
    """(setting, its value in each run) where the values differ; None where a run has no such setting."""
    settings = [flat(spec) for spec in specs]
    names = dict.fromkeys(name for known in settings for name in known)
    rows = [(name, [known.get(name) for known in settings]) for name in names]
    return [(name, values) for name, values in rows if any(value != values[0] for value in values)]


def settings_table(runs: Sequence[RunSummary]) -> str:
    """The settings that differ, a run a column; nothing before one is chosen."""
    if len(runs) < FEWEST:
        return paragraph(_(CHOOSE), "quiet") if runs else ""
    specs = [run.job.spec for run in runs]
    kinds_of = [type(spec) for spec in specs]
    rows = [
        (label_of(name, kinds_of), *(setting(kind, name, value) for kind, value in zip(kinds_of, values, strict=True)))
        for name, values in differing(specs)
    ]
    return table((_("Setting"), *(run.name for run in runs)), rows, _(SAME_SETTINGS))


def setting(kind: type[JobSpec], name: str, value: Any) -> str:
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if isinstance(value, float):
        return short_number(value)
    if name == "kind":
        return _(kind.title)
    return str(value)[:12] if name == "snapshot" else choice_label(kind, name, str(value))


# ------------------------------------------------------------------------------------------------------------- curves
def metric_curves(kind: type[JobSpec]) -> dict[str, Curve]:
    """A plot of its own for each metric that a kind of run reports."""
    found: dict[str, Curve] = {}
    for curve in plots_of(kind):
        for name, metric in curve.series.items():
            label = curve.label if len(curve.series) == 1 else f"{curve.label}: {name}"
            slug = metric.replace("/", "-")
            found.setdefault(metric, replace(curve, name=slug, label=label, series={label: metric}))
    return found


def every_curve() -> list[tuple[str, Curve]]:
    """(metric, its plot) of all kinds of runs; a metric has several where kinds mean something else by its name."""
    found: dict[tuple[str, str], Curve] = {}
    for kind in kinds().values():
        for metric, curve in metric_curves(kind).items():
            other = any(metric == known for known, _label in found)
            named = replace(curve, name=f"{kind.kind}-{curve.name}") if other else curve
            found.setdefault((metric, curve.label), named)
    return [(metric, curve) for (metric, _label), curve in found.items()]


def shared(runs: Sequence[RunSummary]) -> list[CurveData]:
    """One plot for each metric that two or more runs have, a line a run, in the same hue everywhere."""
    across = ", ".join(dict.fromkeys(along(run.job.spec) for run in runs))
    found = []
    own = [metric_curves(type(run.job.spec)) for run in runs]
    for metric, curve in every_curve():
        meant = [metric in known and known[metric].label == curve.label for known in own]
        lines = [line_of(run.name, run.metrics if same else (), metric) for run, same in zip(runs, meant, strict=True)]
        if sum(bool(line.points) for line in lines) >= FEWEST:
            found.append(CurveData(of_kinds(curve, metric, runs), lines, across))
    return found


def overlaid(runs: Sequence[RunSummary]) -> str:
    if len(runs) < FEWEST:
        return ""
    steps = max(run.job.steps for run in runs)
    drawn = [plot("compare", one.axes, one.lines, steps, one.across) for one in shared(runs)]
    return plots(drawn) or paragraph(_(NO_SHARED_CURVES), "quiet")


def of_kinds(curve: Curve, metric: str, runs: Sequence[RunSummary]) -> Curve:
    """The plot with a word of caution where the runs' losses are not the same thing."""
    kinds = {run.job.kind for run in runs if any(entry.get(metric) is not None for entry in run.metrics)}
    if metric != "loss" or len(kinds) == 1:
        return curve
    return replace(curve, axis=_("loss"), caption=_(OTHER_LOSSES))


# ------------------------------------------------------------------------------------------------------------ figures
def figures_table(runs: Sequence[RunSummary]) -> str:
    """The final metrics, held-out figures and costs, a run a column; figures that no run has are left out."""
    if len(runs) < FEWEST:
        return ""
    columns = [figures(run) for run in runs]
    known = [name for name in order() if any(name in column for column in columns)]
    rows = [(name, *(column.get(name, NOTHING) for column in columns)) for name in known]
    headers = tuple(run.name for run in runs)
    return table((_("Figure"), *headers), rows, _("No figures yet."), headers)


def figures(run: RunSummary) -> dict[str, str]:
    known = metric_curves(type(run.job.spec))
    final = final_figures(run.metrics)
    found = {
        _("{figure}, at the end").format(figure=known[name].label): with_unit(final[name], known[name])
        for name in known
        if name in final
    }
    return found | held_out(run) | steps_made(run) | costs(run)


def with_unit(value: float, curve: Curve) -> str:
    """A figure as its plot's axis measures it, where that is in a unit."""
    units = ("GB", _("nats a token"), _("nats a pair"), _("nats an answer"))
    return f"{short_number(value)} {curve.axis}" if curve.axis in units else short_number(value)


def held_out(run: RunSummary) -> dict[str, str]:
    """What was measured on data that the run was not trained on."""
    measured, quality = FinishedTraining.of(run.job.result).held_out, quality_in(run.job.result)
    numbers = {one.compared: measured.get(one.metric) for one in held_out_figures(type(run.job.spec))}
    numbers[OF_REWARD_MODEL] = None if quality is None else quality.accuracy.value
    if run.check is not None:
        numbers |= {name: value_of(run.check) for name, value_of in CHECKED.items()}
    return {_(name): short_number(value) for name, value in numbers.items() if value is not None}


def held_out_figures(kind: type[JobSpec]) -> Sequence[HeldOutFigure]:
    """What a kind of job measures on held-out rows itself."""
    return kind.held_out.figures if issubclass(kind, TrainingSpec) and kind.held_out else ()


def steps_made(run: RunSummary) -> dict[str, str]:
    if run.job.status != "finished" or not run.job.steps:
        return {}
    made = _("{steps}, ended early") if early_end(run.job) else "{steps}"
    return {_(STEPS): made.format(steps=numeral(run.job.steps))}


STEPS = N_("Steps")


def costs(run: RunSummary) -> dict[str, str]:
    done = FinishedTraining.of(run.job.result)
    known = ((name, value_of(done), write) for name, (value_of, write) in COSTS.items())
    return {_(name): write(value) for name, value, write in known if value is not None}


COSTS: Mapping[str, tuple[Callable[[FinishedTraining], float | None], Callable[[float], str]]] = {
    N_("Trainable parameters"): (lambda done: done.trainable, lambda count: numeral(count)),
    N_("Trainable, % of all"): (lambda done: done.trainable_percent, lambda percent: f"{numeral(percent, '.3g')}%"),
    N_("Time for a step"): (lambda done: done.seconds_per_step, lambda seconds: f"{numeral(seconds, '.2f')} s"),
    N_("Peak memory"): (lambda done: done.peak_memory_mb, lambda megabytes: size(1e6 * megabytes)),
    N_("Size on disk"): (lambda done: done.checkpoint_bytes, size),
    N_("Time in all"): (lambda done: done.seconds, duration),
}
OF_REWARD_MODEL = N_("Held-out accuracy of the reward model")
CHECKED: Mapping[str, Callable[[CheckReport], float | None]] = {
    N_("Held-out accuracy (check)"): lambda check: (
        None if check.implicit_accuracy is None else check.implicit_accuracy.value
    ),
    N_("KL per token, at equal length (check)"): lambda check: check.equal_length_kl,
    N_("KL per token (check)"): lambda check: check.candidate.kl_to_anchor,
    N_("Mean words of an answer (check)"): lambda check: check.candidate.mean_length,
    N_("Distinct-2 (check)"): lambda check: check.candidate.distinct_2,
}


def order() -> tuple[str, ...]:
    finals = (_("{figure}, at the end").format(figure=one.label) for _name, one in every_curve())
    measured = dict.fromkeys(one.compared for kind in kinds().values() for one in held_out_figures(kind))
    return (*dict.fromkeys(finals), *map(_, (*measured, OF_REWARD_MODEL, *CHECKED, STEPS, *COSTS)))
