"""A SentencePiece model as the rest of the house uses it: normalised text to ids, ids to text, with character spans."""

import io
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict

import sentencepiece

from tokenizer.normalize import normalize, normalize_with_offsets
from tokenizer.sampling import Sampler

PAD, UNK, BOS, EOS = 0, 1, 2, 3
BYTES = 256

JOINT_FILE = "tokenizer.model"
SOURCE_FILE = "tokenizer.source.model"
TARGET_FILE = "tokenizer.target.model"

_generator = random.Random()


class TokenizerError(Exception):
    """A SentencePiece model could not be read, trained or used as asked."""


class Piece(NamedTuple):
    """One piece and the characters [start, end) that it stands for.

    The space that a piece's leading "▁" stands for is left out of its span, unless the piece is nothing else. All bytes
    of one character share that character's span. Starts and ends never fall from one piece to the next.
    """

    id: int
    text: str
    start: int
    end: int


class Subword:
    """One SentencePiece model with byte fallback and the reserved ids PAD, UNK, BOS and EOS.

    Every text that is Unicode can be encoded, and decode(encode(text)) == normalize(text).
    """

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, model: bytes) -> None:
        self._processor = processor
        self._model = model
        self._is_byte = _byte_table(processor)

    @classmethod
    def load(cls, path: Path) -> "Subword":
        """Read a model file. Raises TokenizerError, naming the file, if it is absent or no model of ours."""
        try:
            return cls.from_bytes(path.read_bytes())
        except OSError as error:
            raise TokenizerError(f"{path}: cannot be read: {error.strerror}") from error
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from error

    @classmethod
    def from_bytes(cls, model: bytes) -> "Subword":
        """Read a serialised model. Raises TokenizerError if it is damaged, or lacks our reserved ids or byte pieces."""
        processor = sentencepiece.SentencePieceProcessor()
        try:
            if not model:
                raise RuntimeError("it is empty")
            processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise TokenizerError(f"not a SentencePiece model: {error}") from error
        _require_reserved_ids(processor)
        return cls(processor, model)

    def to_bytes(self) -> bytes:
        """The serialised model: what from_bytes takes and a tokenizer file holds."""
        return self._model

    @property
    def vocabulary_size(self) -> int:
        """Number of pieces, the reserved ones included; ids are 0 … vocabulary_size - 1."""
        return int(self._processor.get_piece_size())

    def encode(self, text: str) -> list[int]:
        """The ids of normalize(text), without BOS and EOS. Raises InvalidTextError for a lone surrogate."""
        ids: list[int] = self._processor.encode(normalize(text))
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """encode for each text."""
        batch: list[list[int]] = self._processor.encode([normalize(text) for text in texts], num_threads=1)
        return batch

    def sample_batch(self, texts: Sequence[str], alpha: float) -> list[list[int]]:
        """One sampled encoding of each text (subword regularisation), drawn from the generator of seed_sampling.

        Unigram models draw from all segmentations with probabilities to the power alpha, so a smaller alpha is wilder
        (Kudo 2018, eq. 4). BPE models drop each merge with probability alpha (Provilkov et al. 2020).
        Raises ValueError unless 0 <= alpha <= 1, InvalidTextError for a lone surrogate.
        """
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}, but has to lie between 0 and 1")
        return [self._sampler.sample(normalize(text), alpha, _generator) for text in texts]

    def pieces(self) -> list[str]:
        """The text of every piece by id, "▁" being a space: reserved ids, user symbols, bytes, then the others."""
        texts: list[str] = self._processor.id_to_piece(list(range(self.vocabulary_size)))
        return texts

    def byte_ids(self) -> list[int]:
        """The ids of the pieces that are a byte each: what has no piece of its own is written with them."""
        return [id_ for id_, is_byte in enumerate(self._is_byte) if is_byte]

    def cover(self, piece: str) -> list[int]:
        """The ids of this model's pieces that the text of a piece, of another model for instance, is made of.

        Unlike encode it takes "▁" as it stands and puts no space in front. A character that has no piece, which encode
        would write as bytes, is left out.
        """
        return self._sampler.cover(piece) if piece else []

    @cached_property
    def _sampler(self) -> Sampler:
        return Sampler(self._processor)

    def encode_pieces(self, text: str) -> list[Piece]:
        """The pieces of encode(text), with spans in text itself, not in its normalised form."""
        normalized = normalize_with_offsets(text)
        mapping: _OffsetMapping = self._processor.encode(normalized.text, return_type="offset_mapping")
        pieces = self._pieces(mapping, normalized.text)
        spans = [normalized.span(piece.start, piece.end) for piece in pieces]
        return [piece._replace(start=start, end=end) for piece, (start, end) in zip(pieces, spans, strict=True)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids. PAD, BOS and EOS are silent; UNK and bytes that are no UTF-8 become U+FFFD.

        Raises IndexError for an id outside the vocabulary.
        """
        text: str = self._processor.decode(list(ids))
        return text

    def decode_pieces(self, ids: Sequence[int]) -> tuple[str, list[Piece]]:
        """decode(ids) and its pieces, one for each id, with spans in that text. Raises IndexError like decode."""
        mapping: _OffsetMapping = self._processor.decode(list(ids), return_type="offset_mapping")
        return mapping["text"], self._pieces(mapping, mapping["text"])

    def _pieces(self, mapping: "_OffsetMapping", text: str) -> list[Piece]:
        """Pieces with spans in text, from SentencePiece's own, which give a character to its last byte only."""
        pieces: list[Piece] = []
        character_end = 0
        rows = zip(mapping["ids"], mapping["pieces"], mapping["offsets"], strict=True)
        for id_, piece, (start, end) in reversed(list(rows)):
            if self._is_byte[id_]:
                end = character_end = end if end > start else character_end
            elif end - start > 1 and text[start] == " ":
                start += 1
            pieces.append(Piece(id_, piece, start, end))
        return pieces[::-1]


def train_subword(
    texts: Iterable[str],
    *,
    model_type: Literal["unigram", "bpe"],
    vocabulary_size: int,
    user_symbols: Sequence[str] = (),
    character_coverage: float = 0.9995,
    max_texts: int = 1_000_000,
    seed: int = 1,
) -> Subword:
    """Train a SentencePiece model (unigram: Kudo 2018; BPE: Sennrich et al. 2016) on the normalised texts.

    vocabulary_size counts the 4 reserved ids, the 256 bytes and the user symbols, each of which is always one piece and
    stands in text as written. Of more than max_texts texts a sample of that size, drawn with seed, is used.

    Raises TokenizerError if there is no text, a user symbol cannot be one, or the text does not allow that
    vocabulary_size; InvalidTextError if a text holds a lone surrogate.
    """
    _require_symbols(user_symbols)
    sample = _sample((normal for normal in map(normalize, texts) if normal), max_texts, random.Random(seed))
    if not sample:
        raise TokenizerError("there is nothing to train on: every text is empty")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocabulary_size,
            user_defined_symbols=list(user_symbols),
            character_coverage=character_coverage,
            byte_fallback=True,
            split_digits=True,
            pad_id=PAD,
            unk_id=UNK,
            bos_id=BOS,
            eos_id=EOS,
            unk_surface="\ufffd",
            normalization_rule_name="identity",  # normalize() is the only normaliser
            remove_extra_whitespaces=False,
            max_sentence_length=1 << 20,  # bytes; longer texts would be left out silently
            num_threads=4,  # fixed, because sums over threads round differently
            minloglevel=2,
        )
    except RuntimeError as error:
        raise TokenizerError(_training_message(str(error), vocabulary_size)) from error
    return Subword.from_bytes(model.getvalue())


