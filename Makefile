# Two commands do everything, set-up included: `make nano` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Neighbours run in one process, which makes what they share once; the others take over from the end.
# One process more than two cores have, since many tests wait for processes that they start.
TEST := $(BIN)/python -m pytest -n 3 --dist worksteal
# Inductor's code is no processor's own, so compiled steps are tested once.
NUMERICS := tests/optimizers --ignore tests/optimizers/engine/test_compiled.py tests/export/test_huggingface.py \
	$(addprefix tests/training/test_,accumulation.py cross_entropy.py curvature_estimates.py \
	document_attention.py label_sampler.py model.py trainer.py)

.PHONY: nano smoke test test-processors check clean

nano: $(INSTALLED)  ## tune and compare four optimizers on this machine (about 12 minutes, 2 cores)
	$(BIN)/optbench run nano

smoke: $(INSTALLED)  ## the same code with toy models, in seconds
	$(BIN)/optbench run nano --smoke

test: $(INSTALLED)  ## the whole test suite
	$(TEST)

test-processors: $(INSTALLED)  ## the numerics again, by the code and threads of other processors
	OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41 \
	$(TEST) -m "not slow" $(NUMERICS) tests/training/distributed/test_process_group.py
	OMP_NUM_THREADS=4 ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 \
	OMP_WAIT_POLICY=passive $(TEST) -m "not slow" $(NUMERICS)

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
