"""A Transformer-tiny trained by OpenNMT-py on the pieces of a checkpoint's tokenizer, as a CTranslate2 model.

Sizes and regularisation are those of the Transformer-tiny that is published for Multi30k: 4 + 4 layers of 128,
feed-forward 256, 4 heads, one table of embeddings, dropout 0.3, label smoothing 0.1, the mean of the last ten
checkpoints. So is its optimisation, Adam after 2,000 steps of warm-up, but for batches of 2,048 tokens instead of 4,096
and a rate that is smaller by the root of two: on a processor, time counts, and smaller batches learn more in it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

WIDTH, WARM_UP, HIGHEST_RATE = 128, 2000, 0.0035
AVERAGED = 10


def train(
    bin_folder: Path, folder: Path, pairs: Iterable[tuple[Sequence[str], Sequence[str]]], *, steps: int, threads: int
) -> Path:
    """Train in ``folder`` with the commands in ``bin_folder``, unless that has been done; returns the model's folder.

    Raises CalledProcessError.
    """
    converted = folder / "ctranslate2"
    if converted.exists():
        return converted
    folder.mkdir(parents=True, exist_ok=True)
    _write_text(folder, pairs)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "CUDA_VISIBLE_DEVICES": "",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",  # OpenNMT-py keeps its options beside the weights, as objects
    }
    options = _options(folder, steps)
    (folder / "train.yaml").write_text("".join(f"{key}: {value}\n" for key, value in options.items()))
    if not (folder / f"model_step_{steps}.pt").exists():
        with (folder / "train.log").open("w") as log:
            command = [bin_folder / "onmt_train", "-config", folder / "train.yaml"]
            subprocess.run(command, env=environment, stdout=log, stderr=log, check=True)
    every = steps // (2 * AVERAGED)
    models = [folder / f"model_step_{step}.pt" for step in range(steps - every * (AVERAGED - 1), steps + 1, every)]
    averaged = folder / "averaged.pt"
    subprocess.run(
        [bin_folder / "onmt_average_models", "-models", *models, "-output", averaged], env=environment, check=True
    )
    convert = [
        bin_folder / "python",
        Path(__file__).with_name("opennmt_converter.py"),
        "--model_path",
        averaged,
        "--output_dir",
        converted,
    ]
    subprocess.run(convert, env=environment, check=True)
    return converted


def _options(folder: Path, steps: int) -> dict[str, object]:
    return {
        "data": f"{{corpus: {{path_src: {folder}/source, path_tgt: {folder}/target}}}}",
        "src_vocab": f"{folder}/vocabulary",
        "share_vocab": "true",
        "save_model": f"{folder}/model",
        "encoder_type": "transformer",
        "decoder_type": "transformer",
        "position_encoding": "true",
        "self_attn_type": "scaled-dot",  # the kind that CTranslate2 converts
        "layers": 4,
        "heads": 4,
        "hidden_size": WIDTH,
        "word_vec_size": WIDTH,
        "transformer_ff": 256,
        "share_embeddings": "true",
        "share_decoder_embeddings": "true",
        "dropout": "[0.3]",
        "attention_dropout": "[0.1]",
        "label_smoothing": 0.1,
        "optim": "adam",
        "adam_beta2": 0.98,
        "decay_method": "noam",
        "warmup_steps": WARM_UP,
        # noam: rate * width^-0.5 * warmup^-0.5 at its height
        "learning_rate": HIGHEST_RATE * (WIDTH * WARM_UP) ** 0.5,
        "max_grad_norm": 0,
        "param_init": 0,
        "param_init_glorot": "true",
        "batch_type": "tokens",
        "normalization": "tokens",
        "batch_size": 2048,
        "bucket_size": 29000,
        "num_workers": 0,
        "train_steps": steps,
        "save_checkpoint_steps": steps // (2 * AVERAGED),
        "keep_checkpoint": AVERAGED,
        "report_every": 50,
        "seed": 1,
    }


def _write_text(folder: Path, pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> None:
    seen: dict[str, int] = {}
    with (folder / "source").open("w") as source, (folder / "target").open("w") as target:
        for sides in pairs:
            for file, pieces in zip((source, target), sides, strict=True):
                file.write(" ".join(pieces) + "\n")
                for piece in pieces:
                    seen[piece] = seen.get(piece, 0) + 1
    lines = (f"{piece}\t{count}\n" for piece, count in sorted(seen.items(), key=lambda item: -item[1]))
    (folder / "vocabulary").write_text("".join(lines))
