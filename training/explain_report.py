"""The folder of an explained sentence: its pictures, and ``explain.md``, which says what they show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from training.explain import DIRECTIONS
from training.explain_plots import (
    draw_attention,
    draw_distances,
    draw_gates,
    draw_gradients,
    draw_recurrence,
    draw_units,
)
from training.explain_sentence import Explained
from training.reach import Reach
from training.state import write_atomically

_GATES = {
    "input": "how much of what is new is written into the cell",
    "forget": "how much of the old cell is kept: 1 keeps all of it, 0 none",
    "output": "how much of the cell is shown to the layers above",
    "reset": "how much of the old state enters the candidate for the new one",
    "update": "how much of the old state is kept: 1 keeps all of it, 0 none",
}
_DISTANCES = (1, 5, 10, 20)
_INTRODUCTION = """\
# What goes on inside, for one sentence

Source: {source}

Pictures and figures are computed without dropout, in float32, and are the same each time.

## How far the gradient reaches

![distances](distances.png)

A recurrent layer learns that an input matters much later only if the gradient of the later state still reaches it. On
its way back it is multiplied by one Jacobian a position. Where these shrink, it vanishes exponentially with the
distance, and what lies far apart cannot be learned (Hochreiter 1991; Bengio, Simard & Frasconi 1994; Pascanu, Mikolov &
Bengio 2013). In a plain `rnn` each of them holds the recurrent weights and the slope of a tanh. A gated cell carries
its state past both: from one position to the next it is multiplied by the forget gate (`lstm` and its kin, `ssru`) or
by the update gate (`gru`), which can stay near 1 for as long as something is to be remembered.

A straight line on the logarithmic axis is a fixed factor a position. Its slope is the factor below.

*Recurrent path alone*: the Frobenius norm of d h_t / d x_s from a layer's input to its own state, all other inputs held
fixed. Attention, residual connections and other layers take no part. It is estimated from {directions} random
directions (Hutchinson 1990), and exact where a layer is no wider. *Full model*: the norm of d loss_t / d embedded
target input s. Attention looks at the source only, so the way to an earlier target piece is through the decoder's
recurrent layers, but through any of them. Both are shares of the gradient at distance 0, averaged geometrically over
the positions t. Large distances are means of few pairs: the largest of one.

Columns: the *half-distance* in positions, where less than half of the gradient is left; the *factor* by which one
position more multiplies it, fitted to all distances; what is *left* at some distances.
"""


def write_explanation(models: Sequence[Explained], layer: str, folder: Path) -> None:
    """Writes ``explain.md``, ``distances.png`` and each model's pictures, in a folder of its own if there are several.

    ``layer`` is the one whose units and whose recurrence are drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw_distances(models, folder / "distances.png")
    for explained in models:
        place = folder / _place(explained, models)
        place.mkdir(exist_ok=True)
        chosen = explained.explanation.layer(layer)
        draw_attention(explained, place / "attention.png")
        draw_gates(explained, place / "gates.png")
        draw_units(explained, chosen, place / "units.png")
        draw_gradients(explained, place / "gradients.png")
        draw_recurrence(explained, chosen, place / "recurrence.png")
    write_atomically(folder / "explain.md", markdown(models, layer).encode())


def markdown(models: Sequence[Explained], layer: str) -> str:
    """The text of ``explain.md``."""
    parts = [_INTRODUCTION.format(source=_quoted(models[0].source), directions=DIRECTIONS), _reach_table(models)]
    parts += [_section(explained, layer, _place(explained, models)) for explained in models]
    return "\n".join(parts)


def _place(explained: Explained, models: Sequence[Explained]) -> str:
    return "." if len(models) == 1 else explained.label.replace(" ", "-")


