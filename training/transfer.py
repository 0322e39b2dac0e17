"""Transfer: a run begins with the weights of another model (Zoph et al. 2016).

Weights go over by name where the shapes agree. Tables with a row a piece (embeddings, output) go over piece by piece,
since vocabularies differ: by the piece's text, or as the mean of the old pieces that make up a new one (Sachidananda et
al. 2021).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.checkpoint import SUMS, load_checkpoint
from model.seq2seq import Seq2Seq
from tokenizer.subword import Subword, TokenizerPair, load_tokenizers
from training.prepare import TOKENIZER_FOLDER
from training.recipe_file import RecipeError, load_recipe
from training.state import BEST_WEIGHTS, write_atomically

TRANSFER_FILE = "transfer.json"

# Tables with a row a piece, and the origin's tables from which their rows can come, the nearest first.
_TABLES = {
    "target_embedding.weight": ("target_embedding.weight", "source_embedding.weight"),
    "source_embedding.weight": ("source_embedding.weight", "target_embedding.weight"),
    "output.weight": ("output.weight", "target_embedding.weight"),
    "output_bias": ("output_bias",),
}


class TransferError(Exception):
    """There are no weights to begin with where the recipe says, or none that fit."""


class Origin(NamedTuple):
    """The model that a run begins with."""

    name: str
    data: tuple[str, ...]  # what it was trained on, for the provenance of what comes of it
    weights: dict[str, Tensor]  # float32, on the CPU
    tokenizers: TokenizerPair


class Remapped(NamedTuple):
    """Where the rows of a table came from."""

    same: int  # rows of the same piece
    composed: int  # means of the rows of the piece's parts
    fresh: int


class Transferred(NamedTuple):
    """What became of every tensor."""

    origin: str
    data: tuple[str, ...]  # what the origin was trained on
    copied: tuple[str, ...]
    remapped: dict[str, Remapped]
    fresh: dict[str, str]  # name and the reason
    unused: tuple[str, ...]  # of the origin

    def __str__(self) -> str:
        lines = [f"begins with the weights of {self.origin}: {len(self.copied)} tensors as they are"]
        lines += [
            f"  {name}: {rows.same:,} rows of the same piece, {rows.composed:,} from parts of the piece, "
            f"{rows.fresh:,} fresh"
            for name, rows in self.remapped.items()
        ]
        lines += [f"  fresh: {name} ({reason})" for name, reason in self.fresh.items()]
        lines += [f"  not used: {name}" for name in self.unused]
        return "\n".join(lines)

    def save(self, run_folder: Path) -> None:
        """Write ``transfer.json``."""
        content = {**self._asdict(), "remapped": {name: rows._asdict() for name, rows in self.remapped.items()}}
        write_atomically(
            run_folder / TRANSFER_FILE, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
        )


def inherited_data(run_folder: Path) -> tuple[str, ...]:
    """What the model that a run began with was trained on; nothing if the run began from scratch.

    Raises TransferError for a damaged ``transfer.json``.
    """
    path = run_folder / TRANSFER_FILE
    if not path.is_file():
        return ()
    try:
        content = json.loads(path.read_bytes())
        return tuple(f"{entry} [through {content['origin']}]" for entry in content["data"])
    except (ValueError, TypeError, KeyError) as error:
        raise TransferError(f"{path} is damaged ({error!r}); run `ferry-train fit` again") from error


def require_origin(folder: Path) -> None:
    """Raises TransferError where ``folder`` is neither a checkpoint nor a run with weights; reads none."""
    if not (folder / SUMS).is_file() and not (folder / BEST_WEIGHTS).is_file():
        raise TransferError(
            f"training.init_from: {folder} is no checkpoint folder (it has no {SUMS}) and no run folder "
            f"(it has no {BEST_WEIGHTS})"
        )


def open_origin(folder: Path) -> Origin:
    """The model of a checkpoint folder, or the best weights of a run folder.

    Raises TransferError where the folder is neither, CheckpointError or TokenizerError where it is damaged.
    """
    require_origin(folder)
    if (folder / SUMS).is_file():
        checkpoint = load_checkpoint(folder)
        name = f"{checkpoint.config.name} {checkpoint.config.version} ({folder})"
        data = checkpoint.config.training.data
        return Origin(name, data, checkpoint.model.state_dict(), load_tokenizers(folder))
    path = folder / BEST_WEIGHTS
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise TransferError(f"training.init_from: {path} cannot be read: {error}") from error
    return Origin(str(folder), _data_of_run(folder), weights, load_tokenizers(folder / TOKENIZER_FOLDER))


@torch.no_grad()
def transfer(model: Seq2Seq, tokenizers: TokenizerPair, origin: Origin) -> Transferred:
    """Give ``model``, whose pieces are those of ``tokenizers``, the weights of ``origin`` as far as they fit.

    What does not fit stays as it is. Raises TransferError where nothing fits, or the origin's tables are not of its
    tokenizers.
    """
    copied, remapped, fresh = [], {}, {}
    for name, tensor in model.state_dict().items():
        if name in _TABLES:
            tables = _tables(name, tensor, origin)
            if tables:
                remapped[name] = _remap(tensor, _pieces_of(name, tokenizers), tables)
            else:
                fresh[name] = "the origin has no such table of this width"
        elif name not in origin.weights:
            fresh[name] = "not in the origin"
        elif origin.weights[name].shape != tensor.shape:
            fresh[name] = f"shape {list(origin.weights[name].shape)} in the origin, {list(tensor.shape)} here"
        else:
            tensor.copy_(origin.weights[name])
            copied.append(name)
    if not copied and not remapped:
        raise TransferError(f"training.init_from: nothing in {origin.name} fits this model; sizes or cells differ")
    unused = sorted(origin.weights.keys() - set(copied) - remapped.keys())
    return Transferred(origin.name, origin.data, tuple(copied), remapped, fresh, tuple(unused))


def _data_of_run(folder: Path) -> tuple[str, ...]:
    try:
        corpora = load_recipe(folder / "recipe.yaml").data.train
    except RecipeError as error:
        return (f"unknown: {error}",)
    licensed = (corpus.label + (f" ({corpus.licence})" if corpus.licence else "") for corpus in corpora)
    return (*licensed, *inherited_data(folder))


class _Table(NamedTuple):
    """A table of the origin, with the pieces of its rows."""

    rows: Tensor  # (V, ...)
    ids: dict[str, int]
    tokenizer: Subword


def _tables(name: str, tensor: Tensor, origin: Origin) -> list[_Table]:
    """The origin's tables of the same width from which the rows of ``name`` can come, the nearest first."""
    tables = []
    for old in _TABLES[name]:
        rows, tokenizer = origin.weights.get(old), _side(old, origin.tokenizers)
        if rows is not None and rows.shape[1:] == tensor.shape[1:]:
            if len(rows) != tokenizer.vocabulary_size:
                raise TransferError(
                    f"training.init_from: in {origin.name} {old} has {len(rows)} rows, but its tokenizer "
                    f"{tokenizer.vocabulary_size} pieces; they do not belong together"
                )
            tables.append(_Table(rows, {piece: row for row, piece in enumerate(tokenizer.pieces())}, tokenizer))
    return tables


def _remap(tensor: Tensor, pieces: Iterable[str], tables: Sequence[_Table]) -> Remapped:
    """Fill the rows of ``tensor`` (V, ...) in place."""
    same = composed = fresh = 0
    for row, piece in enumerate(pieces):
        known = next((table.rows[table.ids[piece]] for table in tables if piece in table.ids), None)
        if known is not None:
            tensor[row], same = known, same + 1
            continue
        parts = next((table.rows[cover] for table in tables if (cover := table.tokenizer.cover(piece))), None)
        if parts is not None:
            tensor[row], composed = parts.mean(dim=0), composed + 1
        else:
            fresh += 1
    return Remapped(same, composed, fresh)


def _pieces_of(name: str, tokenizers: TokenizerPair) -> list[str]:
    return _side(name, tokenizers).pieces()


def _side(name: str, tokenizers: TokenizerPair) -> Subword:
    return tokenizers.source if name.startswith("source") else tokenizers.target
