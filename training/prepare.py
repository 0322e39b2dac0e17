"""What a run needs before the first step: tokenizers trained and saved, corpora checked and encoded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.config import LengthLimit
from tokenizer.subword import Subword, TokenizerError, TokenizerPair, load_tokenizers, train_subword
from training.augmentation import NO_AUGMENTATION, Augmentation
from training.cleaning import clean_pairs
from training.config import DataConfig, Recipe
from training.corpus import Corpus, prepare_corpus
from training.corpus_config import SamplingConfig
from training.hashes import NO_HASHES, HashArray, hash_corpus
from training.overlap import check_overlap, held_out_hashes
from training.publish import published
from training.reading import Pair, read_chunks
from training.workers import available_cores

TOKENIZER_FOLDER = "tokenizer"
CORPUS_FOLDER = "corpus"


class Corpora(NamedTuple):
    """The encoded text of a run."""

    train: Corpus
    dev: Corpus


def make_tokenizers(recipe: Recipe, run_folder: Path) -> TokenizerPair:
    """Trains the tokenizers on the cleaned training text and saves them in the run folder, in place of older ones.

    A run that learns its teachers' predictions takes the first teacher's instead: its pieces must mean what theirs do.
    Of more than ``tokenizer.sample_pairs`` pairs a random sample is used. While SentencePiece trains it takes some 4 KB
    of memory a pair of the sample (of twice 90 characters), 2 GB by default. Raises CorpusError for unusable text and
    TokenizerError where the text does not allow the vocabulary.
    """
    distillation = recipe.training.word_distillation
    tokenizers = _train_tokenizers(recipe) if distillation is None else _taken(recipe, distillation.teachers[0])
    with published(run_folder / TOKENIZER_FOLDER, replace=True) as folder:
        for name, model in tokenizers.files().items():
            (folder / name).write_bytes(model)
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

    Raises CorpusError for unusable text, WorkerError where a worker was killed, and OverlapError where a dev or test
    pair stands in the training text, unless the recipe says what to do with it.
    """
    data, folder = recipe.data, run_folder / CORPUS_FOLDER
    workers = data.workers or available_cores()
    if not (data.allow_overlap or data.drop_overlap):
        _require_no_overlap(data, folder, workers)
    train = prepare_corpus(
        data.train,
        tokenizers,
        data.cleaning,
        recipe.tokenizer.sampling,
        folder,
        augmentation=_augmentation(recipe),
        held_out=_left_out(data),
        seed=recipe.seed,
        workers=workers,
        progress=progress,
    )
    dev = prepare_corpus(data.dev, tokenizers, data.cleaning.for_held_out(), SamplingConfig(), folder)
    return Corpora(train, dev)


def length_limit(train: Corpus) -> LengthLimit:
    """How long translations may grow, from the length ratios of the training pairs."""
    ratio = train.length_ratio()
    return LengthLimit(ratio_mean=ratio.mean, ratio_deviation=ratio.deviation)


def _left_out(data: DataConfig) -> HashArray:
    return held_out_hashes([*data.dev, *data.test]) if data.drop_overlap else NO_HASHES


def _augmentation(recipe: Recipe) -> Augmentation:
    data = recipe.data
    if not data.augmentation.active:
        return NO_AUGMENTATION
    held_out = NO_HASHES if data.allow_overlap else held_out_hashes([*data.dev, *data.test])
    return Augmentation(data.augmentation, recipe.tokenizer.user_symbols, held_out)


def _require_no_overlap(data: DataConfig, folder: Path, workers: int) -> None:
    """Checks once for each content of the files: a large corpus takes long to read."""
    held_out = [*data.dev, *data.test]
    contents = [[found for corpus in corpora for found in hash_corpus(corpus)] for corpora in (data.train, held_out)]
    verdict = folder / f"no-overlap-{hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]}"
    if not verdict.exists():
        check_overlap(data.train, held_out, workers)
        folder.mkdir(parents=True, exist_ok=True)
        verdict.touch()


def _sample(recipe: Recipe) -> list[Pair]:
    """All training pairs in order or, of more than ``sample_pairs``, a random sample (Vitter 1985, algorithm R)."""
    size, generator = recipe.tokenizer.sample_pairs, np.random.default_rng(recipe.seed)
    sample: list[Pair] = []
    read = 0
    for chunk in read_chunks(recipe.data.train):
        pairs = chunk.pairs()
        room = size - len(sample)
        sample.extend(pairs[:room])
        late = pairs[room:]
        places = generator.integers(np.arange(read + len(pairs) - len(late), read + len(pairs)) + 1)
        for index in np.flatnonzero(places < size).tolist():
            sample[places[index]] = late[index]
        read += len(pairs)
    return sample


def _train_tokenizers(recipe: Recipe) -> TokenizerPair:
    pairs = list(clean_pairs(_sample(recipe), recipe.data.cleaning, _left_out(recipe.data)))
    if recipe.tokenizer.joint:
        joint = _train(recipe, (text for pair in pairs for text in (pair.source, pair.target)))
        return TokenizerPair(joint, joint)
    source, target = (_train(recipe, map(itemgetter(side), pairs)) for side in (0, 1))
    return TokenizerPair(source, target)


def _taken(recipe: Recipe, teacher: Path) -> TokenizerPair:
    tokenizers = load_tokenizers(teacher)
    if tokenizers.joint() != recipe.tokenizer.joint:
        has, joint = ("one vocabulary", "true") if tokenizers.joint() else ("two vocabularies", "false")
        raise TokenizerError(f"the teacher {teacher} has {has}; a run that it teaches needs tokenizer.joint: {joint}")
    return tokenizers


def _train(recipe: Recipe, texts: Iterable[str]) -> Subword:
    options = recipe.tokenizer
    return train_subword(
        texts,
        model_type=options.model_type,
        vocabulary_size=options.vocabulary_size,
        user_symbols=options.user_symbols,
        character_coverage=options.character_coverage,
        max_texts=2 * options.sample_pairs,
        seed=recipe.seed,
    )
