"""Batches: every pair in its place, within the budget, and the same again after a restore."""

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenizer.subword import BOS, EOS, PAD, TokenizerPair
from training.batching import Batch, BatchStream, ordered_batches
from training.corpus import Corpus, prepare_corpus
from training.corpus_config import CleaningConfig, CorpusConfig, SamplingConfig
from training.planning import PLANNING, Plan, Window, padded, plan_epoch, plan_in_order

WORDS = ["river", "ferry", "water", "Fluss", "Wasser", "Morgen", "and", "und", "!"]
BUDGET = 300


def texts(count: int) -> list[tuple[str, str]]:
    """Different pairs of one to twelve words a side."""
    generator = np.random.default_rng(7)

    def words() -> str:
        return " ".join(generator.choice(WORDS, generator.integers(1, 12)))

    return [(f"{number} {words()}", words()) for number in range(count)]


def prepare(folder: Path, tokenizers: TokenizerPair, variants: int = 1, weight: float = 1.0) -> Corpus:
    path = folder / "pairs.tsv"
    path.write_text("".join(f"{source}\t{target}\n" for source, target in texts(300)))
    return prepare_corpus(
        [CorpusConfig(tsv=path, weight=weight)],
        tokenizers,
        CleaningConfig(max_length_ratio=None),
        SamplingConfig(variants=variants, alpha=0.5),
        folder / "corpus",
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: TokenizerPair) -> Corpus:
    """300 pairs in three variants."""
    return prepare(tmp_path_factory.mktemp("batching"), tiny_tokenizer, variants=3)


def stream(corpus: Corpus, budget: int = BUDGET, seed: int = 1) -> BatchStream:
    return BatchStream(corpus, budget, seed, pad=PAD, bos=BOS, eos=EOS)


def equal(first: Batch, second: Batch) -> bool:
    return all(torch.equal(left, right) for left, right in zip(first, second, strict=True))


def plans_equal(first: Plan, second: Plan) -> bool:
    return len(first) == len(second) and all(np.array_equal(first[b], second[b]) for b in range(len(first)))


