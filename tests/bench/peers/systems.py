"""Translators to be measured side by side: Ferry in this process, each peer in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from app.bench import machine, shape
from app.bench.subject import Source
from model import precision as precisions
from model.precision import Precision
from model.search import BeamSearch, SearchOptions
from model.seq2seq import Seq2Seq
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
    """Every system by its name, not yet started."""
    vocabulary = shape.REFERENCE.target_vocabulary
    run = partial(_peer, threads=threads)
    lstm = partial(run, python.opennmt, "opennmt_worker.py", 2, 512, vocabulary, beam, threads)
    transformer = partial(run, python.ctranslate2, "ctranslate2_worker.py")
    return {
        **{f"Ferry, LSTM 2+2 x 512, {precision}": _ferry(precision, beam) for precision in precisions.supported()},
        "OpenNMT-py, LSTM 2+2 x 512, float32": lstm(0),
        "OpenNMT-py, the same with input feeding": lstm(1),
        "CTranslate2, Transformer 6+6 x 512, int8": transformer(6, 512, 8, 2048, vocabulary, beam, threads),
        "CTranslate2, Transformer 4+4 x 256, int8": transformer(4, 256, 4, 1024, vocabulary, beam, threads),
    }


@contextmanager
def _peer(python: Path, script: str, *options: int, threads: int) -> Iterator[System]:
    """A worker that waits for batches, ended at the end."""
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
def _ferry(precision: Precision, beam: int) -> Iterator[System]:
    trained = shape.build(shape.REFERENCE)
    shape.force_lengths(trained)
    model = precisions.prepare(trained, precision).model

    def translate(batches: Sequence[Batch]) -> Answer:
        seconds: list[float] = []
        lengths: list[int] = []
        for batch in batches:
            options = SearchOptions(beam_size=beam, max_length=batch.length)
            seconds.append(machine.timed(partial(_search, model, batch.sources, options, lengths)))
        return Answer(seconds, sum(lengths))

    yield translate


def _search(model: Seq2Seq, sources: list[Source], options: SearchOptions, lengths: list[int]) -> None:
    search = BeamSearch(model, shape.FORCED)
    search.admit(sources, [options] * len(sources))
    while search.active:
        lengths.extend(len(item.hypotheses[0].pieces) for item in search.step())
