# `make demo` and `make test` need Python 3.10 or later and nothing else: each makes the environment that it uses.

PYTHON ?= python3
VENV ?= .venv
CACHE ?= .cache
BIN := $(VENV)/bin
PACKAGE := $(VENV)/.package
STAMP := $(VENV)/.dependencies

.PHONY: help install style quality test test-all test-floors test-torch test-wheel demo bench clean

help:
	@echo "make demo         a real recording to codes and back, with a report page (AUDIO=file for your own)"
	@echo "make test         the tests: CPU, offline, a few minutes"
	@echo "make test-all     the slow ones, too"
	@echo "make test-floors  the tests against the oldest supported dependencies"
	@echo "make test-torch   the tests that tell most against several releases of torch: gigabytes to download (TORCH=2.15.0 for one)"
	@echo "make test-wheel   the built wheel alone: import and command line"
	@echo "make quality      ruff and mypy;  make style  reformats"
	@echo "make bench        the benchmarks, half an hour on a quiet machine (AUDIO=file or folder for your own)"

$(PACKAGE): pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || \
		{ echo "wavtokenizer-hf needs Python 3.10 or later; $(PYTHON) is older. Try: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	@touch $(PACKAGE)

$(STAMP): $(PACKAGE)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $(STAMP)

install: $(STAMP)
	@$(BIN)/python -m tests.conformance.fetch

style: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quality: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A file of tests stays in one process, so that what its tests share is made once.
PARALLEL := --numprocesses auto --dist loadfile

test: install
	$(BIN)/python -m pytest $(PARALLEL)

test-all: install
	$(BIN)/python -m pytest $(PARALLEL) -m "not gpu and not hub and not weights"

test-floors: install
	$(BIN)/python -m tests.conformance.floors $(PARALLEL) tests/unit tests/property tests/conformance tests/integration --ignore tests/integration/test_distributed.py

test-torch: install
	$(BIN)/python -m tests.conformance.torches $(TORCH)

test-wheel: install
	rm -rf $(CACHE)/wheel && $(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir $(CACHE)/wheel .
	$(BIN)/python -m pip install --quiet --no-deps --target $(CACHE)/wheel/site $(CACHE)/wheel/*.whl
	cd $(CACHE)/wheel && PYTHONPATH=$$PWD/site PYTHONSAFEPATH=1 $(abspath $(BIN))/python -c \
		"import wavtokenizer_hf, os; assert os.path.realpath(wavtokenizer_hf.__file__).startswith(os.path.realpath('site')); print('imported from the wheel')"
	cd $(CACHE)/wheel && PYTHONPATH=$$PWD/site $(abspath $(BIN))/python site/bin/wavtokenizer --help
	cd $(CACHE)/wheel && PYTHONPATH=$$PWD/site $(abspath $(BIN))/python site/bin/wavtokenizer convert --help
	test -e $(CACHE)/wheel/site/wavtokenizer_hf/py.typed

# The package alone, as `pip install .` gives it.
demo: AUDIO ?= wavtokenizer_hf/conversion/LJ001-0002.flac
demo: $(PACKAGE)
	$(BIN)/python -m examples.demo $(AUDIO)

# Commands that need no data but the recordings in the repository.
bench: AUDIO ?= tests/golden/audio
bench: install
	$(BIN)/python -m benchmarks.speed --audio $(AUDIO)
	MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000 $(BIN)/python -m benchmarks.speed \
		--audio $(AUDIO) --seconds 10 30 60 --batch 0 --out benchmarks/results/speed_large_malloc.json
	$(BIN)/python -m benchmarks.long_audio --audio $(AUDIO)
	$(BIN)/python -m benchmarks.batch_exactness --audio $(AUDIO)
	$(BIN)/python -m benchmarks.loading
	$(BIN)/python -m benchmarks.nearest_code --audio $(AUDIO)
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.table

clean:
	rm -rf $(CACHE) build dist demo_output
