# Everything runs in .venv, which is made and filled on first use and left alone until
# setup.cfg or pyproject.toml change. Needs Python 3.10 to 3.13 and make, nothing else.
# A Python that the ONNX converter has a wheel for is taken first: 3.13 is not one.

SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
CONVERTS := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
find = $(shell for p in python3 python3.12 python3.11 python3.10 python3.13 python; do \
	$$p -c '$(1)' >/dev/null 2>&1 && { echo $$p; break; }; done)
PYTHON ?= $(or $(call find,$(CONVERTS)),$(call find,$(SUPPORTED)))
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
JOBS ?= 2

.PHONY: demo test test-slow test-all lint bench clean
.DELETE_ON_ERROR:

$(STAMP): setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { \
		echo "reparam needs Python 3.10 to 3.13; none was found. Try: make PYTHON=/path/to/python3.11" >&2; \
		exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all,dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/reparam demo

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# The exhaustive sweeps that "make test" leaves out. Options: make test-slow ARGS="-k onnx_wheel -x"
test-slow: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m slow $(ARGS)

# One version after the other, each in an environment of its own: .venv-3.10 and so on.
test-all:
	tools/test_all_pythons.sh

# mypy and import-linter do not follow package_dir, so they look at an installed copy.
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/lint
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/lint .
	cd build/lint && $(abspath $(BIN))/mypy --config-file ../../setup.cfg -p reparam
	cd build/lint && PYTHONPATH=. $(abspath $(BIN))/lint-imports --no-logo --config ../../setup.cfg

bench: $(STAMP)
	$(BIN)/python -m benchmarks.full_size

clean:
	rm -rf $(VENV) .venv-3.* build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
