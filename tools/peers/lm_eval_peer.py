"""lm-evaluation-harness's side of `deno task check:lm-eval` and `deno task bench:eval`.

Reads one JSON object from the file that its argument names: {"pretrained": FOLDER, "tasks": [...], "batch_size": N,
"limit": N or null, "num_fewshot": N, "work": FOLDER, "out": FOLDER}. A task is {"name": ..., "config": {...}}: its
configuration, on top of that of the installed task of the same name unless it has an "output_type" or an "include" of
its own. A group is {"name": ..., "config": {"group": ...}}. Writes
the harness's own results and samples files into "out", and prints {"loadS": ..., "seconds": ..., "peakBytes":
...}: for loading the model, for everything after that, and the largest resident set of the process.
"""
import json
import os
import resource
import sys
import time

with open(sys.argv[1], encoding="utf-8") as file:
    job = json.load(file)

import lm_eval.tasks  # noqa: E402
from lm_eval import simple_evaluate  # noqa: E402
from lm_eval.api.registry import get_model  # noqa: E402
from lm_eval.loggers import EvaluationTracker  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

# Looking through the thousands of installed tasks would take longer than most runs.
INSTALLED = {
    "boolq": "super_glue/boolq/default.yaml",
    "piqa": "piqa/piqa.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "winogrande": "winogrande/default.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "wikitext": "wikitext/wikitext.yaml",
    "c4": "c4/c4.yaml",
}
for task in job["tasks"]:
    config = {**({} if "group" in task["config"] else {"task": task["name"]}), **task["config"]}
    if not {"output_type", "include", "group"} & config.keys():
        if task["name"] not in INSTALLED:
            sys.exit(f'{task["name"]} is no task of lm-evaluation-harness: choose from {", ".join(INSTALLED)}')
        config["include"] = os.path.join(os.path.dirname(lm_eval.tasks.__file__), INSTALLED[task["name"]])
    # JSON is YAML.
    with open(os.path.join(job["work"], task["name"] + ".yaml"), "w", encoding="utf-8") as file:
        json.dump(config, file)

members = {member for task in job["tasks"] if "group" in task["config"] for member in task["config"]["task"]}
start = time.perf_counter()
model = get_model("hf").create_from_arg_obj(
    {"pretrained": job["pretrained"], "dtype": "float32"}, {"batch_size": job["batch_size"], "device": "cpu"}
)
load_seconds = time.perf_counter() - start
tracker = EvaluationTracker(output_path=job["out"])
start = time.perf_counter()
results = simple_evaluate(
    model=model,
    tasks=[task["name"] for task in job["tasks"] if task["name"] not in members],
    task_manager=TaskManager(include_path=job["work"], include_defaults=False),
    num_fewshot=job["num_fewshot"] or None,
    limit=job["limit"],
    log_samples=True,
    evaluation_tracker=tracker,
)
seconds = time.perf_counter() - start
samples = results.pop("samples")
tracker.save_results_aggregated(results=results, samples=samples)
for name in results["configs"]:
    if name in samples:
        tracker.save_results_samples(task_name=name, samples=samples[name])
peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"loadS": load_seconds, "seconds": seconds, "peakBytes": peak_bytes}))
