"""What a study found: ``report.md``, ``history.png``, ``importances.png``, and ``best.yaml``, a recipe to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.importance import get_param_importances
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from training.pictures import save_figure
from training.recipe_file import dump_recipe
from training.search_space import overrides, own_values
from training.state import write_atomically
from training.study import ERROR, Tuning
from training.tune_config import Dimension

REPORT_FILE, BEST_FILE, HISTORY_FILE, IMPORTANCES_FILE = "report.md", "best.yaml", "history.png", "importances.png"
ENOUGH_FOR_IMPORTANCES = 5
_STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "cut off or running",
}
_NAMES = {"bleu": "BLEU", "loss": "loss"}
_DONE, _BEST, _QUIET = "#3b6ea5", "#c8553d", "#9a9a9a"


def write_report(tuning: Tuning, command: str) -> Path:
    """Writes the report of the study so far into its folder; returns the path of ``report.md``."""
    trials = [trial for trial in tuning.study.get_trials() if trial.state in _STATES]
    best = best_trial(tuning.study)
    importances = parameter_importances(tuning.study)
    _draw_history(trials, tuning, tuning.folder / HISTORY_FILE)
    if importances:
        _draw_importances(importances, tuning.folder / IMPORTANCES_FILE)
    if best is not None:
        _write_best(tuning, best, tuning.folder / BEST_FILE)
    lines = [
        f"# Tuning of {tuning.recipe.name}",
        "",
        *_summary(tuning, trials, best, command),
        *_importance_lines(importances, trials),
        *_trial_lines(tuning, trials),
    ]
    report = tuning.folder / REPORT_FILE
    write_atomically(report, ("\n".join(lines) + "\n").encode())
    return report


def best_trial(study: Study) -> FrozenTrial | None:
    """The finished trial with the best score; None while there is none."""
    return study.best_trial if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) else None


def parameter_importances(study: Study) -> dict[str, float]:
    """How much each key decides whether a trial is among the best, as shares of 1 (PED-ANOVA, Watanabe et al. 2023).

    Empty with fewer than five finished trials, of which nothing could be said.
    """
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return get_param_importances(study) if len(finished) >= ENOUGH_FOR_IMPORTANCES else {}


def _summary(tuning: Tuning, trials: Sequence[FrozenTrial], best: FrozenTrial | None, command: str) -> list[str]:
    counts = [sum(trial.state == state for trial in trials) for state in _STATES]
    said = ", ".join(f"{count} {word}" for count, word in zip(counts, _STATES.values(), strict=True) if count)
    lines = ["```", command, "```", "", f"{len(trials)} trials: {said or 'none so far'}. {_metric_words(tuning)}", ""]
    if best is None:
        return [*lines, "No trial has finished, so there is no best one yet.", ""]
    own = own_values(tuning.recipe, tuning.recipe.tune)
    lines += [
        f"Best: trial {best.number}, dev {_NAMES[tuning.metric]} {best.value:.4g}. `{BEST_FILE}` is its recipe. One "
        "run of many was picked by its score on dev, which flatters it: compare it with the recipe on several seeds "
        "(`ferry-train compare`).",
        "",
        "| key | best | the recipe's own | tried |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {key} | {_text(best.params[key])} | {_text(own[key]) if own else 'outside'} | {_tried(dimension)} |"
        for key, dimension in tuning.recipe.tune.items()
    ]
    return [*lines, "", f"![score of each trial]({HISTORY_FILE})", ""]


def _metric_words(tuning: Tuning) -> str:
    score = "highest greedy dev BLEU" if tuning.metric == "bleu" else "lowest dev loss"
    return (
        f"A trial's score is its {score}; one whose best so far is worse than the median of the others at the same "
        f"step is pruned. All trials have seed {tuning.recipe.seed}."
    )


def _importance_lines(importances: Mapping[str, float], trials: Sequence[FrozenTrial]) -> list[str]:
    finished = sum(trial.state == TrialState.COMPLETE for trial in trials)
    if not importances:
        return [
            f"Importances are not estimated: {finished} trials have finished, of at least {ENOUGH_FOR_IMPORTANCES}.",
            "",
        ]
    rows = [f"| {key} | {share:.2f} |" for key, share in importances.items()]
    return ["| key | importance |", "|---|--:|", *rows, "", f"![importance of each key]({IMPORTANCES_FILE})", ""]


def _trial_lines(tuning: Tuning, trials: Sequence[FrozenTrial]) -> list[str]:
    keys = list(tuning.recipe.tune)
    lines = [_row(["trial", "state", f"dev {_NAMES[tuning.metric]}", "last step", *keys])]
    lines.append("|" + "---|" * (4 + len(keys)))
    for trial in trials:
        score = "" if trial.value is None else f"{trial.value:.4g}"
        step = "" if trial.last_step is None else str(trial.last_step)
        values = [_text(trial.params[key]) if key in trial.params else "" for key in keys]
        lines.append(_row([str(trial.number), _STATES[trial.state], score, step, *values]))
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    errors = [f"- Trial {trial.number} failed: {trial.user_attrs.get(ERROR, 'no reason is known')}" for trial in failed]
    return [*lines, *(["", *errors] if errors else [])]


def _write_best(tuning: Tuning, best: FrozenTrial, path: Path) -> None:
    """The best trial's recipe under a name and run folder of its own."""
    name = f"{tuning.recipe.name}-tuned"
    folder = tuning.recipe.folder.with_name(f"{tuning.recipe.folder.name}-tuned")
    found = tuning.with_values(overrides(best.params))
    export = found.export.model_copy(update={"folder": None})
    found = found.model_copy(update={"name": name, "folder": folder, "export": export, "tune": {}})
    score = f"dev {_NAMES[tuning.metric]} {best.value:.4g}"
    head = f"# Trial {best.number} of {tuning.folder}: {score}, the best of its study.\n"
    write_atomically(path, (head + dump_recipe(found)).encode())


