"""``ferry`` with a model that fails on poison: whatever batch holds :data:`POISON` raises, encoding it.

python -m tests.bench.faulty_service serve --checkpoint DIR
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from app.cli import main
from app.settings import BUNDLED
from model.decoder import Memory
from model.seq2seq import Seq2Seq
from tokenizer.subword import load_tokenizers

POISON = "☠"


def poison(folder: Path) -> None:
    """Make every model fail on the pieces that :data:`POISON` has in the checkpoint in ``folder``."""
    subword = load_tokenizers(folder).source
    pieces = set(subword.encode(POISON)) - set(subword.encode("a"))
    encode = Seq2Seq.encode

    def poisoned(self: Seq2Seq, source: Tensor, source_lengths: Tensor) -> Memory:
        rows = source.new_ones(len(source)).bool()
        for piece in pieces:
            rows &= (source == piece).any(dim=1)
        if rows.any():
            raise RuntimeError(f"{int(rows.sum())} sentences are poison")
        return encode(self, source, source_lengths)

    Seq2Seq.encode = poisoned  # type: ignore[method-assign]


if __name__ == "__main__":
    poison(BUNDLED / "en-de")
    main()
