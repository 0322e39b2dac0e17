"""Cleaned text to piece ids in shards: each pair's canonical encoding, and the sampled ones beside it."""

from collections.abc import Callable

from tokenizer.subword import Subword, TokenizerPair
from training.cleaning import Cleaner, CorpusReport, Tally
from training.corpus_config import CleaningConfig, CorpusConfig, SamplingConfig
from training.reading import Pair, read_pairs
from training.shards import ShardWriter


class Encoder:
    """Cleans the corpora of one list in turn and writes what is kept into shards, one chunk in memory at a time."""

    def __init__(
        self,
        tokenizers: TokenizerPair,
        cleaning: CleaningConfig,
        sampling: SamplingConfig,
        progress: Callable[[int], None] | None,
    ) -> None:
        self._tokenizers, self._sampling = tokenizers, sampling
        self._cleaner = Cleaner(cleaning)
        self._max_pieces = cleaning.max_pieces
        self._progress = progress
        self._written = 0

    def encode(self, corpus: CorpusConfig, source: ShardWriter, target: ShardWriter) -> CorpusReport:
        """Appends each kept pair's variants, canonical first, to both shards. Raises CorpusError for unusable text."""
        tally = Tally(corpus.label)
        for chunk in self._cleaner.clean(read_pairs(corpus), tally):
            kept, sources, targets = self._canonical(chunk, tally)
            source.append(self._variants(self._tokenizers.source, [pair.source for pair in kept], sources))
            target.append(self._variants(self._tokenizers.target, [pair.target for pair in kept], targets))
            self._written += len(kept)
            if self._progress is not None:
                self._progress(self._written)
        return tally.report()

    def _canonical(self, chunk: list[Pair], tally: Tally) -> tuple[list[Pair], list[list[int]], list[list[int]]]:
        sources = self._tokenizers.source.encode_batch([pair.source for pair in chunk])
        targets = self._tokenizers.target.encode_batch([pair.target for pair in chunk])
        kept = [
            index
            for index, pair in enumerate(chunk)
            if self._cleaner.fits(pair, len(sources[index]), len(targets[index]), tally)
        ]
        return [chunk[i] for i in kept], [sources[i] for i in kept], [targets[i] for i in kept]

    def _variants(self, subword: Subword, texts: list[str], canonical: list[list[int]]) -> list[list[int]]:
        """The canonical encoding of each text, followed by its sampled ones; a sample that is too long is not used."""
        rounds = [canonical]
        for _ in range(1, self._sampling.variants):
            sampled = subword.sample_batch(texts, self._sampling.alpha)
            pairs = zip(sampled, canonical, strict=True)
            rounds.append([sample if 0 < len(sample) <= self._max_pieces else whole for sample, whole in pairs])
        return [encoding for encodings in zip(*rounds, strict=True) for encoding in encodings]
