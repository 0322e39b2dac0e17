"""A Transformer with random weights in CTranslate2, in int8. Run by the Python of CTranslate2's environment.

python ctranslate2_worker.py LAYERS WIDTH HEADS FEED_FORWARD VOCABULARY BEAM THREADS
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import ctranslate2
import numpy as np
from ctranslate2.specs import TransformerSpec, attention_spec, common_spec
from worker import serve

RESERVED = ["<blank>", "<unk>", "<s>", "</s>"]


def main() -> None:
    layers, width, heads, feed_forward, vocabulary, beam, threads = map(int, sys.argv[1:])
    words = [*RESERVED, *(f"w{number}" for number in range(len(RESERVED), vocabulary))]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        save(transformer(layers, width, heads, feed_forward, words), folder)
        translator = ctranslate2.Translator(
            str(folder), device="cpu", compute_type="int8", inter_threads=1, intra_threads=threads
        )

    def translate(batch: list[list[int]], length: int) -> int:
        tokens = [[words[piece] for piece in source] for source in batch]
        lengths = {"min_decoding_length": length, "max_decoding_length": length}
        results = translator.translate_batch(tokens, beam_size=beam, max_batch_size=0, **lengths)
        return sum(len(result.hypotheses[0]) for result in results)

    serve(translate, f"CTranslate2 {ctranslate2.__version__}, {translator.compute_type}")


def transformer(layers: int, width: int, heads: int, feed_forward: int, words: list[str]) -> TransformerSpec:
    """The specification of a Transformer (Vaswani et al. 2017) with tied embeddings, its weights drawn at random."""
    draw = np.random.default_rng(1)

    def linear(spec: common_spec.LinearSpec, outputs: int, inputs: int) -> None:
        spec.weight = draw.normal(0.0, inputs**-0.5, (outputs, inputs)).astype(np.float32)
        spec.bias = np.zeros(outputs, np.float32)

    def norm(spec: common_spec.LayerNormSpec) -> None:
        spec.gamma, spec.beta = np.ones(width, np.float32), np.zeros(width, np.float32)

    def attention(spec: attention_spec.MultiHeadAttentionSpec) -> None:
        norm(spec.layer_norm)
        # Queries, keys and values of self-attention are one product; of cross-attention the keys and values are.
        parts = (3, 1) if len(spec.linear) == 2 else (1, 2, 1)
        for part, size in zip(spec.linear, parts, strict=True):
            linear(part, size * width, width)

    spec = TransformerSpec.from_config(layers, heads)
    embeddings = draw.normal(0.0, width**-0.5, (len(words), width)).astype(np.float32)
    for table in (*spec.encoder.embeddings, spec.decoder.embeddings, spec.decoder.projection):
        table.weight = embeddings
    for side in (spec.encoder, spec.decoder):
        norm(side.layer_norm)
        for layer in side.layer:
            attention(layer.self_attention)
            if side is spec.decoder:
                attention(layer.attention)
            norm(layer.ffn.layer_norm)
            linear(layer.ffn.linear_0, feed_forward, width)
            linear(layer.ffn.linear_1, width, feed_forward)
    spec.register_source_vocabulary(words)
    spec.register_target_vocabulary(words)
    spec.config.add_source_eos = True
    return spec


def save(spec: TransformerSpec, folder: Path) -> None:
    spec.validate()
    spec.optimize(quantization="int8")
    spec.save(str(folder))


if __name__ == "__main__":
    main()
