# Every target sets itself up: a fresh machine needs python3 (3.11 or 3.12), pip and make, nothing else.
# Another Python: `make demo PYTHON=python3.12`. Once .venv exists, its Python is kept until you name another.

PYTHON ?= $(if $(and $(wildcard .venv/ready-py3*),$(wildcard .venv/bin/python)),.venv/bin/python,python3)
ARGS ?=
VERSION := $(or $(shell $(PYTHON) -c 'import sys; print("%d%d" % sys.version_info[:2])' 2>/dev/null),-missing)
PINS := requirements/py$(VERSION).txt
READY := .venv/ready-py$(VERSION)
BIN := .venv/bin
MAX_LINES := 500

# Some environments switch byte code off; every import of JAX would then take three times as long.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-browser lint bench audit faults pins clean

help: ## list the targets
	@echo "usage: make TARGET [PYTHON=python3.12] [ARGS='more options for the command']"
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## create .venv with the pinned packages (the other targets do this themselves)
	@echo ".venv is ready: $$($(BIN)/python --version)"

HOT := --data.limit-per-class 60 --objective.lambda-reg 0.001 --optimizer.later-learning-rate 0.8

demo: $(READY) ## train on a small stream of digits and explain what was forgotten; results in runs/demo
	@dir=runs/demo; n=1; while [ -e "$$dir" ] || [ -e "$$dir-hot" ]; do n=$$((n + 1)); dir=runs/demo-$$n; done; \
	$(BIN)/ntkcl demo --run-dir "$$dir" $(ARGS) && \
	for command in kernels gaps forecast advise report; do echo; echo "ntk-analysis $$command $$dir"; $(BIN)/ntk-analysis $$command "$$dir" || exit; done && \
	echo && echo "And a run that forgets: 60 images of a class, a rate in later tasks that is too high" && \
	$(BIN)/ntkcl train digits --run-dir "$$dir-hot" $(HOT) && \
	echo && echo "ntk-analysis advise $$dir-hot --follow" && $(BIN)/ntk-analysis advise "$$dir-hot" --follow && \
	$(BIN)/ntk-analysis report "$$dir-hot" "$$dir-hot-advised"

# Two test processes keep both cores busy where one leaves a third idle while it compiles (33 s against 48 s for the
# same 61 CPU seconds); NumPy's own threads on top of that would only get in the way.
test test-slow: export OMP_NUM_THREADS = 1
test test-slow: export OPENBLAS_NUM_THREADS = 1

test: $(READY) ## run the tests and the examples in docstrings, without the slow ones
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow and not browser" $(ARGS)

test-slow: $(READY) ## run only the slow tests, then all others with the array shapes in all signatures checked
	$(BIN)/pytest -n 2 --dist loadfile -m slow $(ARGS)
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow and not browser" --shape-checks $(ARGS)

test-browser: $(READY) ## open the report in headless Chromium, which must be installed
	$(BIN)/pytest -m browser $(ARGS)

lint: $(READY) ## check style, types, import floors and file lengths
	@bad=0; \
	$(BIN)/ruff check || bad=1; \
	$(BIN)/ruff format --check || bad=1; \
	$(BIN)/ty check --python .venv || bad=1; \
	$(BIN)/lint-imports --no-logo || bad=1; \
	git ls-files -z --cached --others --exclude-standard '*.py' | xargs -0 wc -l | awk '$$2 != "total" && $$1 > $(MAX_LINES) \
	  { print $$2 ": " $$1 " lines, at most $(MAX_LINES) are allowed: split it"; bad = 1 } END { exit bad }' || bad=1; \
	exit $$bad

bench: $(READY) ## measure compiled programs on this machine; docs/performance.md has the other benchmarks
	$(BIN)/python -m experiments.bench $(ARGS)

audit: $(READY) ## look up known vulnerabilities of the pinned packages; needs the network
	$(BIN)/uv tool run pip-audit==2.10.1 --strict --requirement $(PINS) --no-deps --disable-pip

faults: $(READY) ## kill and hurt a small run in a hundred ways; each must end with the same bits
	$(BIN)/python -m experiments.faults $(ARGS)

pins: $(READY) ## resolve requirements/*.txt again from pyproject.toml
	for v in 11 12; do $(BIN)/uv pip compile pyproject.toml --extra analysis --group dev --python-version 3.$$v \
	  --upgrade --no-header --no-annotate --quiet --output-file requirements/py3$$v.txt || exit 1; done

clean: ## remove .venv and all caches; runs/ stays
	rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# No .venv for this Python yet: make one. Otherwise only pyproject.toml or the pins changed: bring it up to date.
$(READY): pyproject.toml $(PINS)
	@if [ ! -e $@ ]; then \
	  echo "Setting up .venv from $(PINS), once; this takes about a minute"; \
	  rm -rf .venv && $(PYTHON) -m venv --without-pip .venv && uv=$$(grep '^uv==' $(PINS)) && \
	  if $(PYTHON) -m pip --version >/dev/null 2>&1; then $(PYTHON) -m pip --python $(BIN)/python install --quiet "$$uv"; \
	  else $(BIN)/python -m ensurepip >/dev/null && $(BIN)/python -m pip install --quiet "$$uv"; fi; \
	fi
	@$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python $(PINS)
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	@touch $@

requirements/py%.txt:
	$(error Python 3.11 or 3.12 is needed, but '$(PYTHON)' is $(or $(shell $(PYTHON) --version 2>/dev/null),missing); \
	say for example: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12)
