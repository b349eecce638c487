"""PyTorch's side of `deno task bench:engine --peer torch`.

Prints {"versions": ...}; then reads one JSON line after the other and answers each with one: {"model": FOLDER, "tokens":
[...], "threads": N, "dtype": "float32", "device": "cpu"} loads the model and gives {}; {"work": "forward"} and {"work": "gradient"} give {"ms": ..., "value":
..., "maskGradient": ...}. The work is that of the other side: logits of all positions of one sequence, or the mean cross
entropy and its gradient to a mask per query head and FFN channel, in that dtype with scaled_dot_product_attention.
"""
import json
import sys
import time

import torch
import transformers

print(json.dumps({"versions": f"PyTorch {torch.__version__}, transformers {transformers.__version__}"}), flush=True)
setup = json.loads(sys.stdin.readline())
torch.set_num_threads(setup["threads"])
model = transformers.AutoModelForCausalLM.from_pretrained(
    setup["model"], dtype=getattr(torch, setup["dtype"]), attn_implementation="sdpa"
).eval().to(setup["device"])
model.requires_grad_(False)
tokens = torch.tensor([setup["tokens"]], device=model.device)
config = model.config
head_size = model.model.layers[0].self_attn.head_dim
masks = []


def scale_input(mask, repeat):
    def hook(_module, inputs):
        scale = mask.repeat_interleave(repeat) if repeat > 1 else mask
        return (inputs[0] * scale,)

    return hook


def gradient():
    loss = torch.nn.functional.cross_entropy(model(tokens).logits[0, :-1].float(), tokens[0, 1:])
    grads = torch.autograd.grad(loss, masks)
    return loss.item(), sum(g.float().abs().sum().item() for g in grads)


def forward():
    with torch.inference_mode():
        logits = model(tokens).logits
        return logits[0, -1].float().sum().item(), 0.0


print("{}", flush=True)
for line in sys.stdin:
    command = json.loads(line)["work"]
    if command == "gradient" and not masks:
        for layer in model.model.layers:
            like = {"requires_grad": True, "dtype": model.dtype, "device": model.device}
            heads = torch.ones(config.num_attention_heads, **like)
            channels = torch.ones(config.intermediate_size, **like)
            layer.self_attn.o_proj.register_forward_pre_hook(scale_input(heads, head_size))
            layer.mlp.down_proj.register_forward_pre_hook(scale_input(channels, 1))
            masks += [heads, channels]
    start = time.perf_counter()
    value, mask_gradient = forward() if command == "forward" else gradient()
    ms = (time.perf_counter() - start) * 1e3
    print(json.dumps({"ms": ms, "value": value, "maskGradient": mask_gradient}), flush=True)
