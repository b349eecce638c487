"""PyTorch's side of `deno task bench:step --peer torch`.

Prints {"versions": ...}; then reads one JSON line after the other and answers each with one: {"model": FOLDER, "shared":
FILE, "batches": N, ...} loads weights, adapters, tokens and the teacher's targets and gives {}; {"step": I, "rate": R,
"maskRate": R} does one training step and gives {"crossEntropy", "distillation", "ms", "residentBytes"}; {"end": true}
gives {"peakBytes"}. The step is that of the other side: LoRA on all linear maps, a mask per FFN channel and key/value
group, cross entropy and divergence from the teacher's most probable tokens and the rest of the vocabulary as one more
category, clipping of the adapters' gradient, AdamW on adapters and masks, which are in float32; the model is in
`dtype`, with scaled_dot_product_attention.
"""
import json
import os
import resource
import sys
import time

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file

NAMES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def add_adapter(module, down, up, scale):
    module.register_forward_hook(lambda _module, inputs, out: out + (scale * ((inputs[0] @ down.to(out.dtype)) @ up.to(out.dtype))))


def scale_input(module, mask, repeat):
    module.register_forward_pre_hook(lambda _module, inputs: (inputs[0] * mask.repeat_interleave(repeat).to(inputs[0].dtype),))


class Side:
    def __init__(self, setup):
        torch.set_num_threads(setup["threads"])
        self.setup = setup
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            setup["model"], dtype=getattr(torch, setup["dtype"]), attn_implementation="sdpa"
        ).eval()
        self.model.requires_grad_(False)
        config = self.model.config
        shared = load_file(setup["shared"])
        self.adapters, self.masks = [], []
        for index, layer in enumerate(self.model.model.layers):
            # Masks first: adapters read the masked input, as they do on the other side.
            groups = torch.ones(config.num_key_value_heads, requires_grad=True)
            channels = torch.ones(config.intermediate_size, requires_grad=True)
            scale_input(layer.self_attn.o_proj, groups, layer.self_attn.o_proj.in_features // len(groups))
            scale_input(layer.mlp.down_proj, channels, 1)
            self.masks += [groups, channels]
            for name, path in NAMES.items():
                down, up = (shared[f"lora.{index}.{name}.{part}"].clone().requires_grad_() for part in ("down", "up"))
                add_adapter(layer.get_submodule(path), down, up, setup["scale"])
                self.adapters += [down, up]
        self.batches = [
            (
                shared[f"batch.{i}.tokens"].long(),
                shared[f"batch.{i}.ids"].long(),
                shared[f"batch.{i}.logProbs"],
            )
            for i in range(setup["batches"])
        ]
        self.adapter_step = torch.optim.AdamW(self.adapters, lr=1.0, betas=(0.9, 0.99), weight_decay=0)
        self.mask_step = torch.optim.AdamW(self.masks, lr=1.0, betas=(0.9, 0.95), weight_decay=0)

    def step(self, index, rate, mask_rate):
        tokens, ids, log_p = self.batches[index % len(self.batches)]
        self.adapter_step.zero_grad()
        self.mask_step.zero_grad()
        logits = self.model(tokens, use_cache=False).logits[:, :-1].flatten(0, 1).float()
        log_q = F.log_softmax(logits, dim=-1)
        cross_entropy = F.nll_loss(log_q, tokens[:, 1:].flatten())
        log_q = log_q.gather(1, ids)
        p, q = log_p.exp(), log_q.exp()
        rest = (1 - p.sum(1)).clamp(min=0)
        rest_q = (1 - q.sum(1)).clamp(min=1e-6)
        divergence = (p * (log_p - log_q)).sum(1) + rest * (rest / rest_q).clamp(min=1e-30).log()
        distillation = divergence.mean()
        (self.setup["crossEntropy"] * cross_entropy + self.setup["distillation"] * distillation).backward()
        torch.nn.utils.clip_grad_norm_(self.adapters, self.setup["clipNorm"])
        for optimizer, lr in ((self.adapter_step, rate), (self.mask_step, mask_rate)):
            optimizer.param_groups[0]["lr"] = lr
            optimizer.step()
        return cross_entropy.item(), distillation.item()


def resident_bytes():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


print(json.dumps({"versions": f"PyTorch {torch.__version__}, transformers {transformers.__version__}"}), flush=True)
side = None
for line in sys.stdin:
    question = json.loads(line)
    if "model" in question:
        side = Side(question)
        answer = {}
    elif "step" in question:
        start = time.perf_counter()
        cross_entropy, distillation = side.step(question["step"], question["rate"], question["maskRate"])
        answer = {
            "crossEntropy": cross_entropy,
            "distillation": distillation,
            "ms": (time.perf_counter() - start) * 1e3,
            "residentBytes": resident_bytes(),
        }
    else:
        answer = {"peakBytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    print(json.dumps(answer), flush=True)
