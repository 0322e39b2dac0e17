"""Validation during a run: loss by teacher forcing and BLEU by greedy search, on the dev pairs."""

from __future__ import annotations

from typing import NamedTuple

import sacrebleu
import torch

from model.config import LengthLimit
from model.search import SearchOptions, translate
from model.seq2seq import Seq2Seq
from tokenizer.subword import Subword
from training.batching import ordered_batches
from training.corpus import Corpus
from training.device import Device
from training.objective import smoothed_cross_entropy


class Validation(NamedTuple):
    """Figures of one validation."""

    loss: float  # negative log-likelihood a target piece, nats
    bleu: float  # sacreBLEU, cased, greedy
    samples: list[tuple[str, str, str]]  # source, reference, hypothesis


class Validator:
    """The dev pairs, ready to be scored again and again."""

    def __init__(self, corpus: Corpus, source: Subword, target: Subword, batch_tokens: int) -> None:
        self.corpus, self.target, self.batch_tokens = corpus, target, batch_tokens
        pairs = [corpus.pair(index) for index in range(len(corpus))]
        self.sources = [pieces.tolist() for pieces, _ in pairs]
        self.source_texts = [source.decode(pieces) for pieces in self.sources]
        self.references = [target.decode(pieces.tolist()) for _, pieces in pairs]

    def validate(self, model: Seq2Seq, length_limit: LengthLimit, device: Device, samples: int) -> Validation:
        """Score ``model``, which is left in evaluation mode."""
        model.eval()
        loss = self._loss(model, device)
        found = translate(model, self.sources, SearchOptions(beam_size=1), length_limit)
        hypotheses = [self.target.decode(best.pieces) for best, *_ in found]
        bleu = sacrebleu.corpus_bleu(hypotheses, [self.references]).score
        shown = range(0, len(hypotheses), max(1, len(hypotheses) // max(1, samples)))[:samples]
        table = [(self.source_texts[index], self.references[index], hypotheses[index]) for index in shown]
        return Validation(loss, bleu, table)

    @torch.inference_mode()
    def _loss(self, model: Seq2Seq, device: Device) -> float:
        total, positions, config = 0.0, 0, model.config
        batches = ordered_batches(self.corpus, self.batch_tokens, pad=config.pad, bos=config.bos, eos=config.eos)
        for batch in batches:
            source, lengths, target_input, target_output = (part.to(device.name) for part in batch)
            with device.autocast():
                features = model(source, lengths, target_input)
            loss = smoothed_cross_entropy(
                features, model.output_weight(), model.output_bias, target_output, smoothing=0.0, pad=config.pad
            )
            total, positions = total + float(loss.likelihood), positions + loss.positions
        return total / positions
