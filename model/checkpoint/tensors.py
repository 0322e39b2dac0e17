"""The tensor files of a checkpoint: the weights, and the shortlist where there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from model.checkpoint.config import CONFIG, DTYPES, CheckpointConfig
from model.checkpoint.errors import CheckpointFormatError, CheckpointMismatchError, CheckpointMissingError
from model.seq2seq import Seq2Seq
from model.shortlist import Shortlist, ShortlistError

WEIGHTS, SHORTLIST = "model.safetensors", "shortlist.safetensors"


def read_model(path: Path, config: CheckpointConfig, device: str) -> Seq2Seq:
    """The model of ``config`` with the weights in ``path``, in evaluation mode, float32, on ``device``.

    Raises CheckpointFormatError, or CheckpointMismatchError where they are another model's.
    """
    model, weights = _skeleton(config), read_tensors(path)
    _require_match(path, weights, model, DTYPES[config.precision])
    model.load_state_dict({name: tensor.to(device, torch.float32) for name, tensor in weights.items()}, assign=True)
    return model.eval().requires_grad_(False)


def stored_weights(path: Path, config: CheckpointConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` as ``path`` is to hold them. Raises CheckpointMismatchError where they are another model's."""
    dtype = DTYPES[config.precision]
    stored = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in weights.items()}
    _require_match(path, stored, _skeleton(config), dtype)
    return stored


def read_shortlist(path: Path, config: CheckpointConfig) -> Shortlist | None:
    """The shortlist in ``path``, if ``config`` speaks of one.

    Raises CheckpointMissingError or CheckpointMismatchError where only one of the two is there, CheckpointFormatError,
    or CheckpointMismatchError where it is another vocabulary's.
    """
    if config.shortlist is None:
        if path.exists():
            raise CheckpointMismatchError(
                f"{path} is there, though {CONFIG} speaks of no shortlist; remove one or other"
            )
        return None
    if not path.is_file():
        raise CheckpointMissingError(f"{path} is missing, though {CONFIG} speaks of it; copy the whole folder again")
    tensors = read_tensors(path)
    if tensors.keys() != set(Shortlist._fields):
        names, wanted = sorted(tensors), sorted(Shortlist._fields)
        raise CheckpointMismatchError(f"{path} has the tensors {names}; a shortlist has {wanted}")
    shortlist = Shortlist(**tensors)
    require_fitting(path, shortlist, config)
    return shortlist


def require_fitting(path: Path, shortlist: Shortlist, config: CheckpointConfig) -> None:
    """Raises CheckpointMismatchError unless ``shortlist`` is one for the model's vocabularies."""
    try:
        shortlist.check(config.model)
    except ShortlistError as error:
        raise CheckpointMismatchError(f"{path}: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors in ``path`` by name. Raises CheckpointFormatError."""
    try:
        with safe_open(path, framework="pt") as reader:
            return {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointFormatError(f"{path} is not a safetensors file: {error}") from error


def _skeleton(config: CheckpointConfig) -> Seq2Seq:
    """The model without storage for its weights."""
    with torch.device("meta"), _Unfilled():
        return Seq2Seq(config.model)


class _Unfilled(TorchFunctionMode):
    """Leaves out normally distributed values: drawing them without storage loads torch's compiler, a second's work."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if func is Tensor.normal_:
            return args[0]
        if func is nn.init.normal_ and kwargs:
            return kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _require_match(path: Path, weights: Mapping[str, Tensor], model: Seq2Seq, dtype: torch.dtype) -> None:
    """The tensors of ``path`` must be those of the model: by name, shape and type."""
    expected = model.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights:
            raise CheckpointMismatchError(f"{path} has no tensor {name}, which {CONFIG} asks for")
        if name not in expected:
            raise CheckpointMismatchError(f"{path} has a tensor {name}, which {CONFIG} has no place for")
        if weights[name].shape != expected[name].shape:
            found, wanted = list(weights[name].shape), list(expected[name].shape)
            raise CheckpointMismatchError(f"{path}: {name} has the shape {found}; {CONFIG} asks for {wanted}")
        if weights[name].dtype != dtype:
            found_type, wanted_type = str(weights[name].dtype), str(dtype)
            raise CheckpointMismatchError(f"{path}: {name} is {found_type}; {CONFIG} asks for {wanted_type}")
