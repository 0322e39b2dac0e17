"""Compare sentence splitters.

    pip install pysbd syntok sentence-splitter blingfire
    python tests/bench/bench_segment.py

Prints one Markdown row a library: installed size, F1 of the sentence boundaries in a text made of the sentences below,
speed on 1 MB of them, seconds for hostile texts of 1 MB, and what comes back of a text of odd characters: all of it,
all but white space, or something else. A library that is not installed, or a language that it lacks, is named and left
out. Each call may last 20 seconds.
"""

# ruff: noqa: RUF001

import importlib.metadata
import platform
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

Splitter = Callable[[str, str], list[str]]

GOLD = {
    "en": (
        "Dr. Smith arrived at 5 p.m. on Jan. 3rd.", "He paid $3.50 for it.", "Is that so?", '"Come in!" she said.',
        "We met Mr. and Mrs. J. R. Jones in Washington D.C. last year.", "See e.g. Fig. 3 for details.",
        "Visit www.example.com/index.html now.", "It ended... or so we thought.", "What?!", "No. 5 is alive.",
        "(This stands alone.)", "The U.S. economy grew by 2.1 percent.", "She works for Acme Inc. in Ohio.", "OK.",
    ),
    "de": (
        "Dr. Müller kam am 3. Oktober um 17.30 Uhr an.", "Das kostet z. B. 3,50 Euro.", "Wirklich?",
        "„Komm herein!“, sagte sie.", "Er wohnt in der Hauptstr. 12 in Köln.", "Die Fa. Meier GmbH u. a. sind dabei.",
        "Das war im 19. Jahrhundert.", "Siehe S. 12 bzw. Abb. 3.", "Es regnet ...", "Na gut!", "Ca. 20 Leute kamen.",
        "Prof. h. c. Karl V. Schmidt sprach.", "Am 1.1.2020 begann alles.",
    ),
    "fr": (
        "M. Dupont est arrivé à 17 h 30.", "Il a payé 3,50 € !", "Vraiment ?", "Mme Durand, p. ex., le sait.",
        "« Entrez ! » dit-elle.", "Voir p. 12 et s.", "C'est fini…",
    ),
    "ru": ("Это стоит 5 руб. за кг.", "Правда?", "Он родился в 1950 г. в Москве.", "А. С. Пушкин писал стихи.", "Да!"),
    "hi": ("यह एक वाक्य है।", "क्या यह सच है?", "हाँ, यह सच है।"),
    "zh": ("今天天气很好。", "你去吗？", "我不去！", "他说：“好的。”"),
}  # fmt: skip
GLUE = {"zh": ""}
MEGABYTE = 1_000_000
HOSTILE = {
    "word": "x" * MEGABYTE,
    "dots": "." * MEGABYTE,
    "quotes": '"(' * (MEGABYTE // 2),
    "initials": "A. " * (MEGABYTE // 3),
}
NASTY = "  a.  B.\t\tC!\r\n\r\n d\x00e. F\u2028G. \ufeffH.\u00a0I? \u05d0. \u05d2 \U0001f600. J\u200d. _K_. ∯ & ♬. \n "
PATIENCE = 20.0  # seconds


def main() -> None:
    print(f"{_processor()}, Python {platform.python_version()}, one thread\n")
    languages = " | ".join(f"F1 {language}" for language in GOLD)
    print(f"| library | installed | {languages} | MB/s | {' | '.join(HOSTILE)} | characters |")
    print("|---" * (len(GOLD) + len(HOSTILE) + 4) + "|")
    for distribution, make in LIBRARIES.items():
        try:
            splitter = make()
        except ImportError:
            print(f"| {distribution}: not installed |")
            continue
        scores = [_figure(partial(_f1, splitter, language)) for language in GOLD]
        speed = _figure(partial(_speed, splitter))
        hostile = [_figure(partial(_seconds, splitter, text), " s") for text in HOSTILE.values()]
        kept = _kept("".join(splitter("en", NASTY)))
        size = f"{_installed_bytes(distribution) / 1e6:.1f} MB"
        name = f"{distribution} {importlib.metadata.version(distribution)}"
        print(f"| {' | '.join([name, size, *scores, speed, *hostile, kept])} |", flush=True)


def _sentencex() -> Splitter:
    import sentencex

    return lambda language, text: list(sentencex.segment(language, text))


def _pysbd() -> Splitter:
    import pysbd

    return lambda language, text: list(pysbd.Segmenter(language=language, clean=False).segment(text))


def _syntok() -> Splitter:
    from syntok import segmenter

    def split(language: str, text: str) -> list[str]:
        if language not in ("en", "de", "es"):
            raise ValueError(language)
        paragraphs = segmenter.process(text)
        return ["".join(t.spacing + t.value for t in sentence) for paragraph in paragraphs for sentence in paragraph]

    return split


def _sentence_splitter() -> Splitter:
    from sentence_splitter import SentenceSplitter

    return lambda language, text: list(SentenceSplitter(language=language).split(text))


def _blingfire() -> Splitter:
    import blingfire

    return lambda language, text: list(blingfire.text_to_sentences(text).split("\n"))


LIBRARIES: dict[str, Callable[[], Splitter]] = {
    "sentencex": _sentencex,
    "pysbd": _pysbd,
    "syntok": _syntok,
    "sentence-splitter": _sentence_splitter,
    "blingfire": _blingfire,
}


def _f1(splitter: Splitter, language: str) -> float:
    """F1 of the sentences found, compared without white space."""
    glue = GLUE.get(language, " ")
    expected = _ends(list(GOLD[language]))
    found = _ends(splitter(language, glue.join(GOLD[language])))
    return 2 * len(expected & found) / (len(expected) + len(found))


def _ends(sentences: list[str]) -> set[int]:
    """The inner boundaries, as counts of characters that are not white space."""
    ends, count = set(), 0
    for sentence in sentences:
        count += len("".join(sentence.split()))
        ends.add(count)
    return ends - {count}


def _megabyte() -> str:
    paragraph = " ".join(GOLD["en"]) + "\n\n"
    return paragraph * (MEGABYTE // len(paragraph))


def _speed(splitter: Splitter) -> float:
    return 1 / _seconds(splitter, _megabyte())


def _seconds(splitter: Splitter, text: str) -> float:
    start = time.perf_counter()
    splitter("en", text)
    return time.perf_counter() - start


def _kept(text: str) -> str:
    if text == NASTY:
        return "all kept"
    return "white space lost" if "".join(text.split()) == "".join(NASTY.split()) else "altered"


def _figure(measure: Callable[[], float], unit: str = "") -> str:
    def give_up(signal_number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        return f"{measure():.2f}{unit}"
    except TimeoutError:
        return f"> {PATIENCE:.0f} s"
    except Exception as error:  # the libraries raise what they like for a language they lack
        return f"none ({type(error).__name__})"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _installed_bytes(distribution: str) -> int:
    files = importlib.metadata.files(distribution) or []
    return sum(Path(str(file.locate())).stat().st_size for file in files if Path(str(file.locate())).exists())


if __name__ == "__main__":
    main()
