"""Subword models: every text is representable, and every piece knows its characters."""

import io
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from tokenizer.normalize import InvalidTextError, is_blank, normalize
from tokenizer.subword import (
    BOS,
    EOS,
    PAD,
    UNK,
    Piece,
    Subword,
    TokenizerError,
    TokenizerPair,
    load_tokenizers,
    train_subword,
)

SENTENCES = [
    "The ferry crosses the river every hour.",
    "Die Fähre überquert den Fluss jede Stunde.",
    "She waits on the other side with 24 books.",
    "Sie wartet am anderen Ufer mit 24 Büchern.",
]
SYMBOLS = ["<2de>", "⟦1⟧"]
MODELS = {
    "unigram": train_subword(SENTENCES, model_type="unigram", vocabulary_size=312, user_symbols=SYMBOLS),
    "bpe": train_subword(SENTENCES, model_type="bpe", vocabulary_size=380, user_symbols=SYMBOLS),
}
ODD = [
    "\x00",
    "\t\n",
    "\u2581",
    "e\u0301",
    "\u0301",
    "<pad>",
    "<unk>",
    "</s>",
    "<0x41>",
    "<2de>",
    "⟦1⟧",
    "👩\u200d🔬",
    "שלום",
]
TEXTS = st.lists(st.sampled_from([*ODD, " ", "ferry", "Fähre"]) | st.text(max_size=5), max_size=15).map("".join)
EITHER = st.sampled_from(list(MODELS.values()))


@given(EITHER, TEXTS)
def test_any_text_comes_back_as_its_normal_form(model: Subword, text: str) -> None:
    ids = model.encode(text)
    assert model.decode(ids) == normalize(text)
    assert not {PAD, UNK, BOS, EOS} & set(ids)
    assert (ids == []) == is_blank(text)


@given(EITHER, st.lists(TEXTS, max_size=4))
def test_a_batch_is_its_texts_one_by_one(model: Subword, texts: list[str]) -> None:
    assert model.encode_batch(texts) == [model.encode(text) for text in texts]


@given(EITHER, TEXTS)
def test_spans_rise_inside_the_text_and_cover_what_is_kept(model: Subword, text: str) -> None:
    pieces = model.encode_pieces(text)
    assert [piece.id for piece in pieces] == model.encode(text)
    _check_spans(pieces, text)
    covered = {place for piece in pieces for place in range(piece.start, piece.end)}
    assert all(place in covered or is_blank(text[place]) for place in range(len(text)))


@given(EITHER, st.lists(st.integers(0, 311), max_size=30))
def test_any_ids_decode_to_text_with_spans(model: Subword, ids: list[int]) -> None:
    text, pieces = model.decode_pieces(ids)
    assert text == model.decode(ids)
    assert [piece.id for piece in pieces] == ids
    _check_spans(pieces, text)


def _check_spans(pieces: list[Piece], text: str) -> None:
    starts, ends = [piece.start for piece in pieces], [piece.end for piece in pieces]
    assert starts == sorted(starts) and ends == sorted(ends)
    assert all(0 <= piece.start <= piece.end <= len(text) for piece in pieces)


@pytest.mark.parametrize("name", MODELS)
def test_spans_of_words_leave_the_space_before_them_out(name: str) -> None:
    text = "  The\n ferry crosses"
    pieces = MODELS[name].encode_pieces(text)
    words = [piece for piece in pieces if piece.text != "▁"]
    assert all(text[piece.start : piece.end] == piece.text.removeprefix("▁") for piece in words)


def test_the_bytes_of_a_character_share_its_span() -> None:
    model = MODELS["unigram"]
    text = "a \U0001f600e\u0327"  # ȩ, two bytes
    spans = [(piece.start, piece.end) for piece in model.encode_pieces(text) if piece.text.startswith("<0x")]
    assert spans == [(2, 3)] * 4 + [(3, 5)] * 2
    decoded, pieces = model.decode_pieces(model.encode(text))
    assert [decoded[piece.start : piece.end] for piece in pieces if piece.text.startswith("<0x")] == (
        ["\U0001f600"] * 4 + ["ȩ"] * 2
    )


def test_reserved_ids_are_silent_and_broken_bytes_become_replacement_characters() -> None:
    model = MODELS["unigram"]
    byte = model.encode("\U0001f600")[1]
    assert model.decode([BOS, *model.encode("The ferry"), EOS, PAD, PAD]) == "The ferry"
    assert model.decode([byte, UNK]) == "\ufffd\ufffd"


