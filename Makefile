# Everything runs in .venv, which is made and filled on first use and left alone until
# setup.cfg or pyproject.toml change. Needs Python 3.10 to 3.12 and make, nothing else.

SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10 python; do \
	$$p -c '$(SUPPORTED)' >/dev/null 2>&1 && { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
JOBS ?= 2

.PHONY: demo test lint bench clean
.DELETE_ON_ERROR:

$(STAMP): setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { \
		echo "reparam needs Python 3.10, 3.11 or 3.12; none was found. Try: make PYTHON=/path/to/python3.11" >&2; \
		exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all,dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/reparam demo

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

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
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
