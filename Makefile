# Ferry. `make` alone lists the targets; each does its own set-up and needs only CPython >= 3.11 with venv.

PYTHON ?= python3
HOST   ?= 127.0.0.1
PORT   ?= 8000

VENV   := .venv
BIN    := $(VENV)/bin
ROOMS  := app model tokenizer training
LOCKED := pyproject.toml constraints.txt

# A stamp is touched only after its install succeeded, so a broken install is made again.
VENV_STAMP   := $(VENV)/.stamp-venv
SERVE_STAMP  := $(VENV)/.stamp-serve
DEV_STAMP    := $(VENV)/.stamp-dev
NATIVE_STAMP := $(VENV)/.stamp-native
NATIVE       := $(wildcard model/native/*.cpp model/native/*.h model/native/build.py)

.DEFAULT_GOAL := help
.PHONY: help serve install test lint types lock clean
.DELETE_ON_ERROR:

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-8s %s\n", $$1, $$2}'

serve: $(SERVE_STAMP) $(NATIVE_STAMP) ## serve the bundled checkpoints on 127.0.0.1:8000 (HOST=..., PORT=...)
	@exec $(BIN)/ferry serve --host $(HOST) --port $(PORT)

install: $(DEV_STAMP) $(NATIVE_STAMP) ## install ferry and ferry-train with everything to train and to develop

test: lint types $(DEV_STAMP) $(NATIVE_STAMP) ## lint, types, import rules and the tests with coverage
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --cov --cov-report=term

lint: $(DEV_STAMP) ## ruff (rules and format) and the import rules between the rooms
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/lint-imports

types: $(DEV_STAMP) ## mypy --strict on the four packages
	$(BIN)/python -m mypy --strict $(addprefix --package ,$(ROOMS))

lock: $(DEV_STAMP) ## make constraints.txt anew from pyproject.toml
	$(BIN)/python .ci/lock.py > constraints.txt.new
	mv constraints.txt.new constraints.txt

clean: ## remove the virtual environment, caches and builds (not runs/)
	rm -rf $(VENV) model/native/*.so build dist *.egg-info .coverage .coverage.* htmlcov .*_cache .hypothesis tests/.artifacts
	find $(ROOMS) tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(VENV_STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
	  "Ferry needs Python 3.11 or newer and $(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(SERVE_STAMP): $(VENV_STAMP) $(LOCKED)
	@echo 'Installing into $(VENV), which takes a few minutes the first time.'
	$(BIN)/python -m pip install --quiet --editable . --constraint constraints.txt
	@touch $@

$(DEV_STAMP): $(VENV_STAMP) $(LOCKED)
	@echo 'Installing into $(VENV), which takes a few minutes the first time.'
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	@touch $@ $(SERVE_STAMP)

# Not needed, but faster: a machine without a compiler, or with one that fails, translates in plain torch.
$(NATIVE_STAMP): $(SERVE_STAMP) $(NATIVE)
	@if command -v $${CXX:-c++} >/dev/null; then \
	  echo 'Compiling the operators, which takes half a minute.'; $(BIN)/python -m model.native.build || \
	  echo 'The operators could not be compiled; translation is slower without them.' >&2; \
	else echo 'There is no C++ compiler (g++), so the operators are not compiled; translation is slower without them.' >&2; fi
	@touch $@
