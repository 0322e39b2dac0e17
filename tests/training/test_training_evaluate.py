"""Scores are sacreBLEU's own, and a system translates whatever lines a file holds."""

from __future__ import annotations

import json
import lzma
import math
import subprocess
import sys
from pathlib import Path

import pytest

from model.checkpoint import load_checkpoint
from model.config import LengthPenalty
from model.ensemble import Ensemble
from model.precision import Precision, prepare
from model.search import SearchOptions
from tests.conftest import ENGLISH, write_checkpoint
from tokenizer.subword import TokenizerPair, train_subword
from training.corpus_config import CorpusConfig
from training.evaluate import Result, evaluate, score
from training.reading import CorpusError
from training.scores import write_results
from training.system import UnusableSystemError, combine, open_checkpoint

HYPOTHESES = ["Die Fähre ist langsam .", "sie liest Ein Buch", "Es regnet morgen, glaube ich.", ""]
REFERENCES = ["Die Fähre ist sehr langsam.", "Sie liest ein Buch.", "Ich glaube, morgen wird es regnen.", "Ja."]


def test_scores_and_signatures_are_those_of_the_sacrebleu_command(tmp_path: Path) -> None:
    (tmp_path / "hypotheses").write_text("\n".join(HYPOTHESES) + "\n")
    (tmp_path / "references").write_text("\n".join(REFERENCES) + "\n")

    def command(*arguments: str) -> list[tuple[float, str]]:
        line = [sys.executable, "-m", "sacrebleu", "references", "-i", "hypotheses", "-w", "10", *arguments]
        printed = json.loads(subprocess.run(line, cwd=tmp_path, check=True, capture_output=True, text=True).stdout)
        return [(entry["score"], entry["signature"]) for entry in (printed if isinstance(printed, list) else [printed])]

    scores = score(HYPOTHESES, REFERENCES)
    ours = [(getattr(scores, name), scores.signatures[name]) for name in ("bleu", "chrf2", "ter", "bleu_lc")]
    theirs = command("-m", "bleu", "chrf", "ter") + command("-m", "bleu", "-lc")
    assert [signature for _, signature in ours] == [signature for _, signature in theirs]
    assert [figure for figure, _ in ours] == pytest.approx([figure for figure, _ in theirs], abs=1e-9)


def test_a_blank_line_stays_blank_and_keeps_its_place(tiny_checkpoint: Path) -> None:
    system = open_checkpoint(tiny_checkpoint)
    texts = ["The river is wide.", "", " \t ", "We cross the water."]
    translations = system.translate(texts)
    assert translations[1:3] == ["", ""]
    assert [translations[0], translations[3]] == [system.translate([text])[0] for text in (texts[0], texts[3])]


def test_a_translation_is_one_line(tiny_checkpoint: Path) -> None:
    newline = open_checkpoint(tiny_checkpoint).tokenizers.target
    byte_pieces = [index for index in range(newline.vocabulary_size) if newline.decode([index]) in ("\n", "\r")]
    assert byte_pieces, "the vocabulary has pieces for line ends, so a model can write them"
    system = open_checkpoint(tiny_checkpoint)
    system = system._replace(options=SearchOptions(beam_size=1, prefix=tuple(byte_pieces), max_length=4))
    assert len(system.translate(["The river"])[0].splitlines()) <= 1


def test_the_n_best_are_different_translations_the_best_first(tiny_checkpoint: Path) -> None:
    system = open_checkpoint(tiny_checkpoint)
    system = system._replace(options=system.options._replace(n_best=3))
    texts = ["The river is wide.", " ", "We cross the water."]
    found = system.n_best(texts)
    assert [len(hypotheses) for hypotheses in found] == [3, 0, 3]
    assert [hypotheses[0] if hypotheses else "" for hypotheses in found] == system.translate(texts)


