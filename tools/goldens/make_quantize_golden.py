"""Makes tests/golden/quantize.json: values and the blocks that ggml's reference stores them in.

    pip install gguf==0.19.0 && python3 tools/goldens/make_quantize_golden.py

The reference is the numpy code in PyPI's `gguf`. The first block has a scale of exactly 1 and values halfway between two
quants, the second is zero, the third is too small for an f16 scale; the others are of ordinary size.
"""

import base64
import json
import pathlib

import gguf
import numpy as np


def main():
    rng = np.random.default_rng(0)
    halves = np.arange(32) - 15.5
    halves[-1] = -127
    rows = [halves, np.zeros(32), rng.standard_normal(32) * 1e-7]
    rows += [rng.standard_normal(32) * scale for scale in (0.02, 1, 300)]
    values = np.array(rows, dtype=np.float32)
    blocks = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    golden = {
        "madeWith": "tools/goldens/make_quantize_golden.py, gguf 0.19.0",
        "Q8_0": {
            "values": base64.b64encode(values.tobytes()).decode(),
            "blocks": base64.b64encode(blocks.tobytes()).decode(),
        },
    }
    path = pathlib.Path(__file__).parents[2] / "tests" / "golden" / "quantize.json"
    path.write_text(json.dumps(golden, indent=2) + "\n")


main()
