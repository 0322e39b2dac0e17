"""Time of one recurrent layer, forwards and back, for each cell beside the fused LSTM.

python -m tests.bench.bench_cells                                       # 512 x 512, 18 positions, 160 rows
python -m tests.bench.bench_cells --hidden 256 --cells lstm,ssru
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from model.cells import CELLS, RecurrentLayer, build_cell
from tests.bench import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=512, help="width of inputs and outputs")
    parser.add_argument("--positions", type=int, default=18)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--cells", default=",".join(CELLS), help="names, separated by commas")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    width, positions = arguments.hidden, arguments.positions * arguments.rows
    sequence = torch.randn(arguments.positions, arguments.rows, width, requires_grad=True)
    gradient = torch.randn(arguments.positions, arguments.rows, width)
    rate = machine.matrix_rate(positions, width, 4 * width)
    print(machine.describe(), machine.load(), sep=", ")
    print(f"one layer of {width} x {width}, {arguments.positions} positions, {arguments.rows} rows, forwards and back")
    print("float32; layer: as trained; loop: step by step, autograd; floor: matrix products alone, at the rate of one")
    fused = measured(build_cell("lstm", width, width), sequence, gradient, arguments.repeats)
    for kind in arguments.cells.split(","):
        layer = build_cell(kind, width, width)
        timing = measured(layer, sequence, gradient, arguments.repeats)
        loop = machine.measure(lambda layer=layer: stepped(layer, sequence).backward(gradient), arguments.repeats)
        # A product's gradient takes two products of the same size.
        needed = 3 * 2 * positions * matrix_weights(layer)
        print(
            f"{kind:15} {sum(weight.numel() for weight in layer.parameters()):>9,} parameters; "
            f"layer: {timing}, {timing.median / fused.median:.2f} of the LSTM's; loop: {loop.median * 1e3:.1f} ms; "
            f"floor: {needed / rate * 1e3:.1f} ms, {needed / rate / timing.median:.0%} reached"
        )


def measured(layer: RecurrentLayer, sequence: Tensor, gradient: Tensor, repeats: int) -> machine.Timing:
    """Time of one pass of the layer over ``sequence`` (T, N, I) and back from ``gradient`` (T, N, H)."""
    return machine.measure(lambda: layer(sequence, layer.start(sequence.shape[1]))[0].backward(gradient), repeats)


def stepped(layer: RecurrentLayer, sequence: Tensor) -> Tensor:
    """Outputs (T, N, H) by the loop that the layer's own pass saves."""
    state, outputs = layer.start(sequence.shape[1]), []
    for inputs in sequence:
        state = layer.step(inputs, state)
        outputs.append(state.hidden)
    return torch.stack(outputs)


def matrix_weights(layer: RecurrentLayer) -> int:
    """Each is one multiplication and one addition a position."""
    return sum(weight.numel() for name, weight in layer.named_parameters() if name.startswith("weight_"))


if __name__ == "__main__":
    main()
