"""CTranslate2's converter of OpenNMT-py's models, let read the options that stand beside the weights as an object.

python opennmt_converter.py --model_path FILE --output_dir FOLDER    (by the Python of OpenNMT-py's environment)
"""

import argparse

import torch
from ctranslate2.converters.opennmt_py import main

if __name__ == "__main__":
    torch.serialization.add_safe_globals([argparse.Namespace])
    main()
