"""The raw figures of an explained sentence, ready for JSON."""

from __future__ import annotations

import math

from training.explain import LayerActivity
from training.explain_sentence import Explained
from training.reach import Reach


def figures(explained: Explained) -> dict[str, object]:
    """Everything measured, ready for JSON; a figure that is not there is None."""
    explanation = explained.explanation
    return {
        "label": explained.label,
        "checkpoint": str(explained.checkpoint),
        "source": explained.source,
        "target": explained.target,
        "own_translation": explained.own,
        "source_pieces": explained.source_pieces,
        "target_pieces": explained.target_pieces,
        "target_inputs": explained.target_inputs,
        "log_probabilities": explanation.log_probabilities.tolist(),
        "attention": explanation.attention.tolist(),
        "source_gradients": explanation.source_gradients.tolist(),
        "target_gradients": explanation.target_gradients.tolist(),
        "target_reach": _reach_figures(Reach.of(explanation.target_gradients)),
        "layers": {layer.name: _layer_figures(layer) for layer in explanation.layers},
    }


def _layer_figures(layer: LayerActivity) -> dict[str, object]:
    return {
        "gates": {gate: values.tolist() for gate, values in layer.gates.items()},
        "hidden": layer.hidden.tolist(),
        "recurrence": layer.recurrence.tolist(),
        "reach": _reach_figures(layer.reach),
    }


def _reach_figures(reach: Reach) -> dict[str, object]:
    curve = [share if math.isfinite(share) else None for share in reach.curve.tolist()]
    return {"half_distance": reach.half_distance, "factor": reach.factor, "curve": curve}