def _draw_history(trials: Sequence[FrozenTrial], tuning: Tuning, path: Path) -> None:
    """Each trial's score in order, a pruned one's last, and the best so far."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    groups = ((TrialState.COMPLETE, "finished", _DONE, "o"), (TrialState.PRUNED, "pruned, its last", _QUIET, "x"))
    for state, label, colour, marker in groups:
        found = [(trial.number, trial.value) for trial in trials if trial.state == state and trial.value is not None]
        if found:
            numbers, scores = zip(*found, strict=True)
            axes.scatter(numbers, scores, label=label, color=colour, marker=marker, s=22)
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    better = max if tuning.metric == "bleu" else min
    values = [trial.value for trial in finished if trial.value is not None]
    so_far = [better(values[: count + 1]) for count in range(len(values))]
    axes.step([trial.number for trial in finished], so_far, where="post", label="best so far", color=_BEST)
    axes.set_xlabel("trial")
    axes.set_title(f"dev {_NAMES[tuning.metric]}", loc="left", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    save_figure(figure, path)


def _draw_importances(importances: Mapping[str, float], path: Path) -> None:
    figure = Figure(figsize=(8, 1.2 + 0.35 * len(importances)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.barh(list(importances), list(importances.values()), color=_DONE)
    axes.invert_yaxis()
    axes.set_title("importance (PED-ANOVA)", loc="left", fontsize=10)
    axes.grid(alpha=0.25, axis="x")
    save_figure(figure, path)


def _tried(dimension: Dimension) -> str:
    if dimension.choices:
        return ", ".join(map(_text, dimension.choices))
    suffix = ", log" if dimension.log else f", step {dimension.step}" if dimension.step is not None else ""
    return f"{_text(dimension.low)} to {_text(dimension.high)}{suffix}"


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