def drawn(corpus: Corpus, plan: Plan) -> Counter[int]:
    """How often each pair stands in the plan."""
    return Counter(row // corpus.variants for batch in range(len(plan)) for row in plan[batch].tolist())


def test_a_batch_holds_pieces_between_their_marks(corpus: Corpus) -> None:
    plan = plan_epoch(corpus, BUDGET, 1, 0)
    batch = next(stream(corpus))
    for place, row in enumerate(plan[0]):
        source, target = corpus.source[int(row)].tolist(), corpus.target[int(row)].tolist()
        assert batch.source_lengths[place] == len(source) + 1
        assert [piece for piece in batch.source[place].tolist() if piece != PAD] == [*source, EOS]
        assert batch.source[place, : len(source) + 1].tolist() == [*source, EOS]
        assert batch.target_input[place, : len(target) + 1].tolist() == [BOS, *target]
        assert batch.target_output[place, : len(target) + 1].tolist() == [*target, EOS]
        assert (batch.target_input[place, len(target) + 1 :] == PAD).all()
        assert (batch.target_output[place, len(target) + 1 :] == PAD).all()


def test_batches_are_int64_and_no_wider_than_needed(corpus: Corpus) -> None:
    for batch in islice(stream(corpus), 20):
        assert {tensor.dtype for tensor in batch} == {torch.int64}
        assert batch.source.shape[1] == padded(int(batch.source_lengths.max()))
        assert batch.target_input.shape == batch.target_output.shape
        longest = int((batch.target_output != PAD).sum(dim=1).max())
        assert batch.target_output.shape[1] == padded(longest) and longest <= padded(longest) < longest + 2


def test_every_pair_stands_once_in_an_epoch(corpus: Corpus) -> None:
    for epoch in range(3):
        assert drawn(corpus, plan_epoch(corpus, BUDGET, 1, epoch)) == Counter(range(len(corpus)))


def test_an_epoch_of_the_stream_is_its_plan(corpus: Corpus) -> None:
    batches = stream(corpus)
    size = batches.batches_per_epoch
    pairs = sum(len(next(batches).source) for _ in range(size))
    assert pairs == len(corpus)
    assert (batches.epoch, batches.state().batch) == (1, 0)


@pytest.mark.parametrize("budget", [60, 300, 5000])
def test_no_batch_exceeds_the_budget(corpus: Corpus, budget: int) -> None:
    batches = stream(corpus, budget)
    for batch in islice(batches, batches.batches_per_epoch):
        assert len(batch.source) * max(batch.source.shape[1], batch.target_output.shape[1]) <= budget


def test_a_pair_longer_than_the_budget_is_a_batch_alone(corpus: Corpus) -> None:
    batches = stream(corpus, budget=1)
    assert batches.batches_per_epoch == len(corpus)
    assert all(len(batch.source) == 1 for batch in islice(batches, 20))


def test_batches_of_more_than_eight_pairs_have_a_multiple_of_eight(corpus: Corpus) -> None:
    for plan in (plan_epoch(corpus, 8 * BUDGET, 1, 0), plan_in_order(corpus, 8 * BUDGET)):
        sizes = [len(plan[index]) for index in range(len(plan))]
        assert sum(size > 8 for size in sizes) > len(sizes) / 2
        assert sum(size > 8 and size % 8 != 0 for size in sizes) <= 1  # what is left at the end


def test_no_batch_has_room_for_the_next_pairs(corpus: Corpus) -> None:
    batches = list(ordered_batches(corpus, BUDGET, pad=PAD, bos=BOS, eos=EOS))
    assert len(batches) > 5
    longest = [
        max(int(source), int((target != PAD).sum()))
        for batch in batches
        for source, target in zip(batch.source_lengths, batch.target_output, strict=True)
    ]
    start = 0
    for batch in batches:
        pairs = len(batch.source)
        more = pairs + (1 if pairs < 8 else 8)
        if start + more <= len(longest):
            assert more * padded(max(longest[start : start + more])) > BUDGET
        start += pairs
    assert start == len(longest)


def test_batches_of_an_epoch_come_in_no_order_of_length(corpus: Corpus) -> None:
    batches = stream(corpus)
    widths = [batch.target_output.shape[1] for batch in islice(batches, batches.batches_per_epoch)]
    assert widths != sorted(widths)


def test_padding_is_counted_and_small(corpus: Corpus) -> None:
    batches = stream(corpus)
    share = batches.padding_share
    epoch = list(islice(batches, batches.batches_per_epoch))
    positions = sum(batch.source.numel() + batch.target_output.numel() for batch in epoch)
    padding = sum(int((batch.source == PAD).sum() + (batch.target_output == PAD).sum()) for batch in epoch)
    assert share == pytest.approx(padding / positions)
    assert share < 0.25


def test_batches_are_decided_by_seed_and_epoch(corpus: Corpus) -> None:
    plan = plan_epoch(corpus, BUDGET, 1, 0)
    assert plans_equal(plan, plan_epoch(corpus, BUDGET, 1, 0))
    assert not plans_equal(plan, plan_epoch(corpus, BUDGET, 1, 1))
    assert not plans_equal(plan, plan_epoch(corpus, BUDGET, 2, 0))


def test_all_variants_are_drawn(corpus: Corpus) -> None:
    plan = plan_epoch(corpus, BUDGET, 1, 0)
    rows = np.concatenate([plan[batch] for batch in range(len(plan))])
    counts = np.bincount(rows % corpus.variants, minlength=3)
    assert counts.min() > len(corpus) / 5


def test_a_restored_stream_goes_on_with_the_same_batches(corpus: Corpus) -> None:
    first = stream(corpus)
    for _ in range(first.batches_per_epoch + 5):
        next(first)
    position = first.state()
    rest = list(islice(first, first.batches_per_epoch))  # over the end of the second epoch
    second = stream(corpus)
    second.restore(position)
    assert second.epoch == 1
    assert all(equal(left, right) for left, right in zip(rest, islice(second, len(rest)), strict=True))
    assert first.state() == second.state()


def test_a_position_of_another_run_is_refused(corpus: Corpus) -> None:
    for other in (stream(corpus, seed=2), stream(corpus, budget=BUDGET + 1)):
        with pytest.raises(ValueError, match="belongs to another corpus, seed or batch_tokens"):
            stream(corpus).restore(other.state())


def test_a_position_among_batches_cut_otherwise_is_refused(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = stream(corpus).state()
    stream(corpus).restore(saved)
    monkeypatch.setattr("training.batching.PLANNING", PLANNING + 1)
    with pytest.raises(ValueError, match="or to a Ferry that cut batches in another way"):
        stream(corpus).restore(saved)


@pytest.mark.parametrize(("weight", "least", "most"), [(2.0, 2, 2), (2.5, 2, 3), (0.5, 0, 1)])
def test_weights_are_times_an_epoch(
    tmp_path: Path, tiny_tokenizer: TokenizerPair, weight: float, least: int, most: int
) -> None:
    corpus = prepare(tmp_path, tiny_tokenizer, weight=weight)
    times = drawn(corpus, plan_epoch(corpus, BUDGET, 1, 0))
    counts = [times[pair] for pair in range(len(corpus))]
    assert (min(counts), max(counts)) == (least, most)
    assert sum(counts) / len(corpus) == pytest.approx(weight, abs=0.15)


def test_empty_epochs_of_small_weights_are_passed_over(tmp_path: Path, tiny_tokenizer: TokenizerPair) -> None:
    batches = stream(prepare(tmp_path, tiny_tokenizer, weight=0.001))
    assert len(next(batches).source) > 0
    assert batches.epoch > 0


def test_validation_gives_every_canonical_pair_once_and_always_alike(corpus: Corpus) -> None:
    passes = [list(ordered_batches(corpus, BUDGET, pad=PAD, bos=BOS, eos=EOS)) for _ in range(2)]
    assert all(equal(left, right) for left, right in zip(*passes, strict=True))
    sources = [row for batch in passes[0] for row in batch.source.tolist()]
    found = Counter(tuple(piece for piece in row if piece != PAD) for row in sources)
    assert found == Counter((*corpus.pair(index)[0].tolist(), EOS) for index in range(len(corpus)))


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three windows of ten blocks each for 300 pairs."""
    monkeypatch.setattr("training.planning._WINDOW_PAIRS", 100)
    monkeypatch.setattr("training.planning._BLOCK_PAIRS", 10)


@pytest.mark.usefixtures("small_windows")
def test_long_corpora_are_sorted_window_by_window(corpus: Corpus) -> None:
    plan = plan_epoch(corpus, BUDGET, 1, 0)
    assert drawn(corpus, plan) == Counter(range(len(corpus)))
    lengths = [corpus.target.lengths(plan[batch]) for batch in range(len(plan))]
    assert sum(some.min() < 8 for some in lengths) > 5  # short pairs of three windows
    assert max(some.max() - some.min() for some in lengths) < 20  # the long end of one never joins the next one's start


@pytest.mark.usefixtures("small_windows")
def test_a_window_mixes_pairs_from_the_whole_corpus(corpus: Corpus) -> None:
    plan = plan_epoch(corpus, BUDGET, 1, 0)
    early = np.concatenate([plan[batch] for batch in range(len(plan) // 3)]) // corpus.variants
    thirds = np.bincount(early // 100, minlength=3)
    assert thirds.min() > 0


@pytest.mark.usefixtures("small_windows")
def test_a_batch_is_the_same_wherever_the_plan_was_entered(corpus: Corpus) -> None:
    forwards, backwards = plan_epoch(corpus, BUDGET, 1, 0), plan_epoch(corpus, BUDGET, 1, 0)
    batches = range(len(forwards))
    ahead = [forwards[batch].tolist() for batch in batches]
    assert [backwards[batch].tolist() for batch in reversed(batches)] == ahead[::-1]
    with pytest.raises(IndexError):
        forwards[len(forwards)]


def test_entering_a_plan_makes_no_more_windows_than_needed(corpus: Corpus) -> None:
    made: list[int] = []

    def window(number: int) -> Window:
        made.append(number)
        return Window(np.arange(4), np.array([0, 2]), np.array([2, 4]), 4, 4)

    plan = Plan(5, window)
    assert plan[3].tolist() == [2, 3]
    assert made == [0, 1]
    assert len(plan) == 10
    assert made == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize(("weight", "least", "most"), [(2.5, 2, 3), (0.5, 0, 1)])
def test_weights_hold_across_windows(
    tmp_path: Path, tiny_tokenizer: TokenizerPair, weight: float, least: int, most: int
) -> None:
    corpus = prepare(tmp_path, tiny_tokenizer, weight=weight)
    times = drawn(corpus, plan_epoch(corpus, BUDGET, 1, 0))
    counts = [times[pair] for pair in range(len(corpus))]
    assert (min(counts), max(counts)) == (least, most)
    assert sum(counts) / len(corpus) == pytest.approx(weight, abs=0.15)
