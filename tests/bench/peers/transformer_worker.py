"""A converted model in CTranslate2 that translates pieces. Run by the Python of CTranslate2's environment.

python transformer_worker.py FOLDER COMPUTE_TYPE BEAM THREADS

A line of JSON comes in for each batch, a list of sentences in pieces; one goes out with its translations and seconds.
"""

from __future__ import annotations

import json
import sys
import time

import ctranslate2


def main() -> None:
    folder, compute_type, beam, threads = sys.argv[1:]
    translator = ctranslate2.Translator(
        folder, device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=int(threads)
    )
    print(json.dumps(f"CTranslate2 {ctranslate2.__version__}, {translator.compute_type}"), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        results = translator.translate_batch(json.loads(line), beam_size=int(beam), max_batch_size=0)
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "pieces": [result.hypotheses[0] for result in results]}), flush=True)


if __name__ == "__main__":
    main()
