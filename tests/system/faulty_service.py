"""``ferry`` with a model that fails on some texts, and stands still on others.

python -m tests.system.faulty_service serve --checkpoint DIR
"""

from __future__ import annotations

import threading

from torch import Tensor

from app.cli import main
from app.settings import BUNDLED
from model.decoder import Memory
from model.seq2seq import Seq2Seq
from tokenizer.subword import load_tokenizers

POISON = "☠"  # whatever batch holds it raises, encoding it
STANDSTILL = "⌛"  # a batch that holds it is never encoded


def spoil() -> None:
    """Make every model with the tokenizer of the bundled en-de do so."""
    subword = load_tokenizers(BUNDLED / "en-de").source
    plain = set(subword.encode("a"))
    poison, standstill = (set(subword.encode(text)) - plain for text in (POISON, STANDSTILL))
    encode = Seq2Seq.encode

    def spoilt(self: Seq2Seq, source: Tensor, source_lengths: Tensor) -> Memory:
        if _having(source, standstill):
            threading.Event().wait()
        if count := _having(source, poison):
            raise RuntimeError(f"{count} sentences are poison")
        return encode(self, source, source_lengths)

    Seq2Seq.encode = spoilt  # type: ignore[method-assign]


def _having(source: Tensor, pieces: set[int]) -> int:
    """How many rows have all of these pieces."""
    rows = source.new_ones(len(source)).bool()
    for piece in pieces:
        rows &= (source == piece).any(dim=1)
    return int(rows.sum())


if __name__ == "__main__":
    spoil()
    main()
