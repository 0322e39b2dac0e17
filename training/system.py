"""Trained models with all that is needed to translate text: from a run, from a checkpoint, or several as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file

from model.checkpoint import load_checkpoint
from model.config import LengthLimit
from model.ensemble import Ensemble, Model, as_ensemble
from model.precision import Precision, prepare
from model.sampling import sample
from model.search import SearchOptions, translate
from model.seq2seq import Seq2Seq
from model.shortlist import Shortlist
from tokenizer.subword import TokenizerPair, load_tokenizers
from training.config import Recipe
from training.corpus import Corpus
from training.device import resolve_device
from training.prepare import length_limit, open_tokenizers, prepare_corpora
from training.state import BEST_WEIGHTS

TOKEN_BUDGET = 8192


class UnusableSystemError(Exception):
    """There is no trained model, or not one that translates as asked; the message says what would be right."""


class System(NamedTuple):
    """All that is needed to translate text as the service does."""

    model: Model
    tokenizers: TokenizerPair
    length_limit: LengthLimit
    options: SearchOptions
    language: str  # translated into
    token_budget: int = TOKEN_BUDGET
    shortlist: Shortlist | None = None  # that translations keep to; samples do not
    precision: Precision = "float32"  # of products with weights

    def translate(self, texts: Sequence[str]) -> list[str]:
        """The best translation of each text, a line each; a text without a piece, such as a blank one, stays empty."""
        return [found[0] if found else "" for found in self.n_best(texts)]

    def n_best(self, texts: Sequence[str]) -> list[list[str]]:
        """The ``options.n_best`` translations of each text, best first; none of a text without a piece.

        Raises UnusableSystemError where the model's scores are no numbers.
        """
        encoded, filled = self._encode(texts)
        sources = [encoded[index] for index in filled]
        found = translate(self.model, sources, self.options, self.length_limit, self.token_budget, self.shortlist)
        translations: list[list[str]] = [[] for _ in texts]
        for index, hypotheses in zip(filled, found, strict=True):
            if not hypotheses:
                raise UnusableSystemError("the search ended without a translation: the model's scores are no numbers")
            translations[index] = [self._line(hypothesis.pieces) for hypothesis in hypotheses]
        return translations

    def sample(self, texts: Sequence[str], seeds: Sequence[int], temperature: float = 1.0) -> list[str]:
        """A translation of each text drawn with its own seed; a text without a piece stays empty."""
        encoded, filled = self._encode(texts)
        sources, chosen = [encoded[index] for index in filled], [seeds[index] for index in filled]
        found = sample(self.model, sources, chosen, self.length_limit, temperature, self.token_budget)
        translations = [""] * len(texts)
        for index, pieces in zip(filled, found, strict=True):
            translations[index] = self._line(pieces)
        return translations

    def with_search(self, beam_size: int | None = None, alpha: float | None = None, n_best: int = 1) -> System:
        """The same system with other search options; None leaves one as it is."""
        penalty = self.options.length_penalty
        if alpha is not None:
            penalty = penalty.model_copy(update={"alpha": alpha})
        width = self.options.beam_size if beam_size is None else beam_size
        return self._replace(options=self.options._replace(beam_size=width, n_best=n_best, length_penalty=penalty))

    def in_precision(self, precision: Precision) -> System:
        """The same system, opened in float32, with its models' products with weights in ``precision``.

        Raises PrecisionError for int8 elsewhere than on a CPU.
        """
        if precision == "float32":
            return self
        members = [prepare(member, precision).model for member in as_ensemble(self.model).members]
        return self._replace(model=Ensemble(members), precision=precision)

    def short_enough(self, texts: Iterable[str], max_pieces: int) -> list[str]:
        """The texts of at most ``max_pieces`` source pieces."""
        listed = list(texts)
        encoded = self.tokenizers.source.encode_batch(listed)
        return [text for text, pieces in zip(listed, encoded, strict=True) if len(pieces) <= max_pieces]

    def count_pieces(self, translations: Sequence[str]) -> int:
        """Target pieces of the translations, an end-of-sentence for each included."""
        return sum(len(pieces) + 1 for pieces in self.tokenizers.target.encode_batch(translations))

    def _encode(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Pieces of each text, and the indices of texts that have any."""
        encoded = self.tokenizers.source.encode_batch(texts)
        return encoded, [index for index, pieces in enumerate(encoded) if pieces]

    def _line(self, pieces: Sequence[int]) -> str:
        return self.tokenizers.target.decode(pieces).replace("\n", " ").replace("\r", " ")


class Run(NamedTuple):
    """The best weights of a run, alone and as a system, and the text they were trained on."""

    model: Seq2Seq
    system: System
    train: Corpus


def open_run(recipe: Recipe, run_folder: Path) -> Run:
    """The best weights of a run, in float32.

    Raises UnusableSystemError where there are none, or of another model than the recipe's; CorpusError, TokenizerError.
    """
    path = run_folder / BEST_WEIGHTS
    if not path.is_file():
        raise UnusableSystemError(
            f"{path}: there are no trained weights yet; run `ferry-train fit` with this recipe first"
        )
    tokenizers = open_tokenizers(run_folder)
    sizes = (tokenizers.source.vocabulary_size, tokenizers.target.vocabulary_size)
    device = resolve_device(recipe)
    model = Seq2Seq(recipe.model.config(*sizes))
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise UnusableSystemError(f"{path}: not weights of the model that the recipe describes: {error}") from error
    train = prepare_corpora(recipe, tokenizers, run_folder).train
    options = SearchOptions(recipe.search.beam_size, length_penalty=recipe.search.length_penalty)
    model = model.to(device.name).eval().requires_grad_(False)
    limit = length_limit(train)
    system = System(model, tokenizers, limit, options, recipe.data.target, recipe.search.token_budget)
    return Run(model, system, train)


def open_checkpoint(
    folder: Path, device: str = "cpu", token_budget: int = TOKEN_BUDGET, shortlist: bool = False
) -> System:
    """An exported checkpoint with its own search options, keeping to its shortlist if asked to.

    Raises CheckpointError or TokenizerError, and UnusableSystemError where there is no shortlist.
    """
    checkpoint = load_checkpoint(folder, device)
    config = checkpoint.config
    if shortlist and checkpoint.shortlist is None:
        raise UnusableSystemError(f"{folder} has no shortlist; give it one with `ferry-train shortlist {folder}`")
    options = SearchOptions(config.beam_size, length_penalty=config.length_penalty)
    return System(
        checkpoint.model,
        load_tokenizers(folder),
        config.length_limit,
        options,
        config.target,
        token_budget,
        checkpoint.shortlist if shortlist else None,
    )


def combine(systems: Sequence[System]) -> System:
    """The systems as one that decodes with the mean of their models, and searches as the first of them does.

    Raises UnusableSystemError where they do not share their language and tokenizers, EnsembleError where their models
    cannot decode together.
    """
    first, *others = systems
    for number, other in enumerate(others, start=2):
        if other.language != first.language:
            raise UnusableSystemError(
                f"system {number} translates into {other.language}, the first into {first.language}; "
                "an ensemble has one target language"
            )
        if other.tokenizers.files() != first.tokenizers.files():
            raise UnusableSystemError(
                f"system {number} has other tokenizers than the first; the members of an ensemble must have been "
                "trained with the very same ones"
            )
    members = [system.model for system in systems]
    flat = [one for member in members for one in (member.members if isinstance(member, Ensemble) else [member])]
    return first._replace(model=Ensemble(flat)) if others else first
