"""The tensors here are so small that a second thread only waits for the first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
import torch

from model import native
from model.native import Operators


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def operators() -> Operators:
    """Those in C++, which a machine with a compiler must have built."""
    found = native.operators(torch.device("cpu"))
    if found is None:
        assert not shutil.which(os.environ.get("CXX", "c++")), "build the operators: python -m model.native.build"
        pytest.skip("there is no C++ compiler")
    return found


@pytest.fixture(params=["operators", "plain torch"])
def either_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """With the operators in C++, and without them."""
    if request.param == "operators":
        request.getfixturevalue("operators")
        yield
    else:
        with native.set_aside():
            yield
