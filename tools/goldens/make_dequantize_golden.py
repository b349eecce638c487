"""Makes tests/golden/dequantize.json: blocks of every GGUF tensor type and what ggml's reference makes of them.

    pip install gguf==0.19.0 && python3 tools/goldens/make_dequantize_golden.py

The reference is the numpy code in PyPI's `gguf`. Blocks have random quants and scales of ordinary size; the first block
of each type has a negative scale, the last a subnormal one.
"""

import base64
import json
import pathlib

import gguf
import numpy as np

# Where the f16 scales are in a block, in bytes.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q6_K": [208]}
BLOCKS = 4


def blocks_of(name, rng):
    """Stored bytes of a few blocks, [BLOCKS, bytes of a block]."""
    if name in ("F32", "F16", "BF16"):
        values = np.concatenate([rng.standard_normal(28), [0.0, -0.0, 6e-8, -65504.0]]).astype(np.float32)
        if name == "BF16":
            return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(BLOCKS, -1)
        return values.astype(np.float32 if name == "F32" else np.float16).view(np.uint8).reshape(BLOCKS, -1)
    _, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    blocks = rng.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
    for at in SCALES[name]:
        scales = rng.uniform(0.001, 0.1, BLOCKS).astype(np.float16)
        scales[0] *= -1
        scales[-1] = 3e-7
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(BLOCKS, 2)
    return blocks


def main():
    rng = np.random.default_rng(0)
    golden = {"madeWith": "tools/goldens/make_dequantize_golden.py, gguf 0.19.0", "types": {}}
    for name in ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q6_K"]:
        blocks = blocks_of(name, rng)
        values = gguf.dequantize(blocks, gguf.GGMLQuantizationType[name]).astype(np.float32)
        golden["types"][name] = {
            "blocks": base64.b64encode(blocks.tobytes()).decode(),
            "values": base64.b64encode(values.tobytes()).decode(),
        }
    path = pathlib.Path(__file__).parents[2] / "tests" / "golden" / "dequantize.json"
    path.write_text(json.dumps(golden, indent=2) + "\n")


main()
