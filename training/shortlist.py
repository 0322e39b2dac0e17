"""A vocabulary shortlist learned from the training text: the likeliest translations of each source piece."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from model.checkpoint import (
    CONFIG,
    SHORTLIST,
    WEIGHTS,
    ShortlistSummary,
    listed_files,
    load_checkpoint,
    save_checkpoint,
)
from model.shortlist import Shortlist
from tokenizer.subword import BOS, EOS, PAD, UNK, TokenizerPair, load_tokenizers
from training.card import CARD, with_shortlist
from training.config import ShortlistConfig
from training.corpus import Corpus, prepare_corpus
from training.corpus_config import CleaningConfig, CorpusConfig, SamplingConfig
from training.lexical_table import MOST_PAIRS, LexicalTable, learn_lexical_table
from training.shards import IndexArray

_PAIRS_AT_ONCE = 1 << 16


def learn_shortlist(corpus: Corpus, tokenizers: TokenizerPair, config: ShortlistConfig) -> Shortlist:
    """The shortlist of ``corpus``, the same each time.

    A source piece brings its ``config.size`` likeliest target pieces (IBM model 1; of equally likely ones those of the
    smaller ids) and, in a joint vocabulary, itself, so that names can be copied. Allowed always are the
    ``config.frequent`` target pieces most frequent in the text, the reserved ids, and the bytes, so that every text can
    be written.
    """
    source, target = tokenizers.source.vocabulary_size, tokenizers.target.vocabulary_size
    always = np.zeros(target, dtype=np.bool_)
    always[[PAD, UNK, BOS, EOS, *tokenizers.target.byte_ids()]] = True
    counts = _counts(corpus, target)
    frequent = np.argsort(-counts, kind="stable")[: config.frequent]
    always[frequent[counts[frequent] > 0]] = True
    keys = _likeliest(learn_lexical_table(corpus, source, target), source, target, config.size)
    if tokenizers.joint():
        keys = np.concatenate([keys, np.arange(source) * (target + 1)])
    keys = np.unique(keys)
    keys = keys[~always[keys % target]]
    offsets = np.searchsorted(keys, np.arange(source + 1) * target)
    return Shortlist(*map(_tensor, (offsets, keys % target, np.flatnonzero(always))))


def summarize(corpus: Corpus, config: ShortlistConfig, data: tuple[str, ...]) -> ShortlistSummary:
    """What a checkpoint says about a shortlist of ``corpus``, whose texts are ``data``."""
    pairs = min(len(corpus), MOST_PAIRS)
    return ShortlistSummary(size=config.size, frequent=config.frequent, pairs=pairs, data=data)


def add_shortlist(folder: Path, corpora: Sequence[CorpusConfig], config: ShortlistConfig, workers: int) -> Shortlist:
    """Gives the checkpoint in ``folder`` a shortlist learned from ``corpora``, instead of one that it may have.

    The text is cleaned as for training by default. The checkpoint stays as it was until it is replaced as a whole.
    Raises CheckpointError, TokenizerError, CorpusError, WorkerError, or OSError where it cannot be written.
    """
    folder = folder.resolve()
    checkpoint, tokenizers = load_checkpoint(folder), load_tokenizers(folder)
    with tempfile.TemporaryDirectory(prefix="shortlist.") as temporary:
        corpus = prepare_corpus(
            corpora, tokenizers, CleaningConfig(), SamplingConfig(), Path(temporary), workers=workers
        )
        shortlist = learn_shortlist(corpus, tokenizers, config)
    kept = zip(corpora, corpus.report.corpora, strict=True)
    summary = summarize(corpus, config, tuple(f"{one.label}: {report.kept:,} pairs" for one, report in kept))
    own = (CONFIG, WEIGHTS, SHORTLIST)
    files = {name: (folder / name).read_bytes() for name in listed_files(folder) if name not in own}
    if CARD in files:
        files[CARD] = with_shortlist(files[CARD].decode(), summary).encode()
    described = checkpoint.config.model_copy(update={"shortlist": summary})
    save_checkpoint(folder, described, checkpoint.model.state_dict(), files, shortlist)
    return shortlist


def _likeliest(table: LexicalTable, source: int, target: int, size: int) -> IndexArray:
    """The ``size`` likeliest entries of each source piece, as source * target vocabulary + target."""
    order = np.lexsort((table.target, -table.probability, table.source))
    sources = table.source[order]
    rank = np.arange(len(order)) - np.searchsorted(sources, np.arange(source))[sources]
    chosen = order[rank < size]
    return table.source[chosen] * target + table.target[chosen]


def _counts(corpus: Corpus, vocabulary: int) -> IndexArray:
    """How often each target piece stands in the canonical encodings, (vocabulary,)."""
    counts = np.zeros(vocabulary, dtype=np.int64)
    for start in range(0, len(corpus), _PAIRS_AT_ONCE):
        rows = corpus.rows(np.arange(start, min(start + _PAIRS_AT_ONCE, len(corpus))))
        counts += np.bincount(corpus.target.gather(rows).pieces, minlength=vocabulary)
    return counts


def _tensor(ids: npt.NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(ids.astype(np.int32))
