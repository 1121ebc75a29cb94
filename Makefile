# r1mega: the commands. ARGS="..." is passed on by demo, test and test-full.
SHELL := /bin/bash
PY := .venv/bin/python
# Two tests at a time: most wait for an import or for each other's ranks.
TWO := -n 2 --dist worksteal
.DEFAULT_GOAL := help
.PHONY: help install demo smoke test test-full test-slurm lint clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install:  ## make .venv and install the pins into it (seconds when all is there); EXTRA=gpu for CUDA
	@bash tools/install.sh

demo: install  ## all of R1 on two CPU cores: base, R1-Zero, four stages, reward models, two distilled students
	.venv/bin/r1mega run configs/toy/r1.toml $(ARGS)

smoke: install  ## the demo's stages in their smallest form, in a few minutes: does everything run here?
	.venv/bin/r1mega run configs/toy/r1.toml profile=smoke out=runs/smoke-r1 $(ARGS)

test: install  ## the tests, without the slow ones
	$(PY) -m pytest tests --ignore tests/slurm -m "not slow and not gpu" $(TWO) $(ARGS)

test-full: install  ## all tests but those that need a GPU
	$(PY) -m pytest tests --ignore tests/slurm -m "not gpu" $(TWO) $(ARGS)

test-slurm: install  ## all tests on a real Slurm, which it brings up here: as root, with packages from apt
	R1MEGA_TEST_SLURM=1 $(PY) -m pytest tests/slurm $(ARGS)

lint: install  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m mypy

clean:  ## remove caches and build leftovers; runs/ and .venv stay
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist *.egg-info