@pytest.mark.parametrize("name", MODELS)
def test_a_user_symbol_is_one_piece(name: str) -> None:
    pieces = MODELS[name].encode_pieces("<2de> The ⟦1⟧.")
    assert [(piece.id, piece.start, piece.end) for piece in pieces if piece.text in SYMBOLS] == [(4, 0, 5), (5, 10, 13)]


@pytest.mark.parametrize("identifier", [-1, 312])
def test_an_id_outside_the_vocabulary_is_an_error(identifier: int) -> None:
    with pytest.raises(IndexError):
        MODELS["unigram"].decode([identifier])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "text", ["x" * 1_000_000, "word " * 200_000, "\U0001f600" * 50_000], ids=["word", "words", "emoji"]
)
def test_a_very_long_text_is_encoded(name: str, text: str) -> None:
    assert MODELS[name].decode(MODELS[name].encode(text)) == text.strip()


def test_a_lone_surrogate_is_an_error() -> None:
    for call in (MODELS["bpe"].encode, MODELS["bpe"].encode_pieces):
        with pytest.raises(InvalidTextError):
            call("a\udc00")


def test_a_model_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(MODELS["bpe"].to_bytes())
    loaded = Subword.load(path)
    assert loaded.vocabulary_size == 380
    assert loaded.encode(SENTENCES[0]) == MODELS["bpe"].encode(SENTENCES[0])


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", MODELS["bpe"].to_bytes()[:1000], bytes(100)])
def test_a_damaged_model_file_is_an_error_naming_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.model"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=r"broken\.model"):
        Subword.load(path)


def test_an_absent_model_file_is_an_error_naming_the_file(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"absent\.model: cannot be read"):
        Subword.load(tmp_path / "absent.model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"byte_fallback": False, "vocab_size": 50, "pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3},
            "no byte pieces",
        ),
        ({"byte_fallback": True, "vocab_size": 300}, "pad, unk, bos and eos are"),
    ],
)
def test_a_foreign_model_is_an_error(options: dict[str, int | bool], message: str) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, minloglevel=2, **options
    )
    with pytest.raises(TokenizerError, match=message):
        Subword.from_bytes(model.getvalue())


@pytest.mark.parametrize("joint", [True, False])
def test_a_pair_survives_its_files(tmp_path: Path, joint: bool) -> None:
    pair = TokenizerPair(MODELS["bpe"], MODELS["bpe" if joint else "unigram"])
    for name, content in pair.files().items():
        (tmp_path / name).write_bytes(content)
    loaded = load_tokenizers(tmp_path)
    assert loaded.joint() == pair.joint() == joint
    assert [side.to_bytes() for side in loaded] == [side.to_bytes() for side in pair]


@pytest.mark.parametrize("names", [[], ["tokenizer.source.model"], ["tokenizer.model", "tokenizer.target.model"]])
def test_an_incomplete_or_ambiguous_pair_is_an_error(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_bytes(MODELS["bpe"].to_bytes())
    with pytest.raises(TokenizerError, match=r"has to hold either tokenizer\.model or both"):
        load_tokenizers(tmp_path)


@pytest.mark.parametrize("name", MODELS)
def test_pieces_are_listed_by_id(name: str) -> None:
    pieces = MODELS[name].pieces()
    assert len(pieces) == MODELS[name].vocabulary_size
    assert pieces[:4] == ["<pad>", "<unk>", "<s>", "</s>"]
    assert all(pieces[piece.id] == piece.text for piece in MODELS[name].encode_pieces("The ferry, <2de> ж"))


@given(
    model=EITHER,
    word=st.one_of(st.sampled_from(" ".join(SENTENCES).split()), st.text("TheFrydi.24ü", min_size=1, max_size=12)),
)
def test_a_word_is_covered_by_the_pieces_of_its_encoding(model: Subword, word: str) -> None:
    is_byte = {identifier for identifier, piece in enumerate(model.pieces()) if piece.startswith("<0x")}
    assert model.cover(f"▁{word}") == [identifier for identifier in model.encode(word) if identifier not in is_byte]


@pytest.mark.parametrize("name", MODELS)
def test_a_piece_is_covered_as_it_stands(name: str) -> None:
    """No space in front, and nothing for the character that has no piece."""
    model = MODELS[name]
    assert "".join(model.pieces()[identifier] for identifier in model.cover("erжry")) == "erry"
    assert model.cover("ж") == model.cover("") == []
