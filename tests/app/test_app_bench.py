"""What ``ferry bench`` measures, on models too small for the figures to mean anything."""

from __future__ import annotations

import io
import json
import math
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from app.bench import decoding, plot, shape, table
from app.bench.decoding import throughput
from app.bench.report import Report
from app.bench.subject import LENGTHS, Sentences, Subject, read_text
from app.bench_command import Task, measure
from app.cli import main
from app.files import InputError
from app.settings import Settings
from model.checkpoint import load_checkpoint
from model.config import ModelConfig
from model.search import SearchOptions, translate

TINY = ModelConfig(source_vocabulary=50, target_vocabulary=50, embedding=16, hidden=16)
QUICK = (
    *("--batch", "1", "--batch", "3", "--sentences", "4", "--rounds", "1", "--singles", "3", "--load-seconds", "0"),
    *("--threads", "1", "--precision", "float32"),
)


def bench(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """The status of the command, run in this process."""
    monkeypatch.setattr(sys, "argv", ["ferry", "bench", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


@pytest.fixture(scope="module")
def report() -> Report:
    """What there is to measure of a reference shape that was made tiny."""
    task = Task(
        reference=True,
        text=None,
        beam_size=None,
        batches=(1, 3),
        sentences=4,
        rounds=1,
        singles=5,
        load_seconds=0.2,
        seed=1,
        json=True,
        plot=None,
    )
    said: list[str] = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(shape, "REFERENCE", TINY)
        settings = Settings(threads=1, precision="float32", queue_tokens=1000)
        found = measure(settings, task, said.append)
    assert len(said) == 3
    return found


def test_the_reference_is_told_as_one_json_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shape, "REFERENCE", TINY)
    assert bench(monkeypatch, "--reference", "--json", "--shortlist", *QUICK) == 0
    told = json.loads(capsys.readouterr().out)
    keys = ("sentences_per_second", "latency_ms_mean", "floor_sentences_per_second")
    assert all(told[key] > 0 for key in keys)
    assert (told["precision"], told["shortlist"], told["model"]) == ("float32", True, "reference")
    assert told["service"] is None and told["machine"]["threads"] == 1


def test_the_best_batch_size_gives_the_headline(report: Report) -> None:
    best = max(report.throughput, key=lambda row: row.sentences_per_second)
    assert [(row.batch, row.lanes) for row in report.throughput] == [(1, 1), (3, 1)]
    assert (report.batch_size, report.lanes) == (best.batch, best.lanes)
    assert report.sentences_per_second == best.sentences_per_second
    assert report.floor_sentences_per_second == best.floor
    assert report.latency_ms_mean == report.latency.mean_ms


def test_lanes_are_measured_beside_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Subject, "product_rate", lambda self, rows: 1e6 * rows)
    shares: list[int] = []  # not given to torch: threads that outnumber free cores would wait for each other
    monkeypatch.setattr(torch, "set_num_threads", shares.append)
    model = shape.build(TINY)
    shape.force_lengths(model)
    subject = Subject.prepared("tiny", model, "float32", shape.FORCED, SearchOptions(), Sentences(TINY), None)
    rows = throughput(subject, (1, 3), sentences=5, rounds=1, threads=2)
    assert [(row.batch, row.lanes) for row in rows] == [(1, 1), (3, 1), (3, 2)]
    assert all(row.sentences_per_second > 0 for row in rows)
    assert (shares.count(2), shares.count(1)) == (2 * 3, 2 * 3)  # a warm-up, a round and the floor
    assert rows[0].floor == rows[1].floor / 3 == rows[2].floor / 2  # 5, 15 and twice 5 rows


def test_every_sentence_is_in_the_share_of_one_lane() -> None:
    sources = [[4] * length for length in (5, 3, 9, 1, 7)]
    parts = decoding._parts(sources, 4, 3)
    assert [[len(share) for share in lane] for lane in parts] == [[2, 1], [1], [1]]
    assert sorted(len(source) for lane in parts for share in lane for source in share) == [1, 3, 5, 7, 9]


def test_the_service_is_measured_at_shares_of_its_capacity(report: Report) -> None:
    service = report.service
    assert service is not None
    assert service.capacity_per_second > 0 and service.capacity_after_per_second > 0
    assert [load.share for load in service.loads] == [0.5, 0.8, 1.0, 2.0]
    for load in service.loads:
        assert load.offered_per_second == pytest.approx(load.share * service.capacity_per_second)
        assert load.answered + load.refused + load.late + load.failed == load.requests
        assert load.failed == 0


def test_latency_is_told_for_each_length(report: Report) -> None:
    assert [row.pieces for row in report.latency_by_length] == list(LENGTHS)


def test_a_checkpoint_is_measured_on_a_text(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, picture = tmp_path / "text.en", tmp_path / "plot.svg"
    text.write_text("The river is wide.\n\nHold on!\nShe reads a book.\n")
    arguments = ("--checkpoint", tiny_checkpoint, "--source", text, "--plot", picture, *QUICK)
    assert bench(monkeypatch, *arguments) == 0
    output = capsys.readouterr().out
    assert "en-de: 2 + 2 layers of 32" in output and "text.en" in output
    assert "Throughput by batch size" in output and "Poisson" not in output
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--reference", "--source", "text"), "leave out --checkpoint and --source"),
        (("--reference", "--plot", "plot.png"), "ends in .svg"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert bench(monkeypatch, *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_masking_the_end_forces_every_length() -> None:
    model = shape.build(TINY)
    shape.force_lengths(model)
    sources = [[5 + length] * length for length in range(1, 15)]
    found = translate(model, sources, SearchOptions(beam_size=3, n_best=3), shape.FORCED)
    for source, hypotheses in zip(sources, found, strict=True):
        assert {len(hypothesis.pieces) for hypothesis in hypotheses} == {math.ceil(1.2 * len(source))}


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(7)
    first = shape.build(TINY, seed=1).output_weight()
    following = torch.rand(1)
    torch.manual_seed(8)
    assert torch.equal(shape.build(TINY, seed=1).output_weight(), first)
    assert not torch.equal(shape.build(TINY, seed=2).output_weight(), first)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(1), following), "building a model must not draw from the caller's generator"


def test_a_shortlist_is_one_for_the_shape() -> None:
    shortlist = shape.shortlist(TINY)
    shortlist.check(TINY)
    assert torch.equal(shortlist.ids, shape.shortlist(TINY).ids)


def test_operations_are_those_that_torch_counts() -> None:
    model, rows, positions = shape.build(TINY), 6, 4
    memory = model.encode(torch.full((rows, positions), 5), torch.full((rows,), positions))
    state = model.start(memory)
    with FlopCounterMode(display=False) as counter:
        model.step(state, torch.full((rows,), 5), memory)
    attended = 2 * 2 * positions * TINY.hidden  # queries by keys, weights by values
    assert counter.get_total_flops() == rows * (shape.operations(model).target + attended)


def test_random_sentences_are_the_same_each_time_and_hold_no_reserved_ids() -> None:
    sentences = Sentences(TINY)
    taken = sentences.take(400)
    assert taken == Sentences(TINY).take(400) and taken[:100] == sentences.take(100)
    assert {piece for source in taken for piece in source} == set(range(4, 50))
    assert sum(map(len, taken)) / 400 == pytest.approx(14, abs=1)
    assert all(5 <= len(source) <= 40 for source in taken)


def test_a_text_begins_again_and_is_grouped_by_length() -> None:
    text = [[5] * length for length in (9, 3, 7, 1, 5, 2, 8, 4, 10, 6)]
    sentences = Sentences(TINY, text)
    assert sentences.take(12) == [*text, *text[:2]]
    assert [sorted(map(len, group)) for group in sentences.by_length(5)] == [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]
    assert sentences.mean_pieces == 5.5


def test_a_text_without_words_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "blank.txt"
    file.write_text("\n  \n")
    with pytest.raises(InputError, match=r"blank\.txt holds no text"):
        read_text(file, load_checkpoint(tiny_checkpoint))


def test_the_tables_show_what_the_report_holds(report: Report) -> None:
    shown = io.StringIO()
    table.show(report, Console(width=200, file=shown))
    text = shown.getvalue()
    assert f"{report.sentences_per_second:.1f} at batch {report.batch_size}" in text
    assert "Service under Poisson arrivals" in text and "200%" in text


def test_the_plot_has_lines_for_each_number_of_lanes(report: Report) -> None:
    several = report.throughput[1].model_copy(update={"lanes": 2})
    drawn = plot.svg(report.model_copy(update={"throughput": (*report.throughput, several)}))
    assert all(f">{name}<" in drawn for name in ("one lane", "floor, one lane", "2 lanes", "floor, 2 lanes"))


def test_the_plot_has_a_point_for_each_figure(report: Report) -> None:
    assert report.service is not None
    nothing_answered = report.service.loads[3].model_copy(update={"latency_ms": None})
    loads = (*report.service.loads[:3], nothing_answered)
    changed = report.model_copy(update={"service": report.service.model_copy(update={"loads": loads})})
    root = ElementTree.fromstring(plot.svg(changed))
    points = [len(line.get("points", "").split()) for line in root.iter("{http://www.w3.org/2000/svg}polyline")]
    answered = sum(load.latency_ms is not None for load in loads)
    assert points == [2, 2, 5, 5, answered, answered, answered]