def seed_sampling(seed: int) -> None:
    """Seed the generator that sample_batch draws from. It belongs to the process and is shared by all models."""
    _generator.seed(seed)


class TokenizerPair(NamedTuple):
    """The models of both sides of a checkpoint; with a joint vocabulary the same object twice."""

    source: Subword
    target: Subword

    def joint(self) -> bool:
        """Whether both sides share one vocabulary."""
        return self.source is self.target

    def files(self) -> dict[str, bytes]:
        """File name to content, as load_tokenizers reads them."""
        if self.joint():
            return {JOINT_FILE: self.source.to_bytes()}
        return {SOURCE_FILE: self.source.to_bytes(), TARGET_FILE: self.target.to_bytes()}


def load_tokenizers(folder: Path) -> TokenizerPair:
    """Read the model or the two models of a folder. Raises TokenizerError if they are absent, damaged or ambiguous."""
    present = {name for name in (JOINT_FILE, SOURCE_FILE, TARGET_FILE) if (folder / name).is_file()}
    if present == {JOINT_FILE}:
        joint = Subword.load(folder / JOINT_FILE)
        return TokenizerPair(joint, joint)
    if present == {SOURCE_FILE, TARGET_FILE}:
        return TokenizerPair(Subword.load(folder / SOURCE_FILE), Subword.load(folder / TARGET_FILE))
    raise TokenizerError(
        f"{folder}: holds {' and '.join(sorted(present)) or 'no tokenizer'}, "
        f"but has to hold either {JOINT_FILE} or both {SOURCE_FILE} and {TARGET_FILE}"
    )


