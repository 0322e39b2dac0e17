"""An LSTM encoder-decoder with random weights in OpenNMT-py, in float32. Run by the Python of OpenNMT-py's environment.

python opennmt_worker.py LAYERS WIDTH VOCABULARY BEAM INPUT_FEEDING THREADS
"""

from __future__ import annotations

import sys
from importlib.metadata import version

import pyonmttok
import torch
from onmt.decoders.decoder import InputFeedRNNDecoder, StdRNNDecoder
from onmt.encoders.rnn_encoder import RNNEncoder
from onmt.models.model import NMTModel
from onmt.modules import Embeddings
from onmt.translate import GNMTGlobalScorer
from onmt.translate.translator import Translator
from worker import serve

RESERVED = ["<blank>", "<unk>", "<s>", "</s>"]
PAD, EOS = 0, 3


def main() -> None:
    layers, width, vocabulary, beam, input_feeding, threads = map(int, sys.argv[1:])
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    words = pyonmttok.build_vocab_from_tokens(
        [*RESERVED, *(f"w{number}" for number in range(len(RESERVED), vocabulary))]
    )
    translator = Translator(
        model(layers, width, vocabulary, bool(input_feeding)),
        {"src": words, "tgt": words, "decoder_start_token": "<s>"},
        beam_size=beam,
        max_length_ratio=0,
        dump_beam="",
        global_scorer=GNMTGlobalScorer(alpha=0.0, beta=0.0, length_penalty="avg", coverage_penalty="none"),
    )

    def translate(batch: list[list[int]], length: int) -> int:
        translator.min_length = translator.max_length = length
        longest = max(map(len, batch)) + 1
        padded = [[*source, EOS] + [PAD] * (longest - 1 - len(source)) for source in batch]
        lengths = torch.tensor([len(source) + 1 for source in batch])
        found = translator.translate_batch({"src": torch.tensor(padded).unsqueeze(-1), "srclen": lengths}, False)
        return sum(len(hypotheses[0]) for hypotheses in found["predictions"])

    serve(translate, f"OpenNMT-py {version('OpenNMT-py')}, torch {torch.__version__}, float32")


def model(layers: int, width: int, vocabulary: int, input_feeding: bool) -> NMTModel:
    """As ``onmt_train`` would build it: bidirectional encoder, general attention, all embeddings shared."""
    embeddings = Embeddings(width, vocabulary, PAD)
    decoder_class = InputFeedRNNDecoder if input_feeding else StdRNNDecoder
    built = NMTModel(
        RNNEncoder("LSTM", True, layers, width, 0.0, embeddings),
        decoder_class("LSTM", True, layers, width, dropout=0.0, embeddings=embeddings),
    )
    built.generator = torch.nn.Linear(width, vocabulary)
    built.generator.weight = embeddings.word_lut.weight
    return built.eval()


if __name__ == "__main__":
    main()
