# Short names for the commands of the README; `make` alone runs nothing but this list.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)

.PHONY: help setup format lint test test-fast recipe runtime

help:
	@echo "make setup      create or refresh .venv"
	@echo "make format     ruff: imports and layout"
	@echo "make lint       ruff and mypy, as the tests run them"
	@echo "make test       everything: bash test/run.sh"
	@echo "make test-fast  lint and unit tests: bash test/run.sh --fast"
	@echo "make runtime    the C++ part, into runtime/build (kernels of quantised decoding)"
	@echo "make recipe     the main job: bash examples/mini/s0/run.sh"

setup:
	bash tools/setup_env.sh

format:
	$(PYTHON) -m ruff check --fix --select I .
	$(PYTHON) -m ruff format .

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

test:
	bash test/run.sh

test-fast:
	bash test/run.sh --fast

recipe:
	bash examples/mini/s0/run.sh

runtime:
	cmake -S runtime -B runtime/build -DOSUM_PYTHON=$$($(PYTHON) -c 'import sys; print(sys.executable)')
	cmake --build runtime/build --parallel 2