class _OffsetMapping(TypedDict):
    """What SentencePiece returns for return_type="offset_mapping"; text only when decoding."""

    text: str
    ids: list[int]
    pieces: list[str]
    offsets: list[tuple[int, int]]


def _require_reserved_ids(processor: sentencepiece.SentencePieceProcessor) -> None:
    found = (processor.pad_id(), processor.unk_id(), processor.bos_id(), processor.eos_id())
    if found != (PAD, UNK, BOS, EOS):
        raise TokenizerError(f"pad, unk, bos and eos are {found}, but have to be {(PAD, UNK, BOS, EOS)}")
    if sum(_byte_table(processor)) != BYTES:
        raise TokenizerError("the model has no byte pieces: train it with byte fallback")


def _byte_table(processor: sentencepiece.SentencePieceProcessor) -> list[bool]:
    return processor.is_byte(list(range(processor.get_piece_size())))


def _require_symbols(symbols: Sequence[str]) -> None:
    for symbol in symbols:
        if not symbol or " " in symbol or normalize(symbol) != symbol:
            raise TokenizerError(f"user symbol {symbol!r} has to be normalised text without white space")
        if symbol in ("<pad>", "<unk>", "<s>", "</s>") or re.fullmatch("<0x[0-9A-F]{2}>", symbol):
            raise TokenizerError(f"user symbol {symbol!r} is the name of a reserved piece")
    if len(set(symbols)) < len(symbols):
        raise TokenizerError("a user symbol is given twice")


def _sample(texts: Iterator[str], size: int, generator: random.Random) -> list[str]:
    """At most size texts, each as likely as any other (reservoir sampling, Vitter 1985, algorithm R)."""
    sample: list[str] = []
    for count, text in enumerate(texts):
        if count < size:
            sample.append(text)
        elif (place := generator.randrange(count + 1)) < size:
            sample[place] = text
    return sample


def _training_message(error: str, vocabulary_size: int) -> str:
    if found := re.search(r"value <= (\d+)", error):
        return f"a vocabulary_size of {vocabulary_size} is too large for this text: it allows at most {found[1]}"
    if found := re.search(r"(\d+) vs (\d+)", error):
        return f"a vocabulary_size of {vocabulary_size} is too small for this text: it needs at least {found[2]}"
    return f"SentencePiece could not train: {error}"
