"""lm-evaluation-harness's side of `deno task check:lm-eval`.

Reads one JSON object from standard input: {"model": BACKEND, "model_args": {...}, "tasks": [...], "batch_size": N,
"limit": N or null, "num_fewshot": N, "work": FOLDER, "out": FOLDER}. A task is {"name": ..., "config": {...}}: its
configuration, on top of that of the installed task of the same name unless it has an "output_type" of its own. Writes
the harness's own results and samples files into "out", and prints the seconds that scoring took as JSON.
"""
import json
import os
import sys
import time

job = json.load(sys.stdin)

from lm_eval import simple_evaluate  # noqa: E402
from lm_eval.loggers import EvaluationTracker  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

installed = {}
if any("output_type" not in task["config"] for task in job["tasks"]):
    installed = TaskManager().task_index
for task in job["tasks"]:
    config = {"task": task["name"], **task["config"]}
    if "output_type" not in config:
        config["include"] = str(installed[task["name"]].yaml_path)
    # JSON is YAML.
    with open(os.path.join(job["work"], task["name"] + ".yaml"), "w", encoding="utf-8") as file:
        json.dump(config, file)

tracker = EvaluationTracker(output_path=job["out"])
start = time.perf_counter()
results = simple_evaluate(
    model=job["model"],
    model_args=job["model_args"],
    tasks=[task["name"] for task in job["tasks"]],
    task_manager=TaskManager(include_path=job["work"], include_defaults=False),
    num_fewshot=job["num_fewshot"] or None,
    batch_size=job["batch_size"],
    device="cpu",
    limit=job["limit"],
    log_samples=True,
    evaluation_tracker=tracker,
)
seconds = time.perf_counter() - start
samples = results.pop("samples")
tracker.save_results_aggregated(results=results, samples=samples)
for name in results["configs"]:
    tracker.save_results_samples(task_name=name, samples=samples[name])
print(json.dumps({"seconds": seconds}))
