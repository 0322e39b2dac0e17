"""What stands before the first step: which text the tokenizers learn from, and when overlap is looked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from tokenizer.subword import TokenizerPair
from training.config import DataConfig, Recipe
from training.overlap import OverlapError
from training.prepare import make_tokenizers, prepare_corpora

Make = Callable[..., Recipe]


@pytest.fixture
def recipe(tmp_path: Path) -> Make:
    """A function from tokenizer options to a recipe over 400 training pairs, of which half is about numbers."""
    lines = [f"the {word} crosses the river" for word in ("ferry", "boat", "captain", "child")] * 50
    lines += [f"{number} {number * 3}" for number in range(200)]
    (tmp_path / "train").write_text("".join(f"{line}\t{line.upper()}\n" for line in lines))
    (tmp_path / "dev").write_text("a\tA\n")

    def make(**tokenizer: object) -> Recipe:
        return Recipe.model_validate(
            {
                "name": "run",
                "folder": tmp_path / "run",
                "data": {
                    "source": "en",
                    "target": "de",
                    "train": [{"tsv": tmp_path / "train"}],
                    "dev": [{"tsv": tmp_path / "dev"}],
                },
                "tokenizer": {"vocabulary_size": 306, **tokenizer},
                "export": {"licence": "CC0-1.0"},
            }
        )

    return make


def model(recipe: Recipe) -> bytes:
    return make_tokenizers(recipe, recipe.folder).source.to_bytes()


def test_a_sample_that_holds_every_pair_is_the_whole_text(recipe: Make) -> None:
    assert model(recipe(sample_pairs=400)) == model(recipe(sample_pairs=100_000))


def test_a_sample_is_decided_by_the_seed_and_comes_from_the_whole_text(
    recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.reading.CHUNK_PAIRS", 30)
    seen: list[list[str]] = []

    def trained(texts: object, **options: object) -> object:
        seen.append(list(texts))  # type: ignore[call-overload]
        raise KeyboardInterrupt

    monkeypatch.setattr("training.prepare.train_subword", trained)
    for seed in (1, 1, 2):
        made = recipe(sample_pairs=80).model_copy(update={"seed": seed})
        with pytest.raises(KeyboardInterrupt):
            make_tokenizers(made, made.folder)
    first, again, other = seen
    assert first == again != other
    numbers = {int(text.split()[0]) for text in first if text[0].isdigit()}
    assert 20 < len(numbers) < 60
    assert min(numbers) < 50 and max(numbers) > 150


def test_overlap_is_looked_for_once_for_each_content(
    recipe: Make, tmp_path: Path, tiny_tokenizer: TokenizerPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe()
    prepare_corpora(made, tiny_tokenizer, made.folder)
    with monkeypatch.context() as patch:
        patch.setattr("training.prepare.check_overlap", lambda *_: pytest.fail("looked for again"))
        prepare_corpora(made, tiny_tokenizer, made.folder)
        fewer = [corpus.model_copy(update={"first": 100}) for corpus in made.data.train]
        part = made.model_copy(update={"data": made.data.model_copy(update={"train": tuple(fewer)})})
        with pytest.raises(pytest.fail.Exception, match="looked for again"):
            prepare_corpora(part, tiny_tokenizer, made.folder)
    (tmp_path / "dev").write_text("7 21\t7 21\n")
    with pytest.raises(OverlapError, match="dev:1 is train:208"):
        prepare_corpora(made, tiny_tokenizer, made.folder)


def test_overlap_is_left_out_of_corpus_and_tokenizers_on_request(
    recipe: Make, tmp_path: Path, tiny_tokenizer: TokenizerPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dev").write_text("7 21\t7 21\na\tA\n")
    (tmp_path / "test").write_text(" the boat  crosses the river\tTHE BOAT CROSSES THE RIVER\n")
    made = recipe()
    data = {**made.data.model_dump(), "test": [{"tsv": tmp_path / "test"}], "drop_overlap": True}
    dropping = made.model_copy(update={"data": DataConfig.model_validate(data)})
    corpus = prepare_corpora(dropping, tiny_tokenizer, made.folder).train
    (report,) = corpus.report.corpora
    assert report.dropped["held_out"].count == 1 + 50
    assert report.dropped["held_out"].line == 2
    assert report.kept == len(corpus) == 400 - 51 - 49 * 3  # duplicates as ever
    decode = tiny_tokenizer.source.decode
    left = {decode(corpus.pair(index)[0].tolist()) for index in range(len(corpus))}
    assert "6 18" in left and not left & {"7 21", "the boat crosses the river"}

    texts: list[str] = []
    monkeypatch.setattr("training.prepare._train", lambda _, given: texts.extend(given) or tiny_tokenizer.source)
    make_tokenizers(dropping, made.folder)
    assert "6 18" in texts and not set(texts) & {"7 21", "the boat crosses the river"}

    (tmp_path / "dev").write_text("a\tA\n")  # another choice of what is held out is another corpus
    assert len(prepare_corpora(dropping, tiny_tokenizer, made.folder).train) == len(corpus) + 1


def test_one_cannot_both_drop_overlap_and_allow_it(recipe: Make) -> None:
    data = {**recipe().data.model_dump(), "drop_overlap": True, "allow_overlap": True}
    with pytest.raises(ValidationError, match="drop_overlap leaves the pairs out"):
        DataConfig.model_validate(data)
