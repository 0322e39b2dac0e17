"""Several processes as one trainer: started by ``torchrun``, joined by PyTorch's DistributedDataParallel.

Every process (rank) holds the whole model and learns from its own batches; gradients are summed between them. The
first rank alone writes files, reports and validates.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from training.config import Recipe
from training.device import DeviceError, pick_device

# While the first rank encodes a corpus or validates, the others wait. A rank that dies is noticed by torchrun at once.
TIMEOUT = datetime.timedelta(hours=4)

_Value = TypeVar("_Value")


class Group:
    """The processes of a run, seen from one of them; by default it is alone and nothing here does anything."""

    def __init__(self, rank: int = 0, size: int = 1, on_machine: int = 1) -> None:
        self.rank, self.size = rank, size
        self.on_machine = on_machine  # ranks that share this machine

    @property
    def first(self) -> bool:
        """Whether this rank writes, reports and validates."""
        return self.rank == 0

    def wrap(self, module: nn.Module, device: str) -> nn.Module:
        """``module`` with its gradients averaged over the ranks in the backward pass, and the first rank's weights."""
        if self.size == 1:
            return module
        devices = [torch.cuda.current_device()] if device == "cuda" else None
        return DistributedDataParallel(
            module, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
        )

    def exchange(self, wrapped: nn.Module, now: bool) -> contextlib.AbstractContextManager[object]:
        """Around forward and backward pass: gradients are averaged ``now``, or kept here until another pass does it."""
        if isinstance(wrapped, DistributedDataParallel) and not now:
            return wrapped.no_sync()
        return contextlib.nullcontext()

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, equal on all; ``tensor`` itself is changed."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def gather(self, value: _Value) -> list[_Value]:
        """The values of all ranks in their order, on every rank; made of tensors and plain values."""
        if self.size == 1:
            return [value]
        # Pickled tensors do not come through all_gather_object whole.
        packed = io.BytesIO()
        torch.save(value, packed)
        parcels = [b""] * self.size
        torch.distributed.all_gather_object(parcels, packed.getvalue())
        return [torch.load(io.BytesIO(parcel), weights_only=True) for parcel in parcels]

    def from_first(self, value: _Value | None) -> _Value:
        """The first rank's value; the others give None and wait for it."""
        values = [value]
        if self.size > 1:
            torch.distributed.broadcast_object_list(values)
        (found,) = values
        assert found is not None
        return found

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """The first rank does what is inside before the others do: it makes what they then find."""
        if not self.first:
            torch.distributed.barrier()
        yield
        if self.first and self.size > 1:
            torch.distributed.barrier()


@contextmanager
def join_group(recipe: Recipe) -> Iterator[Group]:
    """The group that torchrun has started this process in, or a group of one.

    A rank computes on the GPU of its number on the machine. Raises DeviceError where there is none, and where torchrun
    could not start the ranks again although it is told to.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group()
        return
    backend = "gloo"
    if pick_device(recipe.device) == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise DeviceError(
                f"rank {local} of this machine needs a GPU of its own, and torch sees {torch.cuda.device_count()}; "
                "start with torchrun --nproc-per-node=gpu"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    _check_restarts()
    store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
    # The store of torchrun outlives its ranks: those started again must not find addresses of the dead.
    store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    on_machine = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    yield Group(rank, size, on_machine)
    # After an error ranks may be anywhere: then the end of the process has to do.
    torch.distributed.destroy_process_group()


def _check_restarts() -> None:
    """On several machines the ranks do not know how often they were started in all, so they cannot share one store."""
    several = int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0
    if several and restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise DeviceError(
            "with --max-restarts on several machines torchrun needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its "
            "environment: otherwise ranks that are started again wait for those that are gone"
        )


def started_again() -> bool:
    """Whether torchrun has started the ranks again after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def first_process() -> bool:
    """Whether this process is the first of its group, or alone; also before the group is joined."""
    return os.environ.get("RANK", "0") == "0"
