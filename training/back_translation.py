"""Back-translation: real target text with synthetic sources, from a model of the reverse direction.

Sennrich et al. 2016 ("Improving neural machine translation models with monolingual data", section 3.2). The sources
are found by beam search, or drawn from the model, which teaches more where the model is good enough (Edunov et al.
2018). With a tag before each synthetic source the new model can tell it from a real one (Caswell et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from tokenizer.normalize import normalize
from training.cleaning import clean_pairs
from training.config import Recipe
from training.corpus_config import CorpusConfig
from training.hashes import hash_file
from training.reading import Pair, read_all, read_lines, read_pairs
from training.synthesis import Made, Maker, Synthesis, SynthesisError, files, hashes, held_out_pairs, synthesize
from training.synthetic_recipe import extended, provenance
from training.teachers import Teachers

FOLDER, RECIPE_FILE = "back-translated", "back-translate.yaml"


class MonolingualText(NamedTuple):
    """Target-side text of its own, a sentence a line; plain, .gz, .xz or .zst."""

    path: Path
    licence: str = ""


class BackTranslationOptions(NamedTuple):
    """How sources are made, and what becomes of them."""

    temperature: float | None = None  # of sampling; None is beam search
    tag: str = ""  # a piece of its own before each synthetic source
    weight: float = 1.0  # times each synthetic pair is seen an epoch, on average


class BackTranslated(NamedTuple):
    """A finished back-translation."""

    synthesis: Synthesis
    corpus: CorpusConfig
    extended: Recipe


def back_translate(
    recipe: Recipe,
    teachers: Teachers,
    folder: Path,
    text: MonolingualText | None,
    options: BackTranslationOptions,
    message: Callable[[str], None],
    *,
    overwrite: bool = False,
) -> BackTranslated:
    """Translates ``text``, by default the recipe's own cleaned training targets, into the recipe's source language.

    ``teachers`` translate from the recipe's target language into its source language. Sentences that are a dev or test
    target are left out. Raises SynthesisError, UnusableSystemError, CorpusError, or OSError where the folder cannot be
    written.
    """
    data = recipe.data
    maker = _maker(recipe, teachers, text, options)
    synthesis = synthesize(maker, folder, (data.source, data.target), message, overwrite=overwrite)
    source, target = files(folder, data.source, data.target)
    real = [(text.path.name, text.licence)] if text else [(corpus.label, corpus.licence) for corpus in data.train]
    name, licence = provenance(real, "back-translated", teachers)
    corpus = CorpusConfig(source=source, target=target, weight=options.weight, name=name, licence=licence)
    symbols = [options.tag] if options.tag else []
    return BackTranslated(synthesis, corpus, extended(recipe, "back-translated", [*data.train, corpus], symbols))


def _maker(recipe: Recipe, teachers: Teachers, text: MonolingualText | None, options: BackTranslationOptions) -> Maker:
    if options.tag and (normalize(options.tag) != options.tag or " " in options.tag):
        raise SynthesisError(f"the tag {options.tag!r} must be normalised text without white space, such as <BT>")
    data, search = recipe.data, teachers.system.options
    held_out = {target for _, target in held_out_pairs(read_all([*data.dev, *data.test]))}
    beam = [search.beam_size, search.length_penalty.model_dump(mode="json")]
    return Maker(
        pairs=lambda: _sentences(recipe, text),
        make=lambda pairs, first: _translate(pairs, first, teachers, options, recipe),
        held_out=lambda _, target: target in held_out,
        identity={
            "kind": "back-translate",
            "data": hash_file(text.path) if text else hashes(data.train),
            "held_out": hashes([*data.dev, *data.test]),
            "cleaning": data.cleaning.model_dump(mode="json"),
            "teachers": [teachers.hashes, teachers.system.precision],
            "search": beam if options.temperature is None else [options.temperature, recipe.seed],
            "tag": options.tag,
        },
    )


def _sentences(recipe: Recipe, text: MonolingualText | None) -> Iterator[Pair]:
    """What is to be translated, as the target of pairs whose source is not used."""
    if text is None:
        yield from clean_pairs(chain.from_iterable(map(read_pairs, recipe.data.train)), recipe.data.cleaning)
        return
    for number, line in enumerate(read_lines(text.path), start=1):
        yield Pair("", normalize(line), number)


def _translate(
    pairs: Sequence[Pair], first: int, teachers: Teachers, options: BackTranslationOptions, recipe: Recipe
) -> Made:
    """Synthetic sources of the pairs' targets; too long a target gets none."""
    system = teachers.system
    targets = [pair.target for pair in pairs]
    short = {*system.short_enough(targets, recipe.data.cleaning.max_pieces)}
    asked = [target if target in short else "" for target in targets]
    if options.temperature is None:
        found = system.translate(asked)
    else:
        # A sentence's chance depends on its place in the text alone, so resumption changes nothing.
        seeds = [(recipe.seed << 40) + number for number in range(first, first + len(pairs))]
        found = system.sample(asked, seeds, options.temperature)
    tag = f"{options.tag} " if options.tag else ""
    sources = [tag + source if source else "" for source in found]
    return Made(list(zip(sources, targets, strict=True)), system.count_pieces([source for source in found if source]))
