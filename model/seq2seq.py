"""The model read top-down: embeddings, encoder, decoder, output; and decoding as pure functions over explicit state.

Training calls ``model(source, lengths, target_input)`` and ``model.logits(features)``. Search calls ``encode``,
``start``, ``step``; nothing is remembered in the module between calls, so any number of searches can share one model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import ModelConfig
from model.decoder import Decoder, Memory, State
from model.encoder import Bridge, Encoder, LockedDropout

Output: TypeAlias = Callable[[Tensor], Tensor]  # features (..., E) to logits (..., R) of R pieces


class Allowed(NamedTuple):
    """The pieces that may follow."""

    pieces: Tensor  # (R) int64, which the columns stand for
    output: Output  # to their logits
    penalty: Tensor  # (B, R) float32, added to them


class Ranking(NamedTuple):
    """How several steps of a search are ranked without it, in the terms of :mod:`model.search.extensions`."""

    costs: Tensor  # (B, J) float32, of hypotheses that all live: K, or one
    width: int  # hypotheses of a sentence after a step, K
    padded: int  # columns in whole chunks
    end: int  # the column of end-of-sentence
    barred: list[int]  # columns that extend no hypothesis
    alone: bool  # whether to stop after a step in which an end is among a sentence's best K
    allowed: Allowed | None = None  # all pieces without


class Seq2Seq(nn.Module):
    """LSTM encoder-decoder with attention (Bahdanau et al. 2015; Luong et al. 2015)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.target_embedding = nn.Embedding(config.target_vocabulary, config.embedding)
        if config.tied != "all":
            self.source_embedding = nn.Embedding(config.source_vocabulary, config.embedding)
        if config.tied == "none":
            self.output = nn.Linear(config.embedding, config.target_vocabulary, bias=False)
        self.output_bias = nn.Parameter(torch.zeros(config.target_vocabulary))
        self.encoder = Encoder(config)
        self.bridge = Bridge(config)
        self.decoder = Decoder(config)
        self.embedding_dropout = LockedDropout(config.embedding_dropout)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=config.embedding**-0.5)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if config.tied == "none":  # as a shared table begins: begun smaller, the model is slow to look at its source
            nn.init.normal_(self.output.weight, std=config.embedding**-0.5)

    def forward(self, source: Tensor, source_lengths: Tensor, target_input: Tensor) -> Tensor:
        """Teacher-forced features (B, T, E) of ``target_input`` (B, T) given ``source`` (B, S), all int64.

        ``source`` ends each sentence with end-of-sentence and is padded; ``target_input`` begins with
        begin-of-sentence. ``source_lengths`` (B) counts real positions.
        """
        features, _ = self.attend(source, source_lengths, target_input)
        return features

    def attend(self, source: Tensor, source_lengths: Tensor, target_input: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`forward`, with the attention weights (B, T, S)."""
        memory = self.encode(source, source_lengths)
        embedded = self._embed(self.target_embedding, target_input)
        features, weights = self.decoder(embedded, Seq2Seq.start(self, memory), memory)
        return features.transpose(0, 1), weights

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.output_bias.device

    def logits(self, features: Tensor) -> Tensor:
        """Unnormalised log-probabilities (..., V) of features (..., E)."""
        return functional.linear(features, self.output_weight(), self.output_bias)

    def output_weight(self) -> Tensor:
        """Output embeddings (V, E), shared with the target's unless ``tied: none``."""
        table = self.target_embedding if self.config.tied != "none" else self.output
        weight: Tensor = table.weight
        return weight

    def encode(self, source: Tensor, source_lengths: Tensor) -> Memory:
        """Memory of ``source`` (B, S) int64: encoder outputs and their attention keys, computed once."""
        outputs = self.encoder_outputs(source, source_lengths)
        mask = torch.arange(source.shape[1], device=source.device) < source_lengths.unsqueeze(1)  # (B, S)
        return Memory(self.decoder.attention.project(outputs), outputs, mask)

    def encoder_outputs(self, source: Tensor, source_lengths: Tensor) -> Tensor:
        """What the encoder makes (B, S, H) of ``source`` (B, S) int64: the annotations of Bahdanau et al. 2015."""
        table = self.target_embedding if self.config.tied == "all" else self.source_embedding
        outputs: Tensor = self.encoder(self._embed(table, source), source_lengths)
        return outputs.transpose(0, 1)

    def start(self, memory: Memory) -> State:
        """Decoder state before the first piece, one row a sentence; ``select`` repeats it for a beam."""
        cells = self.bridge(memory.values, memory.mask)
        config = self.config
        feed = memory.values.new_zeros(memory.mask.shape[0], config.embedding) if config.input_feeding else None
        return State(cells, feed)

    def rows(self, pieces: Tensor) -> Output:
        """The output for ``pieces`` (R) int64 alone, whose rows of the matrix it copies; :meth:`step` takes it."""
        return partial(functional.linear, weight=self.output_weight()[pieces], bias=self.output_bias[pieces])

    def step(self, state: State, token: Tensor, memory: Memory, output: Output | None = None) -> tuple[Tensor, State]:
        """Logits (N, V) of the piece after ``token`` (N) int64, and the next state; the caller may overwrite both.

        N is a multiple of the sentences of ``memory``; the rows of one sentence stand together. With an ``output`` of
        :meth:`rows` the logits are (N, R), of its pieces.
        """
        embedded = self._scale(self.target_embedding(token))
        features, state, _ = self.decoder.step(embedded, state, memory)
        return (output or self.logits)(features), state

    @property
    def strides(self) -> bool:
        """Whether there is :meth:`stride`."""
        return False

    def stride(self, state: State, token: Tensor, memory: Memory, ranking: Ranking, most: int) -> tuple[Tensor, State]:
        """Up to ``most`` steps of a search in one call: keys (S, B, 2K) of each step, and the state after the last.

        Between two steps every hypothesis becomes its best extension.
        """
        raise NotImplementedError("the model takes one step at a time; strides says so")

    def _embed(self, table: nn.Module, ids: Tensor) -> Tensor:
        """Time-major embeddings (T, B, E) of ids (B, T), with dropout of words and of units."""
        embedded = self._scale(table(ids.t()))
        if self.training and self.config.word_dropout:
            embedded = embedded * word_mask(ids.t(), self.config.word_dropout).unsqueeze(-1).to(embedded.dtype)
        dropped: Tensor = self.embedding_dropout(embedded)
        return dropped

    def _scale(self, embedded: Tensor) -> Tensor:
        """Tied tables serve as output weights of norm 1; as inputs they are scaled to unit variance."""
        return embedded * math.sqrt(self.config.embedding)


def word_mask(ids: Tensor, probability: float) -> Tensor:
    """Word dropout (Gal & Ghahramani 2016, section 4.2): factors (T, B), float32, for the embeddings of ids (T, B).

    What is dropped is a piece of the vocabulary, so that it vanishes from all its places in a sentence or from none;
    what stays is divided by the share kept, as in any dropout. Each sentence draws for itself.
    """
    same = (ids.unsqueeze(0) == ids.unsqueeze(1)).byte()  # (T, T, B); argmax knows no bool
    first = same.argmax(dim=0)  # (T, B): one place that stands for all those of the same piece
    kept = torch.rand(ids.shape, device=ids.device).gather(0, first) >= probability
    return kept / (1 - probability)
