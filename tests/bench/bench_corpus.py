"""Large corpora: speed and memory of preparing synthetic pairs and of training on them, phase by phase.

python -m tests.bench.bench_corpus --pairs 1000000
python -m tests.bench.bench_corpus --pairs 20000000 --workers 2

Memory is the largest amount seen, looked at five times a second. "own" is what only the process itself can free
(RssAnon), in each quarter of the phase's time: where it is flat, four numbers are equal. "mapped" are pages of files,
which the system takes back when it needs them (RssFile). "worker" is the own memory of the largest other process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import zstandard

from tokenizer.subword import BOS, EOS, PAD
from training.config import Recipe
from training.overlap import check_overlap
from training.planning import plan_epoch
from training.prepare import Corpora, make_tokenizers, open_tokenizers, prepare_corpora

VOCABULARY = 50_000  # words a language
GROUP = 50_000  # pairs made at a time
DEV_PAIRS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=None, help="processes that encode; default: the cores")
    parser.add_argument("--variants", type=int, default=1, help="encodings of each pair")
    parser.add_argument("--sample-pairs", type=int, default=500_000, help="that the tokenizer is trained on")
    parser.add_argument("--steps", type=int, default=200, help="of the fit")
    parser.add_argument("--folder", type=Path, default=None, help="below which a temporary folder is made")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-corpus-", dir=arguments.folder))
    try:
        _measure(arguments, folder)
    finally:
        shutil.rmtree(folder)


def _measure(arguments: argparse.Namespace, folder: Path) -> None:
    recipe = _recipe(arguments, folder)
    pairs = arguments.pairs
    cores = len(os.sched_getaffinity(0))
    print(f"{pairs:,} pairs, {arguments.variants} encodings each; {cores} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'':16}{'wall s':>8}{'CPU s':>8}{'pairs/s':>11}{'/ CPU s':>11}{'own MB':>24}{'mapped':>8}{'worker':>8}")
    with _Phase("text", pairs):
        words = _write_texts(folder, pairs)
    with _Phase("tokenizer", pairs):
        # In a process of its own, so that what it leaves of its heap does not blur the phases that follow.
        trainer = multiprocessing.get_context("spawn").Process(target=make_tokenizers, args=(recipe, recipe.folder))
        trainer.start()
        trainer.join()
    tokenizers = open_tokenizers(recipe.folder)
    with _Phase("overlap", pairs):
        check_overlap(recipe.data.train, recipe.data.dev, recipe.data.workers or cores)
    with _Phase("encode", pairs):
        corpora = prepare_corpora(recipe, tokenizers, recipe.folder)
    with _Phase("open again", pairs):
        corpora = prepare_corpora(recipe, open_tokenizers(recipe.folder), recipe.folder)
    with _Phase("plan an epoch", pairs):
        plan = plan_epoch(corpora.train, recipe.training.batch_tokens, 1, 0)
        batches = len(plan)
    with _Phase("draw the epoch", pairs):
        drawn, drawn_words = _draw_epoch(corpora, recipe, batches)
    with _Phase(f"fit {arguments.steps} steps", 0):
        _fit(recipe)
    kept = len(corpora.train)
    stored = sum(file.stat().st_size for file in corpora.train.folder.iterdir())
    text = sum(file.stat().st_size for file in folder.glob("train.*"))
    print(f"{words / pairs:.1f} words a side; {kept:,} pairs kept; drawn {drawn:,} in {batches:,} batches")
    print(f"pieces and marks a pair: {drawn_words / drawn:.1f}; padding {plan.padding_share:.1%}")
    print(f"on disk: text {text / 1e9:.2f} GB (.zst), corpus {stored / 1e9:.2f} GB, {stored / kept:.1f} bytes a pair")


def _recipe(arguments: argparse.Namespace, folder: Path) -> Recipe:
    def corpus(split: str) -> list[dict[str, Path]]:
        return [{side: folder / f"{split}.{side}.zst" for side in ("source", "target")}]

    return Recipe.model_validate(
        {
            "name": "bench-corpus",
            "folder": folder / "run",
            "device": "cpu",
            "threads": 1,
            "data": {
                "source": "en",
                "target": "de",
                "train": corpus("train"),
                "dev": corpus("dev"),
                "allow_overlap": True,  # looked for in a phase of its own
                "workers": arguments.workers,
            },
            "tokenizer": {
                "vocabulary_size": 8000,
                "sample_pairs": arguments.sample_pairs,
                "sampling": {"variants": arguments.variants},
            },
            "model": {"embedding": 16, "hidden": 16, "encoder_layers": 1, "decoder_layers": 1},
            "training": {
                "max_steps": arguments.steps,
                "validate_every": arguments.steps,
                "save_every": arguments.steps,
                "warmup_steps": 10,
                "samples": 0,
            },
            "export": {"licence": "CC0-1.0"},
        }
    )


def _draw_epoch(corpora: Corpora, recipe: Recipe, batches: int) -> tuple[int, int]:
    """Pairs and positions without padding of all batches of an epoch, as training gets them."""
    from training.batching import BatchStream  # torch is loaded here, so that the phases before show none of it

    stream = BatchStream(corpora.train, recipe.training.batch_tokens, 1, pad=PAD, bos=BOS, eos=EOS)
    pairs = positions = 0
    for _ in range(batches):
        batch = next(stream)
        pairs += len(batch.source)
        positions += int(batch.source_lengths.sum()) + int((batch.target_output != PAD).sum())
    return pairs, positions


def _fit(recipe: Recipe) -> None:
    from training.trainer import fit

    fit(recipe, resume=False, run_folder=recipe.folder)


def _write_texts(folder: Path, pairs: int) -> int:
    """Aligned sentences of 3 to 20 words, whose ranks follow Zipf's law; returns the number of words a side."""
    dictionaries = [_words(language) for language in ("source", "target")]
    shares = np.cumsum(1 / (np.arange(VOCABULARY) + 2.7))
    written = 0
    for split, count in (("dev", DEV_PAIRS), ("train", pairs)):
        for language, dictionary in zip(("source", "target"), dictionaries, strict=True):
            path = folder / f"{split}.{language}.zst"
            with zstandard.open(path, "wt", encoding="utf-8", cctx=zstandard.ZstdCompressor(level=1)) as file:
                written = 0
                for ranks, lengths in _sentences(split, count, shares / shares[-1]):
                    file.write(_lines(ranks, lengths, dictionary))
                    written += len(ranks)
    return written