def _reach_table(models: Sequence[Explained]) -> str:
    head = ["model", "path", "half-distance", "factor", *(f"left at {distance}" for distance in _DISTANCES)]
    lines = [_row(head), _row(["---"] * len(head))]
    for explained in models:
        explanation = explained.explanation
        paths = [(f"`{layer.name}` alone", layer.reach) for layer in explanation.layers]
        for path, reach in [*paths, ("full model, target", Reach.of(explanation.target_gradients))]:
            shares = [_share(reach.at(distance)) for distance in _DISTANCES]
            half = "beyond the sentence" if reach.half_distance is None else f"{reach.half_distance:.1f}"
            factor = "-" if reach.factor is None else f"{reach.factor:.2f}"
            lines.append(_row([explained.label, path, half, factor, *shares]))
    return "\n".join(lines) + "\n"


def _section(explained: Explained, layer: str, place: str) -> str:
    here = "" if place == "." else f"{place}/"
    whose = "its own translation" if explained.own else "the given translation"
    probability = float(explained.explanation.log_probabilities.double().mean().exp())
    return f"""\
## {explained.label}

`{explained.checkpoint}`, {whose}: {_quoted(explained.target)} It gives a piece of it the probability {probability:.2f}
(geometric mean).

![attention]({here}attention.png)

*Attention*: a row is a target piece, and its colours say where in the source the decoder looked when it predicted it. A
dark diagonal is a translation word by word; what leaves it is reordering. {_attention_words(explained)}

![gates]({here}gates.png)

*Gates*, each the mean over a layer's units at every position. {_gate_words(explained)}

{_gate_table(explained)}
![units]({here}units.png)

*Units of `{layer}`*: a line is one unit. {_unit_words(explained)}

![gradients]({here}gradients.png)

*Gradient of the full model*: a row is the loss of one target piece, a column an input that it could depend on. On the
left the source, which attention reaches at any distance; on the right the target pieces read so far, to which only
recurrence leads: what fades away from the diagonal is the gradient vanishing. A dark row is a piece that the model was
sure of: without loss there is nothing to learn.

![recurrence]({here}recurrence.png)

*Recurrent path of `{layer}` alone*: the same without any way around it, from the layer's input to its own state.
"""


def _attention_words(explained: Explained) -> str:
    weights = explained.explanation.attention.double()
    entropy = -(weights * weights.clamp(min=1e-30).log()).sum(dim=1).mean()
    return (
        f"The largest weight of a row is {float(weights.amax(dim=1).mean()):.2f} in the mean; a row spreads over "
        f"{math.exp(float(entropy)):.1f} of {weights.shape[1]} source pieces (the exponential of its entropy)."
    )


def _gate_words(explained: Explained) -> str:
    names = list(explained.explanation.layers[0].gates)
    if not names:
        return (
            f"The cell `{explained.label}` has none: its whole state is overwritten at every position. The dashed line"
            " is the mean size of the state."
        )
    meanings = "; ".join(f"the {name} gate is {_GATES[name]}" for name in names)
    return f"Here {meanings}. The dashed line is the mean size of the state."


def _unit_words(explained: Explained) -> str:
    keeping = [name for name in explained.explanation.layers[0].gates if name in ("forget", "update")]
    if not keeping:
        return "Without gates no unit can choose to keep its state: what it held is gone as soon as its colour changes."
    return (
        "Those that keep most of their past stand above. A unit that stays bright under the"
        f" {keeping[0]} gate remembers; where it turns dark, it is emptied."
    )


def _gate_table(explained: Explained) -> str:
    layers = explained.explanation.layers
    names = list(layers[0].gates)
    if not names:
        return ""
    lines = [_row(["layer", *(f"{name} gate, mean" for name in names)]), _row(["---"] * (len(names) + 1))]
    for layer in layers:
        lines.append(_row([f"`{layer.name}`", *(_mean(layer.gates[name]) for name in names)]))
    return "\n".join(lines) + "\n"


def _mean(values: Tensor) -> str:
    return f"{float(values.mean()):.2f}"


def _share(share: float | None) -> str:
    if share is None or not math.isfinite(share):
        return "-"
    return f"{share:.2g}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _quoted(text: str) -> str:
    return f"“{' '.join(text.split())}”"
