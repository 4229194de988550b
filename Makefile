# `make demo` and `make test` need nothing but Python 3.10-3.13 and make.
PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/digits
PY := $(VENV)/bin/python

.PHONY: demo test test-slow lint docs test-tensorflow test-jax test-oldest clean

# Trains on handwritten digits, exports, serves the held-out digits in another process: see $(RUN)/report.md.
demo: $(VENV)/installed
	$(PY) -m experiments.train --config=experiments/recipes/digits.py --workdir=$(RUN)
	$(PY) -m tools.export_saved_model --workdir=$(RUN) --output=$(RUN)/serving --fold
	$(PY) -m tools.check_saved_model --workdir=$(RUN) --saved_model=$(RUN)/serving
	@echo "The report is $(RUN)/report.md"

test: lint test-tensorflow test-jax

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The pages of docs/, in build/site; python -m http.server --directory build/site shows them. A link or reference that leads
# nowhere fails.
docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build

PYTEST := $(PY) -m pytest -n auto --maxprocesses=4 --dist=worksteal --durations=15
test-tensorflow: $(VENV)/installed
	$(PYTEST) -m "not slow"

# On Keras' JAX backend: the vectors of other people's code, the outputs that TensorFlow gives, the sharded engine.
test-jax: $(VENV)/installed
	KERAS_BACKEND=jax $(PYTEST) -m "not slow" tests/coatnet_tf/test_layers.py tests/coatnet_tf/test_whole_network.py \
		tests/coatnet_tf/test_half_precision.py tests/jax_backend tests/experiments/test_tuning.py

# What takes long: whole runs, stopped and resumed; replicas; every runtime and kind of file; the documentation followed
# in processes; the oldest libraries that are allowed.
test-slow: $(VENV)/installed test-oldest
	$(PYTEST) -m slow
	KERAS_BACKEND=jax $(PYTEST) -m slow tests/jax_backend tests/experiments/test_nothing_lost.py \
		tests/experiments/test_tuning.py tests/experiments/test_balance.py tests/experiments/test_label_noise.py \
		tests/experiments/test_values.py tests/experiments/test_distillation.py
	KERAS_BACKEND=jax $(PYTEST) tests/coatnet_tf/test_model.py tests/coatnet_tf/test_fold.py::test_same_outputs_of_other_models \
		tests/coatnet_tf/test_imports.py::test_outputs_of_their_code tests/coatnet_tf/test_rivals.py::test_outputs_of_timm

# The library on the oldest TensorFlow and Keras that setup.cfg allows, in an environment of its own.
OLDEST := $(VENV)-oldest
test-oldest: $(OLDEST)/installed
	$(OLDEST)/bin/python -m pytest -q tests/coatnet_tf/test_layers.py tests/coatnet_tf/test_config.py \
		tests/coatnet_tf/test_model.py tests/coatnet_tf/test_whole_network.py

$(OLDEST)/installed: setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] > (3, 12))' || { \
		echo "The oldest TensorFlow needs Python 3.12 or older: make test-oldest PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet pytest \
		$$(sed -n 's/^ *\(tensorflow\|keras\)>=\([0-9.]*\)$$/\1==\2.*/p' setup.cfg)
	@touch $@

$(VENV)/installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "Python 3.10 to 3.13 is needed, and $(PYTHON) is another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) $(OLDEST) build *.egg-info
