"""Sequence-level knowledge distillation: a student learns the translations of its teachers (Kim & Rush 2016).

The training sources are translated by beam search with one teacher, or with several as an ensemble. ``best`` keeps the
best hypothesis of each (section 3.2 of the paper), ``interpolate`` of the n best the one nearest to the reference by
smoothed sentence-level BLEU (section 3.3). The student's recipe is the given one with that text in place of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from sacrebleu.metrics.bleu import BLEU

from tokenizer.normalize import normalize
from training.cleaning import clean_pairs
from training.config import Recipe
from training.corpus_config import CorpusConfig
from training.reading import Pair, read_all, read_pairs
from training.synthesis import Made, Maker, Synthesis, SynthesisError, files, hashes, held_out_pairs, synthesize
from training.synthetic_recipe import extended, provenance
from training.teachers import Teachers

FOLDER, RECIPE_FILE = "distilled", "distil.yaml"

Select: TypeAlias = Literal["best", "interpolate"]


class DistilOptions(NamedTuple):
    """What the student is to learn."""

    select: Select = "best"
    keep_original: bool = False  # learn from the references too
    weight: float = 1.0  # times each distilled pair is seen an epoch, on average


class Distilled(NamedTuple):
    """A finished distillation."""

    synthesis: Synthesis
    corpus: CorpusConfig
    student: Recipe


def distil(
    recipe: Recipe,
    teachers: Teachers,
    folder: Path,
    options: DistilOptions,
    message: Callable[[str], None],
    *,
    overwrite: bool = False,
) -> Distilled:
    """Translates the cleaned training sources of ``recipe`` into ``folder``, resumably, and plans the student.

    The beam and, with ``interpolate``, the n best are those of the teachers' search options. Raises SynthesisError,
    UnusableSystemError, CorpusError, or OSError where the folder cannot be written.
    """
    data = recipe.data
    maker = _maker(recipe, teachers, options.select)
    synthesis = synthesize(maker, folder, (data.source, data.target), message, overwrite=overwrite)
    source, target = files(folder, data.source, data.target)
    made_of = [(corpus.label, corpus.licence) for corpus in data.train]
    name, licence = provenance(made_of, "translated", teachers)
    corpus = CorpusConfig(source=source, target=target, weight=options.weight, name=name, licence=licence)
    train = (*data.train, corpus) if options.keep_original else (corpus,)
    return Distilled(synthesis, corpus, extended(recipe, "distilled", train))


def nearest(hypotheses: Sequence[str], reference: str) -> str:
    """The hypothesis of highest sentence-level BLEU; of equals the first, which the teachers prefer.

    sacreBLEU's, with exponential smoothing (Chen & Cherry 2014, method 3) and the effective order, as zero counts and
    sentences of fewer than four words are common.
    """
    bleu = BLEU(effective_order=True)
    return max(hypotheses, key=lambda hypothesis: bleu.sentence_score(hypothesis, [reference]).score)


def _maker(recipe: Recipe, teachers: Teachers, select: Select) -> Maker:
    data, search = recipe.data, teachers.system.options
    if search.n_best > search.beam_size:
        raise SynthesisError(f"--n-best is {search.n_best}; it must not exceed the beam size, {search.beam_size}")
    held_out = held_out_pairs(read_all([*data.dev, *data.test]))
    return Maker(
        pairs=lambda: clean_pairs(chain.from_iterable(map(read_pairs, data.train)), data.cleaning),
        make=lambda pairs, _: _translate(pairs, teachers, select, data.cleaning.max_pieces),
        held_out=lambda source, target: (source, target) in held_out,
        identity={
            "kind": "distil",
            "data": hashes(data.train),
            "held_out": hashes([*data.dev, *data.test]),
            "cleaning": data.cleaning.model_dump(mode="json"),
            "teachers": [teachers.hashes, teachers.system.precision],
            "search": [search.beam_size, search.n_best, search.length_penalty.model_dump(mode="json")],
            "select": select,
        },
    )


def _translate(pairs: Sequence[Pair], teachers: Teachers, select: Select, max_pieces: int) -> Made:
    """Sources and the chosen hypotheses; a source that occurs in several pairs is translated once."""
    system = teachers.system
    sources = system.short_enough(dict.fromkeys(pair.source for pair in pairs), max_pieces)
    found = dict(zip(sources, system.n_best(sources), strict=True))
    made = []
    for pair in pairs:
        hypotheses = found.get(pair.source, [])
        if select == "best" or not hypotheses:
            made.append((pair.source, hypotheses[0] if hypotheses else ""))
        else:
            # The references are normalised, so the hypotheses must be.
            made.append((pair.source, nearest(list(map(normalize, hypotheses)), pair.target)))
    best = [hypotheses[0] for hypotheses in found.values() if hypotheses]
    return Made(made, system.count_pieces(best))
