"""The ``ferry`` command: translating files and looking into checkpoints."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from app.cli import main
from app.translate_command import LINES
from model.checkpoint import load_checkpoint
from model.native import capability, set_aside
from model.search import SearchOptions, translate
from tokenizer.subword import load_tokenizers

TEXT = "The river is wide.\nWe cross the water. She reads.\n\n   \nHold on!"


class Result(NamedTuple):
    status: int
    output: str
    errors: str


class Ferry:
    """The command, run in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        self._patch, self._capture = monkeypatch, capfdbinary

    def __call__(self, *arguments: str | Path, stdin: bytes = b"") -> Result:
        self._patch.setattr(sys, "argv", ["ferry", *map(str, arguments)])
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self._capture.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        output, errors = self._capture.readouterr()
        assert isinstance(exit_.value.code, int)
        return Result(exit_.value.code, output.decode(), errors.decode())


@pytest.fixture
def ferry(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Ferry:
    monkeypatch.setenv("FERRY_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "200")
    return Ferry(monkeypatch, capfdbinary)


def test_each_line_is_a_segment_and_keeps_its_place(ferry: Ferry, tiny_checkpoint: Path) -> None:
    status, output, errors = ferry("translate", "--checkpoint", tiny_checkpoint, stdin=TEXT.encode())
    checkpoint, tokenizers = load_checkpoint(tiny_checkpoint), load_tokenizers(tiny_checkpoint)
    lines = TEXT.split("\n")
    full = [line for line in lines if line.strip()]
    found = translate(
        checkpoint.model, tokenizers.source.encode_batch(full), SearchOptions(), checkpoint.config.length_limit
    )
    texts = (" ".join(tokenizers.target.decode(hypotheses[0].pieces).splitlines()) for hypotheses in found)
    expected = [next(texts) if line.strip() else line for line in lines]
    assert (status, errors) == (0, "")
    assert output == "\n".join(expected) + "\n"


def test_a_file_is_translated_to_a_file_in_pieces(ferry: Ferry, tiny_checkpoint: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_bytes(b"\xef\xbb\xbf" + b"Hold on!\r\n" * (LINES + 3))
    result = ferry("translate", source, "-o", target, "--checkpoint", tiny_checkpoint, "--beam-size", "1", "--progress")
    lines = target.read_text(encoding="utf-8").split("\n")
    assert result.status == 0 and result.output == ""
    assert len(lines) == LINES + 4 and lines[-1] == "" and len(set(lines[:-1])) == 1
    assert "100%" in result.errors


def test_n_best_lines_name_their_source_line(ferry: Ferry, tiny_checkpoint: Path) -> None:
    result = ferry("translate", "--checkpoint", tiny_checkpoint, "--n-best", "3", stdin=b"Hold on!\nShe reads.\n")
    fields = [line.split(" ||| ") for line in result.output.splitlines()]
    assert [number for number, _, _ in fields] == ["0"] * 3 + ["1"] * 3
    scores = [float(score) for _, _, score in fields]
    assert scores[:3] == sorted(scores[:3], reverse=True) and scores[3:] == sorted(scores[3:], reverse=True)


def test_json_holds_scores_and_alternatives(ferry: Ferry, tiny_checkpoint: Path) -> None:
    result = ferry("translate", "--checkpoint", tiny_checkpoint, "--n-best", "2", "--json", stdin=b"Hold on!\n\n")
    first, second = map(json.loads, result.output.splitlines())
    assert first["score"] >= first["alternatives"][0]["score"] and len(first["alternatives"]) == 1
    assert second == {"text": "", "score": None, "alternatives": []}


def test_a_document_keeps_the_space_between_its_sentences(ferry: Ferry, tiny_checkpoint: Path) -> None:
    text = b"\n The river is wide. Hold on!\n\n\tShe reads.  "
    result = ferry("translate", "--checkpoint", tiny_checkpoint, "--document", stdin=text)
    assert result.output.startswith("\n ") and "\n\n\t" in result.output and result.output.endswith("  ")
    as_json = ferry("translate", "--checkpoint", tiny_checkpoint, "--document", "--json", "--n-best", "2", stdin=text)
    assert json.loads(as_json.output)["text"] == result.output


def test_a_line_too_long_for_the_model_is_cut_and_not_lost(ferry: Ferry, tiny_checkpoint: Path) -> None:
    result = ferry("translate", "--checkpoint", tiny_checkpoint, "--beam-size", "1", stdin=b"the river " * 200 + b"\n")
    assert result.status == 0 and len(result.output.splitlines()) == 1 and result.output.strip()


def test_languages_choose_among_checkpoints(ferry: Ferry, tiny_checkpoint: Path, tiny_checkpoint_fr: Path) -> None:
    both = ("translate", "--checkpoint", tiny_checkpoint, "--checkpoint", tiny_checkpoint_fr)
    alone = ferry("translate", "--checkpoint", tiny_checkpoint_fr, stdin=b"Hold on!")
    assert ferry(*both, "--source", "en", "--target", "fr", stdin=b"Hold on!").output == alone.output
    assert ferry(*both, "--target", "fr-CA", stdin=b"Hold on!").output == alone.output
    for unclear in (ferry(*both, stdin=b"Hold on!"), ferry(*both, "--source", "en", stdin=b"Hold on!")):
        assert (unclear.status, unclear.output) == (1, "")
        words = "there are several language pairs, en-de, en-fr: choose with --source and --target"
        assert unclear.errors == f"ferry: {words}\n"
    for flag, words in (("--source", "from 'nl'"), ("--target", "to 'nl'")):
        unknown = ferry(*both, flag, "nl", stdin=b"Hold on!")
        assert (unknown.status, unknown.output) == (1, "")
        assert unknown.errors == f"ferry: no model translates {words}; the pairs there are: en-de, en-fr\n"


@pytest.mark.parametrize("document", [(), ("--document",)])
def test_input_that_is_not_utf_8_is_named_by_line(
    ferry: Ferry, tiny_checkpoint: Path, document: tuple[str, ...]
) -> None:
    result = ferry("translate", "--checkpoint", tiny_checkpoint, *document, stdin=b"Hold on!\nF\xe4hre\n")
    assert result.status == 1
    assert result.errors.startswith("ferry: standard input, line 2: byte 0xe4 is not UTF-8; convert the input first")


def test_errors_are_one_line(ferry: Ferry, tiny_checkpoint: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (("translate", tmp_path / "none.txt", "--checkpoint", tiny_checkpoint), "none.txt: No such file or directory"),
        (("translate", "--checkpoint", tmp_path / "none"), "none is not a folder; a checkpoint is a folder"),
        (("translate", "--checkpoint", tiny_checkpoint, "--target", "it"), "the pairs there are: en-de"),
        (("serve", "--port", "x"), "--port is 'x'"),
        (("serve", "--checkpoint", tiny_checkpoint, "--checkpoint", tiny_checkpoint), "may stand only once"),
    ):
        result = ferry(*arguments)
        assert result.status == 1 and result.output == ""
        assert message in result.errors and result.errors.startswith("ferry: ") and result.errors.count("\n") == 1


def test_a_file_is_not_translated_onto_itself(ferry: Ferry, tiny_checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("Hold on!\n")
    assert ferry("translate", file, "-o", file, "--checkpoint", tiny_checkpoint).status == 1
    assert file.read_text() == "Hold on!\n"


def test_options_that_exclude_each_other_are_refused(ferry: Ferry) -> None:
    for options, message in (
        (("--document", "--n-best", "2"), "needs --json"),
        (("--n-best", "3", "--beam-size", "2"), "must not exceed --beam-size"),
    ):
        result = ferry("translate", *options)
        assert result.status == 2 and message in " ".join(result.errors.split())


def test_info_shows_what_a_checkpoint_is(ferry: Ferry, tiny_checkpoint: Path) -> None:
    result = ferry("info", tiny_checkpoint)
    assert result.status == 0
    for words in ("en → de", "380 source pieces", "CC0-1.0", "random weights", "model.safetensors", "No scores"):
        assert words in result.output
    sums = (tiny_checkpoint / "SHA256SUMS").read_text().split()
    assert all(digest in result.output for digest in sums[::2])


def test_info_says_in_which_precision_it_would_serve_here(
    ferry: Ferry, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = json.loads(ferry("info", "--json", tiny_checkpoint).output)
    assert measured["serving_precision"] == min(measured["step_seconds"], key=measured["step_seconds"].get)
    assert {"float32", "int8"} <= measured["step_seconds"].keys()
    monkeypatch.setenv("FERRY_PRECISION", "int8")
    chosen = ferry("info", tiny_checkpoint).output
    assert re.search(r"served here in +int8 *\n", chosen)
    assert measured["operators"] == capability()


def test_info_says_whether_there_are_operators(ferry: Ferry, tiny_checkpoint: Path) -> None:
    with set_aside():
        assert re.search(r"operators +none in C\+\+, but plain torch *\n", ferry("info", tiny_checkpoint).output)


@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_files_are_translated_in_the_precision_that_is_asked_for(
    ferry: Ferry, tiny_checkpoint: Path, precision: str
) -> None:
    result = ferry("translate", "--checkpoint", tiny_checkpoint, "--precision", precision, stdin=b"Hold on!\n")
    assert result.status == 0 and result.output.strip()


def test_info_as_json(ferry: Ferry, tiny_checkpoint: Path, tiny_checkpoint_fr: Path) -> None:
    first, second = map(json.loads, ferry("info", "--json", tiny_checkpoint, tiny_checkpoint_fr).output.splitlines())
    assert (first["name"], second["name"]) == ("en-de", "en-fr")
    assert first["parameters"] > 1000 and {file["name"] for file in first["files"]} >= {"config.json", "README.md"}


def test_info_refuses_a_checkpoint_that_was_altered(ferry: Ferry, tiny_checkpoint: Path, tmp_path: Path) -> None:
    for file in tiny_checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "README.md").write_text("other")
    result = ferry("info", tmp_path)
    assert result.status == 1 and "README.md is not the file that SHA256SUMS lists" in result.errors
