# `make` lists the targets. Everything lives in .venv; delete that folder to undo it all.

PYTHON ?= python3.11

BIN   := .venv/bin
PIP   := $(BIN)/python -m pip --disable-pip-version-check
STAMP := .venv/.setup-done

.DEFAULT_GOAL := help
.PHONY: help setup setup-waymo demo test lint bench

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv with everything in it (PYTHON=... picks the interpreter)

# pip is quiet except for torch: about 3 GB of downloads deserve a progress bar.
$(STAMP): requirements.txt requirements-dev.txt constraints.txt pyproject.toml tools/install_detectron2.py
	@echo "[1/5] Virtual environment"
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv || { \
		echo "error: cannot make .venv with $(PYTHON). To mend it: install Python 3.11 with its venv" \
		     "module, or name another: make setup PYTHON=/path/to/python" >&2; exit 2; }
	@echo "[2/5] PyTorch (the largest part: about 3 GB to download, 6 GB on disk)"
	@$(PIP) install --constraint constraints.txt torch torchvision
	@echo "[3/5] Other requirements (a minute or two, silent)"
	@$(PIP) install --quiet --constraint constraints.txt -r requirements.txt -r requirements-dev.txt
	@echo "[4/5] Detectron2"
	@$(BIN)/python tools/install_detectron2.py
	@echo "[5/5] QIML, editable"
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
	@echo "Done. Next: make demo"

# Without dependencies: the package asks for TensorFlow, which its protocol buffers do not need.
setup-waymo: $(STAMP)  ## also install Waymo's protocol buffers, for its first release and for submissions
	@$(PIP) install --quiet --no-deps --requirement requirements-waymo.txt
	@$(BIN)/python -c "from qiml.data.waymo_protos import dataset_protos; dataset_protos()"
	@echo "Done. Next: $(BIN)/python tools/prepare_waymo.py --help"

demo: $(STAMP)  ## train and picture a small detector on synthetic data
	$(BIN)/python tools/quickstart.py

# Each test uses one thread; beyond some eight workers the longest test decides.
test: $(STAMP)  ## run the tests, a worker a core
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal

lint: $(STAMP)  ## check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

bench: $(STAMP)  ## measure speed and memory, and write docs/performance.md (some eight minutes)
	$(BIN)/python tools/benchmark.py --json docs/results/performance.json --page docs/performance.md
