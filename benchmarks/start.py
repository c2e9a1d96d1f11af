"""Time from a cold start to the first token: `python -m benchmarks.start`.

`ratchet chat --once` against a bare script that imports torch and transformers, loads the same
weights and generates one token. The two take turns; the model is converted and the database made
beforehand. Then the modules that take longest to import.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from benchmarks.results import keep, show, spread
from bot.engine.source import model_source
from examples.scratch import scratch_settings

ROUNDS = 5
QUESTION = "What is the capital of France?"
RATCHET = (sys.executable, "-c", "from bot.cli.main import main; main()")
BARE = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
text = tokenizer.apply_chat_template(
    [{"role": "user", "content": sys.argv[2]}], tokenize=False, add_generation_prompt=True
)
ids = tokenizer(text, return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=1)[0, ids.shape[1]:]), flush=True)
"""
SLOWEST = 12


def first_byte(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Return the seconds until a command writes to standard output."""
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read(1)
        seconds = time.perf_counter() - started
        process.stdout.read()
        process.wait(60)
    if not said or process.returncode:
        raise SystemExit(f"{' '.join(command[:4])} failed with exit code {process.returncode}")
    return seconds


def imports(environment: Mapping[str, str]) -> list[tuple[str, float]]:
    """Return the modules that take longest to import, their own imports included, in seconds."""
    command = [sys.executable, "-X", "importtime", "-c", "import bot.engine.local, bot.app"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    lines = re.findall(r"\|\s+(\d+) \| ( *)(\S+)", done.stderr)
    found = [(name, int(total) / 1e6) for total, indent, name in lines if len(indent) <= 4]
    return sorted(found, key=lambda each: -each[1])[:SLOWEST]


def main() -> None:
    """Measure, print, write `measured/start.json`."""
    with scratch_settings() as settings:
        source = str(model_source(settings.engine.model, settings.storage.models_path))
        once = [*RATCHET, "chat", "--once", QUESTION]
        commands = {
            "ratchet chat --once": once,
            "bare": [sys.executable, "-c", BARE, source, QUESTION],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(ROUNDS + 1):
            for name, command in commands.items():
                took = first_byte(command, os.environ)
                if number:  # the first round warms up the disk cache
                    seconds[name].append(took)
        slowest = imports(os.environ)
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    rows = [(name, spread(values)) for name, values in seconds.items()]
    show(("until the first token", "seconds"), [*rows, ("ratio", spread(ratios))])
    show(("import, cumulative", "seconds"), [(name, f"{took:.2f}") for name, took in slowest])
    keep("start", [{"name": name, "seconds": values} for name, values in seconds.items()])
    print(json.dumps({"ratio": sorted(ratios)[len(ratios) // 2]}))


if __name__ == "__main__":
    main()
