"""Log-probabilities and attention on request: those of the search itself."""

from __future__ import annotations

import pytest
from tiny_models import LIMIT, VOCABULARY, random_sources, tiny_model

from model.search import SearchOptions, annotate, translate

KINDS = ["additive", "general", "dot", "multihead"]


@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize("input_feeding", [False, True])
def test_log_probabilities_sum_to_that_of_the_hypothesis(attention: str, input_feeding: bool) -> None:
    model = tiny_model(attention=attention, input_feeding=input_feeding)
    sources = random_sources(1, 6)
    found = [best for best, *_ in translate(model, sources, SearchOptions(beam_size=3), LIMIT)]
    annotations = annotate(model, sources, [hypothesis.pieces for hypothesis in found])
    for annotation, hypothesis in zip(annotations, found, strict=True):
        assert len(annotation.log_probabilities) == len(hypothesis.pieces) + 1
        assert sum(annotation.log_probabilities) == pytest.approx(hypothesis.log_probability, abs=1e-4)


@pytest.mark.parametrize("attention", KINDS)
def test_attention_has_a_row_a_piece_and_a_column_a_source_piece(attention: str) -> None:
    model = tiny_model(attention=attention)
    sources, targets = [[5, 6, 7], [8]], [[4], [9, 9, 9, 10]]
    for annotation, source, target in zip(annotate(model, sources, targets), sources, targets, strict=True):
        assert len(annotation.attention) == len(target) + 1
        for row in annotation.attention:
            assert len(row) == len(source) + 1
            assert sum(row) == pytest.approx(1)


def test_an_annotation_does_not_depend_on_its_mates() -> None:
    model = tiny_model()
    (alone,) = annotate(model, [[5, 6]], [[7]])
    _, together = annotate(model, [[9] * 6, [5, 6]], [[8] * 5, [7]])
    assert together.log_probabilities == pytest.approx(alone.log_probabilities)
    assert together.attention == [pytest.approx(row) for row in alone.attention]


def test_an_empty_translation_has_its_end_annotated() -> None:
    (annotation,) = annotate(tiny_model(), [[5, 6]], [[]])
    assert len(annotation.log_probabilities) == len(annotation.attention) == 1


def test_nothing_is_annotated_for_nothing() -> None:
    assert annotate(tiny_model(), [], []) == []


@pytest.mark.parametrize(
    ("sources", "targets", "message"),
    [
        ([[5]], [[4], [5]], "1 sources came with 2 targets"),
        ([[VOCABULARY]], [[4]], "source holds the id"),
        ([[5]], [[-1]], "target holds the id -1"),
    ],
)
def test_bad_input_is_refused(sources: list[list[int]], targets: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        annotate(tiny_model(), sources, targets)