def _sentences(split: str, pairs: int, shares: npt.NDArray[np.float64]) -> Iterator[tuple[npt.NDArray[np.int64], ...]]:
    """Groups of sentences: the ranks of their words one after the other, and their lengths; the same for both sides."""
    for first in range(0, pairs, GROUP):
        generator = np.random.default_rng([len(split), first])
        lengths = np.clip(generator.poisson(11, min(GROUP, pairs - first)), 3, 20)
        yield np.searchsorted(shares, generator.random(int(lengths.sum()))), lengths


def _lines(ranks: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], dictionary: list[str]) -> str:
    words = list(map(dictionary.__getitem__, ranks.tolist()))
    ends = np.cumsum(lengths).tolist()
    return "".join(
        " ".join(words[end - length : end]) + ".\n" for end, length in zip(ends, lengths.tolist(), strict=True)
    )


def _words(language: str) -> list[str]:
    """Different words of one to four syllables, shorter ones first, as in languages."""
    generator = np.random.default_rng(len(language) + ord(language[0]))
    syllables = [onset + vowel + coda for onset in "bdfgklmnprstvw" for vowel in "aeiou" for coda in ("", "n", "r")]
    words: dict[str, None] = {}
    while len(words) < VOCABULARY:
        size = 1 + min(3, len(words) // 100 + len(words) // 5000)
        for draw in generator.integers(len(syllables), size=(100, size)).tolist():
            words["".join(syllables[place] for place in draw)] = None
    return list(words)[:VOCABULARY]


class _Memory(NamedTuple):
    own: int  # bytes
    mapped: int
    worker: int


class _Phase:
    """Prints what a phase took; a thread looks at the memory meanwhile."""

    def __init__(self, name: str, pairs: int) -> None:
        self._name, self._pairs = name, pairs
        self._seen: list[_Memory] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._began, self._cpu = time.perf_counter(), _cpu_seconds()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds, cpu = time.perf_counter() - self._began, _cpu_seconds() - self._cpu
        self._over.set()
        self._thread.join()
        rates = [f"{self._pairs / each:,.0f}" if self._pairs else "" for each in (seconds, cpu)]
        quarters = [part for part in np.array_split(np.array(self._seen) / 1e6, 4) if len(part)]
        own = "".join(f"{part[:, 0].max():6,.0f}" for part in quarters)
        _, mapped, worker = np.max(self._seen, axis=0) / 1e6
        print(
            f"{self._name:16}{seconds:8,.1f}{cpu:8,.1f}{rates[0]:>11}{rates[1]:>11}{own:>24}{mapped:8,.0f}"
            + (f"{worker:8,.0f}" if worker else ""),
            flush=True,
        )

    def _watch(self) -> None:
        over = False
        while not over:
            over = self._over.is_set()  # looks once more at the end
            own, mapped = _memory(os.getpid())
            self._seen.append(_Memory(own, mapped, max((_memory(child)[0] for child in _children()), default=0)))
            self._over.wait(0.2)


def _memory(process: int) -> tuple[int, int]:
    """Bytes of own and of mapped memory."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0, 0
    sizes = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    own, mapped = (int(sizes[name][0]) * 1024 if name in sizes else 0 for name in ("RssAnon", "RssFile"))
    return own, mapped


def _children() -> list[int]:
    return [int(child) for path in Path("/proc/self/task").glob("*/children") for child in path.read_text().split()]


def _cpu_seconds() -> float:
    """Of this process and the workers that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()
