"""Draw dev accuracy over epochs: results.svg from results.csv, or one curve from each log.

    python results/plot.py                   # -> results/results.svg
    python distill.py mine.tsv | tee run.log
    python results/plot.py run.log           # -> run.log.svg

Needs matplotlib, which nothing else here does.
"""
import csv
import os
import re
import sys
from collections import defaultdict

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

FOLDER = os.path.dirname(os.path.abspath(__file__))
RUNS = {"hard": "hard labels", "original": "distilled, original rows",
        "transfer": "distilled, transfer set"}

curves = {}  # label -> for each epoch the accuracies of the seeds
output = os.path.join(FOLDER, "results.svg")
for path in sys.argv[1:]:
    output = path + ".svg"
    with open(path, encoding="utf-8") as f:
        accuracies = re.findall(r"^epoch .* dev acc (\S+)", f.read(), re.M)
    curves[path] = [[float(accuracy)] for accuracy in accuracies]
if not curves:
    accuracies = defaultdict(lambda: defaultdict(list))  # run -> epoch -> accuracies
    with open(os.path.join(FOLDER, "results.csv"), encoding="utf-8") as f:
        for line in csv.DictReader(f):
            if line["edition"] == "3" and line["run"] in RUNS:
                accuracies[line["run"]][int(line["epoch"])].append(float(line["dev_acc"]))
    for run, label in RUNS.items():
        curves[label] = [accuracies[run][epoch] for epoch in sorted(accuracies[run])]

plt.figure(figsize=(7, 4))
for label, epochs in curves.items():
    numbers = range(1, len(epochs) + 1)
    plt.plot(numbers, [100 * sum(seeds) / len(seeds) for seeds in epochs], label=label)
    plt.fill_between(numbers, [100 * min(seeds) for seeds in epochs],
                     [100 * max(seeds) for seeds in epochs], alpha=0.15)
plt.xlabel("epoch")
plt.ylabel("dev accuracy, %: mean and range of the seeds")
plt.legend()
plt.tight_layout()
plt.rcParams["svg.hashsalt"] = "0"  # with the date left out: the same bytes each time
plt.savefig(output, metadata={"Date": None})
print(f"wrote {output}")
