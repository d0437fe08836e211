# The newcomer's commands; `make help` lists them.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
ORACLE := .oracle
ORACLE_STAMP := $(ORACLE)/.set-up
RUNNER := .runner
RUNNER_STAMP := $(RUNNER)/.set-up
WORKERS ?= 2
CANDIDATES := $(or $(PYTHON),python3.11 python3 python3.12 python3.13 python3.14)

.DEFAULT_GOAL := help
.PHONY: help setup compare runner oracle oracle-table test test-slow test-oracle test-scale check bench docs docs-pictures release-check

help: ## List the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1@\2/p' $(MAKEFILE_LIST) | awk -F@ '{ printf "%-16s %s\n", $$1, $$2 }'

setup: $(STAMP) ## Install gcnet and what it needs into .venv (once; about 6 GB with a CUDA build of torch)

compare: $(STAMP) ## Set up, then train the same network with each block on generated scenes and compare them
	$(BIN)/gcnet compare

# The tests of a file run in one worker, which shares what they prepare; the longest files start first (tests/conftest.py).
test: $(STAMP) ## Set up, then run the quick tests, about 6 minutes (real images: set GCNET_DATA)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

test-slow: $(STAMP) ## Set up, then run the slow tests: trainings, processes, whole commands
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m slow --durations=25

runner: $(RUNNER_STAMP) ## Set up, then install onnxruntime without torch into .runner, for tests of the scripts of docs/deploy.md (once; 100 MB)

oracle: $(ORACLE_STAMP) ## Set up, then install the original code (mmdet, mmsegmentation, ...) into .oracle (once; 300 MB)

oracle-table: $(ORACLE_STAMP) ## Set up with the original code, then compare with it and write the tables of docs/original-code.md
	PYTHONPATH=tests $(BIN)/python -m oracle

test-oracle: $(ORACLE_STAMP) ## Set up with the original code, then run the slow tests that compare with it
	$(BIN)/python -m pytest -n $(WORKERS) -m oracle

test-scale: $(STAMP) ## Set up, then run the tests of thousands of cases (marked scale), which the others skip
	$(BIN)/python -m pytest -n $(WORKERS) -m scale

check: $(STAMP) ## Set up, then lint, formatting, types and the floors of the imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/ty check
	$(BIN)/lint-imports

bench: $(STAMP) ## Set up, then measure time and memory against mmcv and timm (about an hour, on a quiet machine)
	$(BIN)/python -m benchmarks

docs: $(STAMP) ## Set up, then build the documentation site in build/docs; warnings are errors
	$(BIN)/python -m docs.site

release-check: $(STAMP) ## Set up, then build and check the release, also in an empty environment (5.6 GB, removed afterwards)
	$(BIN)/python -m release.check

docs-pictures: $(STAMP) ## Set up, then draw the figures of docs/ from the recorded results
	$(BIN)/python -m docs.pictures

# A candidate must start, be new enough, and be able to make an environment with pip in it.
$(STAMP): pyproject.toml constraints.txt
	@python=; for candidate in $(CANDIDATES); do \
		if $$candidate -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			python=$$candidate; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "gcnet needs Python 3.11 or newer with its venv module; tried: $(CANDIDATES). Name another one: make setup PYTHON=/path/to/python" >&2; \
		exit 1; \
	fi; \
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $$python -m venv --clear $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Runs exported files without torch.
$(RUNNER_STAMP): $(STAMP) constraints.txt
	$(BIN)/python -m venv --clear $(RUNNER)
	$(RUNNER)/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt numpy onnxruntime pillow
	@touch $@

# The original code finds torch, torchvision, mmengine and OpenCV in .venv.
$(ORACLE_STAMP): $(STAMP) tests/oracle/requirements.txt
	$(BIN)/python -m venv --clear $(ORACLE)
	$(ORACLE)/bin/python -m pip install --disable-pip-version-check --no-deps --requirement tests/oracle/requirements.txt
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		>"$$($(ORACLE)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	@touch $@
