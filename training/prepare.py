"""What a run needs before the first step: tokenizers trained and saved, corpora checked and encoded."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from model.config import LengthLimit
from tokenizer.subword import Subword, TokenizerError, TokenizerPair, load_tokenizers, train_subword
from training.cleaning import clean_texts
from training.config import Recipe
from training.corpus import Corpus, prepare_corpus
from training.corpus_config import SamplingConfig
from training.overlap import check_overlap

TOKENIZER_FOLDER = "tokenizer"
CORPUS_FOLDER = "corpus"


class Corpora(NamedTuple):
    """The encoded text of a run."""

    train: Corpus
    dev: Corpus


def make_tokenizers(recipe: Recipe, run_folder: Path) -> TokenizerPair:
    """Trains the tokenizers on the cleaned training text and saves them in the run folder, in place of older ones.

    Raises CorpusError for unusable text and TokenizerError where the text does not allow the vocabulary.
    """
    if recipe.tokenizer.joint:
        joint = _train(recipe, _texts(recipe, "source", "target"))
        tokenizers = TokenizerPair(joint, joint)
    else:
        source, target = _train(recipe, _texts(recipe, "source")), _train(recipe, _texts(recipe, "target"))
        tokenizers = TokenizerPair(source, target)
    _save(tokenizers, run_folder / TOKENIZER_FOLDER)
    return tokenizers


def open_tokenizers(run_folder: Path) -> TokenizerPair:
    """The tokenizers that make_tokenizers saved. Raises TokenizerError if it has not."""
    folder = run_folder / TOKENIZER_FOLDER
    if not folder.is_dir():
        raise TokenizerError(f"{folder}: there is no tokenizer yet; run `ferry-train tokenizer` with this recipe first")
    return load_tokenizers(folder)


def prepare_corpora(
    recipe: Recipe, tokenizers: TokenizerPair, run_folder: Path, progress: Callable[[int], None] | None = None
) -> Corpora:
    """The encoded training and dev text, made or found again in the run folder; ``progress`` gets pairs written so far.

    Raises CorpusError for unusable text, and OverlapError where a dev or test pair stands in the training text, unless
    the recipe allows it.
    """
    data, folder = recipe.data, run_folder / CORPUS_FOLDER
    if not data.allow_overlap:
        check_overlap(data.train, [*data.dev, *data.test])
    sampling = recipe.tokenizer.sampling
    train = prepare_corpus(data.train, tokenizers, data.cleaning, sampling, folder, seed=recipe.seed, progress=progress)
    dev = prepare_corpus(data.dev, tokenizers, data.cleaning.for_held_out(), SamplingConfig(), folder)
    return Corpora(train, dev)


def length_limit(train: Corpus) -> LengthLimit:
    """How long translations may grow, from the length ratios of the training pairs."""
    ratio = train.length_ratio()
    return LengthLimit(ratio_mean=ratio.mean, ratio_deviation=ratio.deviation)


def _texts(recipe: Recipe, *sides: Literal["source", "target"]) -> Iterator[str]:
    for pair in clean_texts(recipe.data.train, recipe.data.cleaning):
        if "source" in sides:
            yield pair.source
        if "target" in sides:
            yield pair.target


def _train(recipe: Recipe, texts: Iterator[str]) -> Subword:
    options = recipe.tokenizer
    return train_subword(
        texts,
        model_type=options.model_type,
        vocabulary_size=options.vocabulary_size,
        user_symbols=options.user_symbols,
        character_coverage=options.character_coverage,
        seed=recipe.seed,
    )


def _save(tokenizers: TokenizerPair, folder: Path) -> None:
    """Writes a sibling and renames it, so that a reader never meets half of a tokenizer."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        for name, model in tokenizers.files().items():
            (temporary / name).write_bytes(model)
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
