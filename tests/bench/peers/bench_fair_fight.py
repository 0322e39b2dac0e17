"""Speed against BLEU at equal training data: a checkpoint of ours and a Transformer-tiny in CTranslate2, on Multi30k.

python -m tests.bench.peers.bench_fair_fight --make-environment DIR --checkpoint runs/multi30k-en-de/checkpoint \
    --data ../shared/data/multi30k --folder /tmp/fair --steps 6000

The Transformer is trained once, in FOLDER, on the pieces of the checkpoint's tokenizer. Then both translate the test
set, in batches of 32 of like length, which two lanes of one thread share, and sentence by sentence, with one thread; in
turn, each in int8 and in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from sacrebleu.metrics import BLEU

from model.checkpoint import load_checkpoint
from model.precision import prepare
from model.search import BeamSearch, SearchOptions
from tests.bench import machine
from tests.bench.peers import systems, transformer_tiny
from tokenizer.subword import Subword, load_tokenizers
from training.reading import read_lines

HERE = Path(__file__).parent
TEST = "test_2016_flickr"

Texts = list[str]
System = Callable[[Texts], tuple[Texts, float]]  # a batch to its translations and the seconds that took


class Result(NamedTuple):
    """Of one system on the whole test set."""

    translations: Texts
    rate: float  # sentences a second, in batches
    milliseconds: float  # for one sentence, the mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make-environment", type=Path, required=True, help="of the peers; made if it is not there")
    parser.add_argument("--checkpoint", type=Path, required=True, help="ours, trained on Multi30k")
    parser.add_argument("--data", type=Path, required=True, help="Multi30k")
    parser.add_argument("--folder", type=Path, required=True, help="of the Transformer; trained if it is not there")
    parser.add_argument("--steps", type=int, default=6000, help="of its training")
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--singles", type=int, default=100, help="sentences translated one by one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="lanes of one thread, in training all in one step")
    arguments = parser.parse_args()
    python = systems.prepare(arguments.make_environment)
    subword = load_tokenizers(arguments.checkpoint).source
    transformer = transformer_tiny.train(
        python.opennmt.parent,
        arguments.folder,
        _pieces(subword, arguments.data, arguments.checkpoint),
        steps=arguments.steps,
        threads=arguments.threads,
    )
    source, reference = (
        _lines(arguments.data / f"{TEST}.{language}.xz") for language in _languages(arguments.checkpoint)
    )
    found: dict[str, list[Result]] = {}
    for _ in range(arguments.rounds):
        for name, start in _systems(arguments, python, transformer, subword):
            with _side_by_side([start() for _ in range(arguments.threads)]) as system:
                found.setdefault(name, []).append(_measure(system, source, arguments))
    print(machine.describe(), machine.load(), f"beam {arguments.beam_size}, batches of {arguments.batch}", sep=", ")
    for name, results in found.items():
        cased, lower = BLEU(), BLEU(lowercase=True)
        scores = [metric.corpus_score(results[0].translations, [reference]).score for metric in (cased, lower)]
        rate = statistics.median(result.rate for result in results)
        alone = statistics.median(result.milliseconds for result in results)
        print(f"{name}: BLEU {scores[0]:.2f}, lc {scores[1]:.2f}; {rate:.0f} sentences/s; one sentence {alone:.1f} ms")


def _measure(system: System, source: Texts, arguments: argparse.Namespace) -> Result:
    system(source[: arguments.batch])  # warms up
    order = sorted(range(len(source)), key=lambda index: len(source[index]))
    translations, seconds = [""] * len(source), 0.0
    for start in range(0, len(order), arguments.batch):
        part = order[start : start + arguments.batch]
        texts, needed = system([source[index] for index in part])
        seconds += needed
        for index, text in zip(part, texts, strict=True):
            translations[index] = text
    alone = [system([text])[1] for text in source[: arguments.singles]]
    return Result(translations, len(source) / seconds, statistics.mean(alone) * 1000)


def _systems(
    arguments: argparse.Namespace, python: systems.Environments, transformer: Path, subword: Subword
) -> Iterator[tuple[str, Callable[[], AbstractContextManager[System]]]]:
    """Each with what starts a lane of it."""
    for precision in ("int8", "float32"):
        yield f"Ferry, {arguments.checkpoint}, {precision}", partial(_ferry, arguments, subword, precision)
        yield (
            f"CTranslate2, Transformer-tiny, {precision}",
            partial(_ctranslate2, arguments, python.ctranslate2, transformer, subword, precision),
        )


@contextmanager
def _side_by_side(lanes: Sequence[AbstractContextManager[System]]) -> Iterator[System]:
    """Each lane translates its share of a batch, which takes as long as the slowest of them."""
    with ExitStack() as stack, ThreadPoolExecutor(len(lanes)) as pool:
        systems = [stack.enter_context(lane) for lane in lanes]

        def translate(batch: Texts) -> tuple[Texts, float]:
            shares = [share for lane in range(len(lanes)) if (share := batch[lane :: len(lanes)])]
            answers = list(pool.map(lambda system, share: system(share), systems, shares))
            translations = [""] * len(batch)
            for lane, (texts, _) in enumerate(answers):
                translations[lane :: len(lanes)] = texts
            return translations, max(seconds for _, seconds in answers)

        yield translate


@contextmanager
def _ferry(arguments: argparse.Namespace, subword: Subword, precision: str) -> Iterator[System]:
    checkpoint = load_checkpoint(arguments.checkpoint)
    model, limit = prepare(checkpoint.model, precision).model, checkpoint.config.length_limit
    options = SearchOptions(arguments.beam_size, length_penalty=checkpoint.config.length_penalty)

    def translate(batch: Texts) -> tuple[Texts, float]:
        torch.set_num_threads(1)  # of this lane's thread
        sources = [subword.encode(text) for text in batch]
        began, search = time.perf_counter(), BeamSearch(model, limit)
        tickets = search.admit(sources, [options] * len(sources))
        found = {}
        while search.active:
            found.update({item.ticket: item.hypotheses[0].pieces for item in search.step()})
        seconds = time.perf_counter() - began
        return [subword.decode(found[ticket]) for ticket in tickets], seconds

    yield translate


@contextmanager
def _ctranslate2(
    arguments: argparse.Namespace, python: Path, folder: Path, subword: Subword, precision: str
) -> Iterator[System]:
    command = [python, HERE / "transformer_worker.py", folder, precision, arguments.beam_size, 1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(list(map(str, command)), env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin and process.stdout
        process.stdout.readline()

        def translate(batch: Texts) -> tuple[Texts, float]:
            assert process.stdin and process.stdout
            process.stdin.write(json.dumps([words(subword, text) for text in batch]) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            known = [[int(word) for word in found if word.isdecimal()] for found in answer["pieces"]]
            return [subword.decode(ids) for ids in known], float(answer["seconds"])

        try:
            yield translate
        finally:
            process.stdin.close()


def _pieces(subword: Subword, data: Path, checkpoint: Path) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    sides = (read_lines(data / f"train.{language}.xz") for language in _languages(checkpoint))
    return ((words(subword, source), words(subword, target)) for source, target in zip(*sides, strict=True))


def words(subword: Subword, text: str) -> list[str]:
    """Pieces as words without a space: their numbers."""
    return list(map(str, subword.encode(text)))


def _languages(checkpoint: Path) -> tuple[str, str]:
    config = load_checkpoint(checkpoint).config
    return config.source, config.target


def _lines(path: Path) -> Texts:
    return list(read_lines(path))


if __name__ == "__main__":
    main()
