"""Training a subword model: what it promises, and what it refuses."""

from typing import Literal

import pytest

from tokenizer.normalize import InvalidTextError
from tokenizer.subword import TokenizerError, train_subword

SENTENCES = [f"Sentence number {number} is about ferry {number * 7} and the river." for number in range(60)]
TYPES: list[Literal["unigram", "bpe"]] = ["unigram", "bpe"]


@pytest.mark.parametrize("model_type", TYPES)
def test_the_vocabulary_has_the_size_asked_for(model_type: Literal["unigram", "bpe"]) -> None:
    assert train_subword(SENTENCES, model_type=model_type, vocabulary_size=290).vocabulary_size == 290


@pytest.mark.parametrize("model_type", TYPES)
def test_training_twice_gives_the_same_bytes(model_type: Literal["unigram", "bpe"]) -> None:
    first, second = (train_subword(SENTENCES, model_type=model_type, vocabulary_size=290) for _ in range(2))
    assert first.to_bytes() == second.to_bytes()


def test_of_too_many_texts_a_sample_drawn_with_the_seed_is_used() -> None:
    texts = [chr(0x4E00 + number) * 3 for number in range(100)]
    models = [
        train_subword(texts, model_type="bpe", vocabulary_size=275, character_coverage=1.0, max_texts=10, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert models[0].to_bytes() == models[1].to_bytes() != models[2].to_bytes()


@pytest.mark.parametrize("model_type", TYPES)
def test_too_large_a_vocabulary_is_an_error_naming_the_largest(model_type: Literal["unigram", "bpe"]) -> None:
    with pytest.raises(TokenizerError, match=r"50000 is too large for this text: it allows at most \d+"):
        train_subword(SENTENCES, model_type=model_type, vocabulary_size=50_000)


@pytest.mark.parametrize("model_type", TYPES)
def test_too_small_a_vocabulary_is_an_error_naming_the_smallest(model_type: Literal["unigram", "bpe"]) -> None:
    with pytest.raises(TokenizerError, match=r"100 is too small for this text: it needs at least \d+"):
        train_subword(SENTENCES, model_type=model_type, vocabulary_size=100)


@pytest.mark.parametrize("texts", [[], ["", " \n", "\x00"]])
def test_training_on_nothing_is_an_error(texts: list[str]) -> None:
    with pytest.raises(TokenizerError, match="nothing to train on"):
        train_subword(texts, model_type="unigram", vocabulary_size=300)


def test_training_on_a_lone_surrogate_is_an_error() -> None:
    with pytest.raises(InvalidTextError):
        train_subword([*SENTENCES, "\ud800"], model_type="unigram", vocabulary_size=300)


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        ([""], "normalised text without white space"),
        (["two words"], "normalised text without white space"),
        (["e\u0301"], "normalised text without white space"),
        (["<pad>"], "reserved"),
        (["<0x41>"], "reserved"),
        (["<2de>", "<2de>"], "twice"),
    ],
)
def test_an_impossible_user_symbol_is_an_error(symbols: list[str], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        train_subword(SENTENCES, model_type="unigram", vocabulary_size=290, user_symbols=symbols)
