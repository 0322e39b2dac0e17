"""Batches come ahead of the steps, in the order of the stream, with the position of what was consumed."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from training.batching import BatchStream, Share
from training.corpus import Corpus
from training.loader import AHEAD, Loader, prepare_inputs

PAD, BOS, EOS = 0, 2, 3


@pytest.fixture(scope="module")
def corpus(prepared: Path) -> Corpus:
    folders = [Corpus(manifest.parent, [1.0]) for manifest in (prepared / "corpus").glob("*/manifest.json")]
    return max(folders, key=len)


def stream(corpus: Corpus) -> BatchStream:
    return BatchStream(corpus, 200, seed=1, pad=PAD, bos=BOS, eos=EOS)


def loader(source: BatchStream, accumulate: int = 1) -> Loader:
    return Loader(source, accumulate, pad=PAD, pinned=False)


def test_loads_are_those_of_the_stream(corpus: Corpus) -> None:
    loads, plain = loader(stream(corpus), accumulate=2), stream(corpus)
    for _ in range(2 * plain.batches_per_epoch):
        load, share = next(loads), plain.share(2)
        assert load.position == share.position
        assert load.target_tokens == share.target_tokens
        for inputs, batch in zip(load.inputs, share.batches, strict=True):
            assert all(map(torch.equal, inputs, prepare_inputs(batch, PAD)))
    loads.close()


def test_the_position_is_that_of_what_was_consumed(corpus: Corpus) -> None:
    source = stream(corpus)
    loads = loader(source)
    for _ in range(3):
        load = next(loads)
    wait_until(lambda: source.state().batch > 3)
    assert load.position.batch == 3
    loads.close()


def test_an_error_of_the_thread_reaches_the_step_that_it_befell() -> None:
    class Broken:
        shares = 0

        def share(self, *_: int) -> Share:
            self.shares += 1
            if self.shares > 2:
                raise OSError("the disk is gone")
            return Share((), self.shares, position=None)  # type: ignore[arg-type]

    loads = loader(Broken())  # type: ignore[arg-type]
    assert [next(loads).target_tokens for _ in range(2)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(loads)
    loads.close()


def test_closing_ends_a_thread_that_waits_for_room(corpus: Corpus) -> None:
    loads = loader(stream(corpus))
    next(loads)
    wait_until(loads._ready.full)
    loads.close()
    assert "loader" not in [thread.name for thread in threading.enumerate()]


def test_no_more_is_read_ahead_than_there_is_room_for(corpus: Corpus) -> None:
    source = stream(corpus)
    loads = loader(source)
    next(loads)
    wait_until(loads._ready.full)
    time.sleep(0.05)
    # One is consumed, the queue is full, one waits for room.
    assert source.state().batch <= AHEAD + 2
    loads.close()


def test_ranks_share_the_batches_of_one_process(corpus: Corpus) -> None:
    whole, ranks = stream(corpus), [stream(corpus) for _ in range(3)]
    for _ in range(whole.batches_per_epoch):  # three epochs, whose ends fall inside of steps
        together = whole.share(6)
        parts = [each.share(2, rank, 3) for rank, each in enumerate(ranks)]
        assert [part.position for part in parts] == [together.position] * 3
        assert [part.target_tokens for part in parts] == [together.target_tokens] * 3
        dealt = [batch for pair in zip(*(part.batches for part in parts), strict=True) for batch in pair]
        for mine, theirs in zip(dealt, together.batches, strict=True):
            assert all(map(torch.equal, mine, theirs))
        assert together.target_tokens == sum(int((batch.target_output != PAD).sum()) for batch in together.batches)
    assert whole.epoch >= 2


def wait_until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
