"""What the host knows of the sentences in a search, as arrays with a slot a sentence."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

COLUMNS = 32  # of the first buffer of pieces: most sentences need no other


class Slots(NamedTuple):
    """What is known of each sentence, a slot a sentence."""

    cost: NDArray[np.float32]  # (B, K) log-probability, its sign turned; best first
    piece: Integers  # (B, K), the last one
    length: Integers  # (B), pieces so far
    beam: Integers  # (B)
    limit: Integers  # (B), pieces that it may have
    prefix: Integers  # (B), pieces that are prescribed
    positions: Integers  # (B), of the source
    ended: Integers  # (B), hypotheses that have finished
    last_penalty: NDArray[np.float64]  # (B), the length penalty of the longest that it may become
    bar: NDArray[np.float64]  # (B), the n-th best finished score, once there are n
    pieces: NDArray[np.int32]  # (B, L, K), at each position of each row
    parents: NDArray[np.int32]  # (B, L, K), the row before that it extended


def resized(slots: Slots, width: int, columns: int) -> Slots:
    """Pad or cut to ``width`` rows, what is cut being dead; pad the buffers to ``columns`` positions."""
    extra, longer = width - slots.cost.shape[1], columns - slots.pieces.shape[1]
    if extra < 0:
        slots = slots._replace(
            cost=slots.cost[:, :width],
            piece=slots.piece[:, :width],
            pieces=slots.pieces[:, :, :width],
            parents=slots.parents[:, :, :width],
        )
    rows, buffer = ((0, 0), (0, max(0, extra))), ((0, 0), (0, longer), (0, max(0, extra)))
    if extra > 0:
        slots = slots._replace(
            cost=np.pad(slots.cost, rows, constant_values=np.inf), piece=np.pad(slots.piece, rows, mode="edge")
        )
    if extra > 0 or longer:
        slots = slots._replace(pieces=np.pad(slots.pieces, buffer), parents=np.pad(slots.parents, buffer))
    return slots
