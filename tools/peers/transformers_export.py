"""transformers' side of `deno task check:export --peer transformers`.

First prints {"versions": ...}. Then reads one JSON line {"folder": ..., "texts": [...], "tokens": [...]} after the other and
answers each with {"kind": class of the model, "ids": token ids of every text, "logProbs": natural-log probability of
tokens[1:], each after those before it}, in float32.
"""
import json
import sys

import torch
import transformers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(2)
print(json.dumps({"versions": f"transformers {transformers.__version__}, torch {torch.__version__}"}), flush=True)
for line in sys.stdin:
    job = json.loads(line)
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["folder"])
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        job["folder"], dtype=torch.float32, output_loading_info=True
    )
    problems = {name: sorted(map(str, found)) for name, found in info.items() if found}
    if problems:
        raise SystemExit(f"{job['folder']} loads with {problems}")
    tokens = torch.tensor([job["tokens"]])
    with torch.inference_mode():
        scores = torch.log_softmax(model.eval()(tokens).logits[0, :-1].double(), -1)
    answer = {
        "kind": type(model).__name__,
        "ids": [tokenizer(text)["input_ids"] for text in job["texts"]],
        "logProbs": scores.gather(1, tokens[0, 1:, None])[:, 0].tolist(),
    }
    print(json.dumps(answer), flush=True)
