"""Subword regularisation: the right distribution, repeatable with a seed wherever it runs."""

import math
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenizer.normalize import normalize
from tokenizer.sampling import STRETCH, BpeDropout, UnigramLattice, Vocabulary
from tokenizer.subword import Subword, seed_sampling, train_subword

SENTENCES = ["The ferry crosses the river every hour.", "She waits on the other side with 24 books."]
MODELS = {
    "unigram": train_subword(SENTENCES * 4, model_type="unigram", vocabulary_size=292, user_symbols=["<2de>"]),
    "bpe": train_subword(SENTENCES * 4, model_type="bpe", vocabulary_size=330, user_symbols=["<2de>"]),
}
TEXTS = st.lists(st.sampled_from([" ", "ferry", "other", "<2de>", "\U0001f600"]) | st.text(max_size=4), max_size=12)
VOCABULARY = Vocabulary(
    ids={piece: 300 + index for index, piece in enumerate(["a", "b", "ab", "ba", "aba"])},
    scores={"a": -1.0, "b": -1.5, "ab": -1.2, "ba": -2.0, "aba": -2.5},
    bytes=tuple(range(4, 260)),
    user_symbols=(),
)


@given(st.sampled_from(list(MODELS.values())), TEXTS.map("".join), st.floats(0, 1))
def test_a_sampled_encoding_is_still_the_text(model: Subword, text: str, alpha: float) -> None:
    [ids] = model.sample_batch([text], alpha)
    assert model.decode(ids) == normalize(text)


@given(TEXTS.map("".join).filter(lambda text: len(text) < STRETCH))
def test_bpe_that_drops_no_merge_is_the_usual_encoding(text: str) -> None:
    assert MODELS["bpe"].sample_batch([text], 0.0) == [MODELS["bpe"].encode(text)]


def test_bpe_that_drops_every_merge_is_spelt_in_characters() -> None:
    [ids] = MODELS["bpe"].sample_batch(["The other"], 1.0)
    assert [piece.text for piece in MODELS["bpe"].decode_pieces(ids)[1]] == list("▁The▁other")


def test_bpe_drops_each_merge_with_probability_alpha() -> None:
    sampler, generator = BpeDropout(VOCABULARY._replace(scores={"ab": -0.0, "a": -1.0, "b": -2.0})), random.Random(1)
    counts = Counter(len(sampler.sample("ab", 0.3, generator)) for _ in range(10_000))
    assert counts[1] / 10_000 == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_unigram_draws_segmentations_with_probability_to_the_power_alpha(alpha: float) -> None:
    segmentations = [("a", "b", "a"), ("ab", "a"), ("a", "ba"), ("aba",)]
    weights = [math.exp(alpha * sum(VOCABULARY.scores[part] for part in parts)) for parts in segmentations]
    sampler, generator = UnigramLattice(VOCABULARY), random.Random(1)
    counts = Counter(tuple(sampler.sample("aba", alpha, generator)) for _ in range(20_000))
    assert set(counts) == set(segmentations)
    for parts, weight in zip(segmentations, weights, strict=True):
        assert counts[parts] / 20_000 == pytest.approx(weight / sum(weights), abs=0.015)


@pytest.mark.parametrize("name", MODELS)
def test_a_user_symbol_is_never_taken_apart(name: str) -> None:
    for ids in MODELS[name].sample_batch(["<2de> The other", "x<2de>y"] * 20, 0.1):
        assert 4 in ids


@pytest.mark.parametrize("name", MODELS)
def test_sampling_varies_from_call_to_call_and_repeats_with_its_seed(name: str) -> None:
    text = ["She crosses the river on the ferry"] * 4
    seed_sampling(5)
    first, second = MODELS[name].sample_batch(text, 0.3), MODELS[name].sample_batch(text, 0.3)
    seed_sampling(5)
    assert MODELS[name].sample_batch(text, 0.3) == first != second


def test_sampling_repeats_with_its_seed_in_a_fresh_process(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(MODELS["unigram"].to_bytes())
    program = (
        "import sys; from pathlib import Path; from tokenizer.subword import Subword, seed_sampling; seed_sampling(5);"
        "print(Subword.load(Path(sys.argv[1])).sample_batch(['She crosses the river on the ferry'] * 8, 0.3))"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", program, path], cwd=root, check=True, capture_output=True, text=True, timeout=60
    )
    seed_sampling(5)
    assert run.stdout == f"{MODELS['unigram'].sample_batch(['She crosses the river on the ferry'] * 8, 0.3)}\n"


@pytest.mark.parametrize("name", MODELS)
def test_a_very_long_word_is_sampled(name: str) -> None:
    [ids] = MODELS[name].sample_batch(["other" * 10_000], 0.2)
    assert MODELS[name].decode(ids) == "other" * 10_000


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_alpha_outside_its_range_is_an_error(alpha: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        MODELS["bpe"].sample_batch(["a"], alpha)
