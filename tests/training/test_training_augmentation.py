"""Altered pairs: what becomes of a text, how often, and that nothing but sampled encodings is ever altered."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.tiny_runs import tiny_recipe, write_capitals
from tokenizer.normalize import is_blank, normalize
from tokenizer.subword import TokenizerPair
from training.augmentation import Augmentation
from training.corpus import Corpus, prepare_corpus
from training.corpus_config import AugmentationConfig, CleaningConfig, CorpusConfig, SamplingConfig
from training.hashes import NO_HASHES, HashArray, hash_pairs
from training.prepare import make_tokenizers, prepare_corpora
from training.reading import Pair
from training.recipe_file import RecipeError, dump_recipe, load_recipe

PAIR = Pair("The river is wide.", "Der Fluß ist breit.", 1)


def altered(
    source: str,
    target: str,
    *kinds: str,
    symbols: tuple[str, ...] = (),
    held_out: HashArray = NO_HASHES,
) -> tuple[str, str] | None:
    """The pair altered in each of ``kinds``."""
    augmentation = Augmentation(AugmentationConfig(**dict.fromkeys(kinds, 1.0)), symbols, held_out)
    (found,) = augmentation.alter([Pair(source, target, 1)], random.Random(1))
    return found and found[:2]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("lower_case",), ("the river is wide.", "Der Fluß ist breit.")),
        (("no_end_punctuation",), ("The river is wide", "Der Fluß ist breit")),
        (("lower_case", "no_end_punctuation"), ("the river is wide", "Der Fluß ist breit")),
        ((), None),
    ],
)
def test_each_kind_does_what_its_name_says(kinds: tuple[str, ...], expected: tuple[str, str] | None) -> None:
    assert altered(*PAIR[:2], *kinds) == expected


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("Where is it?!", "Où est-ce ?", ("Where is it", "Où est-ce")),
        ("Where is it?", "¿Dónde está?", ("Where is it", "Dónde está")),
        ("Wait…", "等一等。", ("Wait", "等一等")),
        ("Open the file", "Datei öffnen.", None),
        ("Yes.", "Ja", None),
        ("?", "?", None),
        ("He said: “Go.”", "Er sagte: „Geh.“", None),
    ],
)
def test_marks_go_where_both_sides_end_with_some(source: str, target: str, expected: tuple[str, str] | None) -> None:
    assert altered(source, target, "no_end_punctuation") == expected


def test_user_symbols_stay_as_they_are() -> None:
    found = altered("<BT> See <NAMEs> and <NAME>", "Siehe <NAME>", "lower_case", symbols=("<NAME>", "<NAMEs>", "<BT>"))
    assert found == ("<BT> see <NAMEs> and <NAME>", "Siehe <NAME>")


def test_what_dev_or_test_ask_never_comes_of_it() -> None:
    held_out = hash_pairs([("The river is wide", "Der Fluß ist breit"), ("Another.", "Anderes.")])
    assert altered(*PAIR[:2], "no_end_punctuation", held_out=held_out) is None
    assert altered(*PAIR[:2], "lower_case", "no_end_punctuation", held_out=held_out) is not None


def test_shares_are_probabilities() -> None:
    config = AugmentationConfig(lower_case=0.3, no_end_punctuation=0.25)
    found = Augmentation(config).alter([PAIR] * 20_000, random.Random(1))
    texts = [(new or PAIR).source for new in found]
    shares = [
        sum(text.islower() for text in texts),
        sum(text[-1] != "." for text in texts),
        sum(text.islower() and text[-1] != "." for text in texts),
        sum(new is None for new in found),
    ]
    # 5 standard deviations of the widest, sqrt(p (1 - p) / n)
    assert [share / len(texts) for share in shares] == pytest.approx([0.3, 0.25, 0.075, 0.525], abs=0.018)


@given(st.text(), st.text(), st.integers(0, 100))
def test_whatever_comes_is_normalised_and_has_two_sides(source: str, target: str, seed: int) -> None:
    if is_blank(source) or is_blank(target):
        return
    config = AugmentationConfig(lower_case=0.5, no_end_punctuation=0.5)
    pair = Pair(normalize(source), normalize(target), 1)
    (found,) = Augmentation(config).alter([pair], random.Random(seed))
    if found is not None:
        assert found[:2] != pair[:2]
        for text in found[:2]:
            assert text == normalize(text) != ""


def prepare(
    folder: Path,
    tokenizers: TokenizerPair,
    augmentation: Augmentation,
    max_pieces: int = 200,
) -> Corpus:
    text = folder / "text.tsv"
    text.parent.mkdir(exist_ok=True)
    text.write_text(
        "".join(f"The ship {number} is here.\tDas Schiff {number} ist hier.\n" for number in range(1000, 1200))
    )
    cleaning = CleaningConfig(max_pieces=max_pieces, drop_duplicates=False, max_length_ratio=None)
    return prepare_corpus(
        [CorpusConfig(tsv=text)],
        tokenizers,
        cleaning,
        SamplingConfig(variants=3),
        folder / "corpus",
        augmentation=augmentation,
    )


def texts(corpus: Corpus, tokenizers: TokenizerPair, index: int, variant: int) -> tuple[str, str]:
    source, target = corpus.pair(index, variant)
    return tokenizers.source.decode(source.tolist()), tokenizers.target.decode(target.tolist())


def test_the_canonical_encoding_is_of_the_text_as_it_is_and_the_others_of_altered_pairs(
    tmp_path: Path, tiny_tokenizer: TokenizerPair
) -> None:
    corpus = prepare(tmp_path, tiny_tokenizer, Augmentation(AugmentationConfig(lower_case=0.5)))
    seen = set()
    for index in range(200):
        plain = (f"The ship {1000 + index} is here.", f"Das Schiff {1000 + index} ist hier.")
        small = (plain[0].lower(), plain[1])
        canonical, *sampled = (texts(corpus, tiny_tokenizer, index, variant) for variant in range(3))
        assert canonical == plain
        assert {*sampled} <= {plain, small}
        seen |= {*sampled}
    assert len(seen) > 300


def test_an_altered_pair_that_is_too_long_gives_way_on_both_sides(
    tmp_path: Path, tiny_tokenizer: TokenizerPair
) -> None:
    whole, bare = (
        max(len(tiny_tokenizer.source.encode(source)), len(tiny_tokenizer.target.encode(target)))
        for source, target in (
            ("The ship 1199 is here.", "Das Schiff 1199 ist hier."),
            ("The ship 1199 is here", "Das Schiff 1199 ist hier"),
        )
    )
    augmentation = Augmentation(AugmentationConfig(no_end_punctuation=1))
    # Sampled encodings are longer than the canonical ones: of many one side or both are too long.
    corpus = prepare(tmp_path, tiny_tokenizer, augmentation, max_pieces=max(whole, bare))
    seen = set()
    for index in range(len(corpus)):
        for variant in (1, 2):
            source, target = texts(corpus, tiny_tokenizer, index, variant)
            assert source.endswith(".") == target.endswith(".")
            seen.add(source.endswith("."))
    assert seen == {True, False}


def test_without_augmentation_encodings_and_their_folder_are_as_before(
    tmp_path: Path, tiny_tokenizer: TokenizerPair
) -> None:
    off = prepare(tmp_path, tiny_tokenizer, Augmentation(AugmentationConfig(), ("<x>",), hash_pairs([("a", "b")])))
    assert off.fingerprint == prepare(tmp_path, tiny_tokenizer, Augmentation()).fingerprint
    on = [
        prepare(tmp_path, tiny_tokenizer, Augmentation(AugmentationConfig(lower_case=share), symbols, held_out))
        for share, symbols, held_out in (
            (0.5, (), NO_HASHES),
            (0.6, (), NO_HASHES),
            (0.5, ("<x>",), NO_HASHES),
            (0.5, (), hash_pairs([("a", "b")])),
        )
    ]
    assert len({corpus.fingerprint for corpus in (off, *on)}) == 5


def test_a_recipe_alters_its_training_text_only_and_never_into_its_dev_text(tmp_path: Path) -> None:
    write_capitals(tmp_path)
    with (tmp_path / "dev.en").open("a") as source, (tmp_path / "dev.de").open("a") as target:
        source.write("river ferry\n")
        target.write("RIVER FERRY\n")
    with (tmp_path / "train.en").open("a") as source, (tmp_path / "train.de").open("a") as target:
        source.write("river ferry.\n")
        target.write("RIVER FERRY.\n")
    plain = tiny_recipe(tmp_path, tmp_path)
    options = AugmentationConfig(no_end_punctuation=1)
    recipe = plain.model_copy(update={"data": plain.data.model_copy(update={"augmentation": options})})
    tokenizers = make_tokenizers(recipe, recipe.folder)
    corpora = prepare_corpora(recipe, tokenizers, recipe.folder)
    last = len(corpora.train) - 1
    assert texts(corpora.train, tokenizers, last, 1) == ("river ferry.", "RIVER FERRY.")
    assert corpora.dev.variants == 1


def test_a_recipe_without_sampled_encodings_is_told_that_it_needs_some(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(tiny_recipe(tmp_path, tmp_path)))
    changes = ["data.augmentation.lower_case=0.1", "tokenizer.sampling.variants=1"]
    with pytest.raises(RecipeError, match=r"tokenizer\.sampling\.variants is 1, which means none; give 2 or more"):
        load_recipe(path, changes)
    assert load_recipe(path, changes[:1]).data.augmentation.active
