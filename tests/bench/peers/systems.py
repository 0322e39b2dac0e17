"""Translators to be measured side by side: Ferry in this process, each peer in one of its own."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from app.bench import machine, shape
from app.bench.subject import Source
from model import precision as precisions
from model.precision import Precision
from model.search import STRIDE, BeamSearch, SearchOptions
from tests.bench.peers import bench_training_peers

HERE = Path(__file__).parent
CTRANSLATE2 = "ctranslate2==4.8.5"


class Batch(NamedTuple):
    """Sentences that are translated together."""

    sources: list[Source]
    length: int  # of each output, in pieces


class Answer(NamedTuple):
    """What a system took for some batches."""

    seconds: list[float]  # for each batch
    pieces: int  # put out, for all of them


System = Callable[[Sequence[Batch]], Answer]
Starting = AbstractContextManager[System]  # runs the system while it is open


class Environments(NamedTuple):
    """The Python of each peer."""

    ctranslate2: Path
    opennmt: Path


def prepare(folder: Path) -> Environments:
    """Make the environments that are not there."""
    bench_training_peers.prepare(folder / "onmt")
    environment = folder / "ctranslate2"
    if not list(environment.glob("lib/python*/site-packages/ctranslate2")):
        venv.create(environment, with_pip=True)
        subprocess.run([environment / "bin" / "python", "-m", "pip", "install", "-q", CTRANSLATE2], check=True)
    return Environments(environment / "bin" / "python", folder / "onmt" / "bin" / "python")


def candidates(python: Environments, beam: int, threads: int) -> dict[str, Starting]:
    """Every system by its name, not yet started: once with all threads, once in as many lanes of one thread."""
    vocabulary = shape.REFERENCE.target_vocabulary
    lstm = partial(_peer, python.opennmt, "opennmt_worker.py", 2, 512, vocabulary, beam)
    transformer = partial(_peer, python.ctranslate2, "ctranslate2_worker.py")
    # Each is started with a number of threads.
    systems: dict[str, Callable[[int], Starting]] = {
        **{f"Ferry, LSTM 2+2 x 512, {name}": partial(_ferry, name, beam) for name in precisions.supported()},
        "Ferry, LSTM 2+2 x 512, int8, shortlist": partial(_ferry, "int8", beam, shortlist=True),
        "OpenNMT-py, LSTM 2+2 x 512, float32": partial(lstm, 0),
        "OpenNMT-py, the same with input feeding": partial(lstm, 1),
        "CTranslate2, Transformer 6+6 x 512, int8": partial(transformer, 6, 512, 8, 2048, vocabulary, beam),
        "CTranslate2, Transformer 4+4 x 256, int8": partial(transformer, 4, 256, 4, 1024, vocabulary, beam),
    }
    found: dict[str, Starting] = {}
    for name, start in systems.items():
        found[name] = start(threads)
        if threads > 1:
            found[f"{name}, {threads} lanes"] = _side_by_side([start(1) for _ in range(threads)])
    return found


@contextmanager
def _side_by_side(lanes: Sequence[Starting]) -> Iterator[System]:
    """A system that has a part of each batch translated by each of several; a batch takes as long as the slowest."""
    with ExitStack() as stack, ThreadPoolExecutor(len(lanes)) as pool:
        systems = [stack.enter_context(lane) for lane in lanes]

        def one(lane: int, batches: Sequence[Batch]) -> Answer:
            shares = [Batch(batch.sources[lane :: len(lanes)], batch.length) for batch in batches]
            found = systems[lane]([share for share in shares if share.sources])
            seconds = iter(found.seconds)
            return Answer([next(seconds) if share.sources else 0.0 for share in shares], found.pieces)

        def translate(batches: Sequence[Batch]) -> Answer:
            answers = list(pool.map(one, range(len(lanes)), itertools.repeat(batches)))
            seconds = [max(times) for times in zip(*(answer.seconds for answer in answers), strict=True)]
            return Answer(seconds, sum(answer.pieces for answer in answers))

        yield translate


@contextmanager
def _peer(python: Path, script: str, *options: int) -> Iterator[System]:
    """A worker that waits for batches, ended at the end. The last of its options is the number of threads."""
    threads = options[-1]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    command = [str(python), str(HERE / script), *map(str, options)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin and process.stdout

        def hear() -> str:
            assert process.stdout
            line = process.stdout.readline()
            if not line:
                sys.exit(f"{script} ended with status {process.wait()}; what it said stands above")
            return line

        def ask(batches: Sequence[Batch]) -> Answer:
            assert process.stdin
            process.stdin.write(json.dumps(batches) + "\n")
            process.stdin.flush()
            return Answer(**json.loads(hear()))

        print(json.loads(hear())["about"], file=sys.stderr)
        try:
            yield ask
        finally:
            process.stdin.close()


@contextmanager
def _ferry(precision: Precision, beam: int, threads: int, *, shortlist: bool = False) -> Iterator[System]:
    trained = shape.build(shape.REFERENCE)
    shape.force_lengths(trained)
    model = precisions.prepare(trained, precision).model
    words = shape.shortlist(shape.REFERENCE) if shortlist else None

    def translate(batches: Sequence[Batch]) -> Answer:
        torch.set_num_threads(threads)  # of this thread only
        seconds: list[float] = []
        lengths: list[int] = []
        for batch in batches:
            options = SearchOptions(beam_size=beam, max_length=batch.length)
            search = BeamSearch(model, shape.FORCED, words)
            seconds.append(machine.timed(partial(_search, search, batch.sources, options, lengths)))
        return Answer(seconds, sum(lengths))

    yield translate


def _search(search: BeamSearch, sources: list[Source], options: SearchOptions, lengths: list[int]) -> None:
    search.admit(sources, [options] * len(sources))
    while search.active:
        lengths.extend(len(item.hypotheses[0].pieces) for item in search.step(STRIDE))
