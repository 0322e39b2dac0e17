"""``ferry`` with a model that fails on some texts, stands still on others, and waits at a gate.

python -m tests.system.faulty_service serve --checkpoint DIR
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from torch import Tensor

from app.cli import main
from app.settings import BUNDLED
from model.decoder import Memory
from model.seq2seq import Seq2Seq
from tokenizer.subword import load_tokenizers

FAULTY = (sys.executable, "-m", "tests.system.faulty_service")  # the command
POISON = "☠"  # whatever batch holds it raises, encoding it
STANDSTILL = "⌛"  # a batch that holds it is never encoded
# The environment variable that names the gate, a file: while it exists, no batch is encoded, and the first that would
# be leaves a file of the same name with the suffix ``.reached``.
GATE = "GATE_OF_TEST"


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


def wait_at(gate: Path) -> None:
    """Make every model, whatever its tokenizer, wait there."""
    encode = Seq2Seq.encode

    def waiting(self: Seq2Seq, source: Tensor, source_lengths: Tensor) -> Memory:
        while gate.exists():
            gate.with_suffix(".reached").touch()
            time.sleep(0.01)
        return encode(self, source, source_lengths)

    Seq2Seq.encode = waiting  # type: ignore[method-assign]


def _having(source: Tensor, pieces: set[int]) -> int:
    """How many rows have all of these pieces."""
    rows = source.new_ones(len(source)).bool()
    for piece in pieces:
        rows &= (source == piece).any(dim=1)
    return int(rows.sum())


if __name__ == "__main__":
    if GATE in os.environ:
        wait_at(Path(os.environ[GATE]))
    else:
        spoil()
    main()
