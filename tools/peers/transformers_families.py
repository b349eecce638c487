"""transformers' side of `deno task check:families`.

First prints {"versions": ...}. Then reads one JSON line after the other. {"make": config.json, "folder": ..., "dtype": ...,
"shardBytes": ..., "tokens": [...]} makes a model with random weights of every kind and saves it. {"folder": ..., "tokens":
[...]} loads one. Both answer {"kind": class of the model, "logits": [T][V]} of the model in the folder, loaded in float32.
"""
import json
import sys

import torch
import transformers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(2)


def make(job):
    config = dict(job["make"])
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(config.pop("model_type"), **config), attn_implementation="eager"
    )
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "norm" in name:
                weight.add_(0.2 * noise)
            elif name.endswith(".bias"):
                weight.copy_(0.2 * noise)
            elif "embed" in name or "lm_head" in name:
                weight.copy_(0.3 * noise)
            else:
                weight.copy_(noise / weight.shape[1] ** 0.5)
    model.to(getattr(torch, job["dtype"])).save_pretrained(job["folder"], max_shard_size=job["shardBytes"])


print(json.dumps({"versions": f"transformers {transformers.__version__}, torch {torch.__version__}"}), flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if "make" in job:
        make(job)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        job["folder"], dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    problems = {name: sorted(map(str, found)) for name, found in info.items() if found}
    if problems:
        raise SystemExit(f"{job['folder']} loads with {problems}")
    with torch.inference_mode():
        logits = model.eval()(torch.tensor([job["tokens"]]), use_cache=False).logits[0]
    print(json.dumps({"kind": type(model).__name__, "logits": logits.tolist()}), flush=True)
