# Two commands do everything, set-up included: `make nano` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: nano smoke test check clean

nano: $(INSTALLED)  ## tune and compare four optimizers on this machine (about 12 minutes, 2 cores)
	$(BIN)/optbench run nano

smoke: $(INSTALLED)  ## the same code with toy models, in seconds
	$(BIN)/optbench run nano --smoke

test: $(INSTALLED)  ## the whole test suite
	$(BIN)/python -m pytest -n 2

check: $(INSTALLED)  ## style, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e . --group dev
	touch $@
