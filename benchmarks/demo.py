"""The demo: how far a small xLSTM gets on the Python library's source within minutes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from record import ROOT, record, require_green

from exlstm.train.metrics import read_metrics

require_green("tests/nn", "tests/train")
with tempfile.TemporaryDirectory() as folder:
    out = Path(folder) / "demo"
    subprocess.run(["make", "demo", f"DEMO_OUT={out}"], cwd=ROOT, check=True)
    lines = read_metrics(out / "metrics.jsonl")
    evaluated = subprocess.run(
        [".venv/bin/exlstm", "evaluate", str(out), "--context", "64", "256", "1024", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    shutil.copy(out / "loss.png", ROOT / "docs" / "images" / "demo.png")
    arguments = json.loads((out / "run.json").read_text())["arguments"]

makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
command = re.search(r"exlstm train .*", makefile)
assert command
whole_documents = json.loads(evaluated.stdout)["results"]
record(
    "demo",
    {
        "train_command": shlex.join(shlex.split(command[0])),
        "steps": lines[-1]["step"],
        "tokens": lines[-1]["step"] * arguments["batch_size"] * arguments["context"],
        "seconds": round(lines[-1]["elapsed"]),
        "bits_per_byte": round(lines[-1]["validation_bits_per_byte"], 3),
        "by_context": [
            {key: row[key] for key in ("context", "loss", "bits_per_byte", "num_bytes")}
            for row in whole_documents
        ],
    },
)