def test_scores_that_are_no_numbers_are_not_taken_for_an_empty_translation(tiny_checkpoint: Path) -> None:
    checkpoint, system = load_checkpoint(tiny_checkpoint), open_checkpoint(tiny_checkpoint)
    checkpoint.model.output_bias[5] = math.nan
    with pytest.raises(UnusableSystemError, match="no numbers"):
        system._replace(model=checkpoint.model).translate(["The river is wide."])


def test_samples_keep_their_place_and_follow_their_seed(tiny_checkpoint: Path) -> None:
    system = open_checkpoint(tiny_checkpoint)
    drawn = system.sample(["The river is wide.", "", "The river is wide."], [1, 2, 3])
    assert drawn[1] == ""
    assert drawn[0] != drawn[2]
    assert system.sample(["The river is wide."], [3]) == drawn[2:]


def test_members_of_an_ensemble_need_the_same_tokenizers(tiny_checkpoint: Path, tmp_path: Path) -> None:
    subword = train_subword(ENGLISH, model_type="bpe", vocabulary_size=330)
    other = write_checkpoint(tmp_path / "other", TokenizerPair(subword, subword), "en", "de")
    with pytest.raises(UnusableSystemError, match="system 2 has other tokenizers"):
        combine([open_checkpoint(tiny_checkpoint), open_checkpoint(other)])


def test_an_ensemble_can_have_an_ensemble_as_its_member(tiny_checkpoint: Path, tmp_path: Path) -> None:
    one = open_checkpoint(tiny_checkpoint)
    other = open_checkpoint(write_checkpoint(tmp_path / "other", one.tokenizers, "en", "de", seed=4))
    assert combine([combine([one, other]), one]).translate(ENGLISH) == combine([one, other, one]).translate(ENGLISH)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_every_member_computes_in_the_precision_asked_for(
    tiny_checkpoint: Path, tmp_path: Path, precision: Precision
) -> None:
    one = open_checkpoint(tiny_checkpoint)
    other = open_checkpoint(write_checkpoint(tmp_path / "other", one.tokenizers, "en", "de", seed=4))
    both = combine([one, other]).in_precision(precision)
    members = [
        prepare(load_checkpoint(folder).model, precision).model for folder in (tiny_checkpoint, tmp_path / "other")
    ]
    assert both.translate(ENGLISH) == one._replace(model=Ensemble(members)).translate(ENGLISH)
    assert both.precision == precision


def test_a_checkpoint_brings_its_search_options(tiny_checkpoint: Path) -> None:
    assert open_checkpoint(tiny_checkpoint).options == SearchOptions(5, length_penalty=LengthPenalty())


def test_compressed_files_give_the_scores_of_plain_ones(tiny_checkpoint: Path, tmp_path: Path) -> None:
    system = open_checkpoint(tiny_checkpoint)
    found: list[Result] = []
    for suffix, pack in ((".txt", bytes), (".xz", lzma.compress)):
        source, target = tmp_path / f"source{suffix}", tmp_path / f"target{suffix}"
        source.write_bytes(pack("\n".join(REFERENCES[::-1]).encode()))
        target.write_bytes(pack("\n".join(REFERENCES).encode()))
        found.append(evaluate(system, CorpusConfig(source=source, target=target)))
    assert found[0].scores == found[1].scores
    assert found[0].hypotheses == found[1].hypotheses


def test_unequal_files_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "source").write_text("one\ntwo\n")
    (tmp_path / "target").write_text("eins\n")
    with pytest.raises(CorpusError, match="2 lines"):
        evaluate(open_checkpoint(tiny_checkpoint), CorpusConfig(source=tmp_path / "source", target=tmp_path / "target"))


def test_hypotheses_of_test_sets_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    scores = score(HYPOTHESES, REFERENCES)
    results = [Result("news/2019", "test", scores, 1.0, [text]) for text in ("eins", "zwei")]
    write_results(results, SearchOptions(), "de", tmp_path)
    assert (tmp_path / "news_2019.test.de").read_text() == "eins\n"
    assert (tmp_path / "news_2019.test.2.de").read_text() == "zwei\n"
    assert len(json.loads((tmp_path / "scores.json").read_text())) == 2
