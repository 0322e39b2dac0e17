"""What is served at one moment: the models, and which of them lead from one language to another."""

from __future__ import annotations

from collections.abc import Sequence

from app.languages import LanguagePairs
from app.served import Facts, ServedModel
from model.checkpoint import Checkpoint
from tokenizer.subword import load_tokenizers


class Catalogue:
    """The served models. It never changes: whoever replaces it replaces all of it at once."""

    def __init__(self, models: Sequence[ServedModel], *, pivot: bool = False) -> None:
        """Raises DuplicatePairError if two models have the same languages or name."""
        self.models = tuple(models)
        self.languages = LanguagePairs([model.pair for model in models], pivot=pivot)
        self._by_name = {model.pair.model: model for model in models}

    @classmethod
    def of(cls, checkpoints: Sequence[Checkpoint], *, pivot: bool = False) -> Catalogue:
        """A catalogue of checkpoints that an engine holds for good, each by its own name.

        Raises TokenizerError for a checkpoint without usable tokenizers, and DuplicatePairError.
        """
        return cls([ServedModel(_facts(item), item.config.name) for item in checkpoints], pivot=pivot)

    def route(self, source: str, target: str) -> tuple[ServedModel, ...]:
        """The models to go through, one after the other: mostly one, or two with a third language between them.

        Raises UnsupportedPairError.
        """
        return tuple(self._by_name[pair.model] for pair in self.languages.route(source, target))


def _facts(checkpoint: Checkpoint) -> Facts:
    parameters = sum(weight.numel() for weight in checkpoint.model.parameters())
    tokenizers = load_tokenizers(checkpoint.folder)
    return Facts(
        checkpoint.folder,
        "",
        checkpoint.config,
        tokenizers,
        parameters,
        "float32",
        {},
        shortlist=False,
        load_seconds=0.0,
    )
