"""What a recipe says about its parallel text: which files, how to clean them, how to sample their encodings."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from model.config import Frozen

Script = Literal[
    "Arabic", "Armenian", "Bengali", "Cyrillic", "Devanagari", "Ethiopic", "Georgian", "Greek", "Gujarati", "Han",
    "Hangul", "Hebrew", "Hiragana", "Kannada", "Katakana", "Khmer", "Lao", "Latin", "Malayalam", "Myanmar", "Sinhala",
    "Tamil", "Telugu", "Thai", "Tibetan",
]  # fmt: skip


class CorpusConfig(Frozen):
    """One corpus: two aligned text files (``source`` and ``target``), or one ``tsv`` (source, then target column).

    Files are UTF-8, a segment a line, plain or compressed (``.gz``, ``.xz``, ``.zst``).
    """

    source: Path | None = None
    target: Path | None = None
    tsv: Path | None = None
    first: int | None = Field(default=None, ge=1)  # only so many pairs, those that come first; None: all
    weight: float = Field(default=1.0, gt=0, le=1000)  # times each pair is seen an epoch, on average
    name: str = ""
    licence: str = ""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        texts = (self.source is not None, self.target is not None)
        if (self.tsv is not None and any(texts)) or (self.tsv is None and not all(texts)):
            raise ValueError("a corpus is either 'source' and 'target' (two aligned files) or 'tsv' (one file)")
        return self

    @property
    def files(self) -> tuple[Path, ...]:
        """The files read, source before target; one file for TSV."""
        return tuple(path for path in (self.source, self.target, self.tsv) if path is not None)

    @property
    def label(self) -> str:
        """What reports call this corpus: its name, or else its first file's."""
        return self.name or self.files[0].name


class CleaningConfig(Frozen):
    """Which pairs are dropped before training. Pairs with an empty side always are."""

    min_characters: int = Field(default=1, ge=1)  # of each side, after normalisation
    max_pieces: int = Field(default=200, ge=1)  # of each side, without begin and end of sentence
    max_length_ratio: float | None = Field(default=6.0, ge=1, allow_inf_nan=False)  # pieces, longer / shorter side
    drop_duplicates: bool = True  # the second and later of equal pairs, over all corpora of the list
    drop_identical: bool = False  # target equals source
    source_scripts: tuple[Script, ...] = ()  # at least min_script_share of the letters are of these; () is any
    target_scripts: tuple[Script, ...] = ()
    min_script_share: float = Field(default=0.5, gt=0, le=1)

    def for_held_out(self) -> Self:
        """The cleaning of a dev or test set: only pairs that cannot be trained on (empty, too long) are dropped."""
        return type(self)(max_pieces=self.max_pieces, max_length_ratio=None, drop_duplicates=False)


class SamplingConfig(Frozen):
    """Subword regularisation: ``variants - 1`` sampled encodings of each pair are stored beside the canonical one."""

    alpha: float = Field(default=0.1, gt=0, le=1)  # unigram: smoothing (Kudo 2018); BPE: dropout (Provilkov 2020)
    variants: int = Field(default=1, ge=1, le=64)


class AugmentationConfig(Frozen):
    """Of the sampled encodings (``tokenizer.sampling.variants``) so many are of an altered pair, as probabilities.

    Either is drawn by itself. Case follows Unicode's own mapping, whatever the language.
    """

    lower_case: float = Field(default=0.0, ge=0, le=1)  # the source in small letters, its translation as it is
    no_end_punctuation: float = Field(default=0.0, ge=0, le=1)  # neither side ends with . ! ? …, where both did

    @property
    def active(self) -> bool:
        """Whether anything is altered."""
        return any((self.lower_case, self.no_end_punctuation))
