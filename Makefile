# Two commands do everything: `make train` and `make test`. Each sets up .venv by itself the first time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: train test test-all test-oracles lint format types bench docs pictures site tensorboard clean

train: $(VENV)/.run  ## set up, run the main job, say where to look
	$(BIN)/python train.py $(ARGS)

test: $(VENV)/.dev  ## set up, run the fast tests
	@echo "the fast tests take about 10 minutes on two cores with nothing else to do"
	$(BIN)/python -m pytest $(ARGS)

test-all: $(VENV)/.all  ## every test, the long ones too
	$(BIN)/python -m pytest -m "" $(ARGS)

test-oracles: $(VENV)/.oracle  ## run other people's code again, and compare ours with it
	$(BIN)/python -m pytest -m "" tests/oracles tests/inspection/test_export.py $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev
	$(BIN)/mypy

bench: $(VENV)/.run  ## the quick measured comparisons, as ratios of both sides in one run; the others are in bench/
	$(BIN)/python bench/training_speed.py $(ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python bench/slots.py --rounds 41
	OMP_NUM_THREADS=1 $(BIN)/python bench/decoding.py --names multi_head gqa mla sliding_window linear gated_delta

docs: $(VENV)/.run  ## write docs/variants.md, docs/ledger.md and docs/card.md, the table of docs/interchange.md, the worked examples and the answers anew
	$(BIN)/python docs/variants.py
	$(BIN)/python -m docs.imports
	$(BIN)/python -m docs.ledger
	$(BIN)/python -m docs.card
	$(BIN)/python -m docs.worked_examples
	$(BIN)/python -m docs.answers

pictures: $(VENV)/.run  ## train a few variants shortly, and draw docs/maps anew
	$(BIN)/python -m docs.pictures

site: $(VENV)/.site  ## build all pages into site/, to be opened from there; some minutes, without a network
	$(BIN)/python -m docs.website site

tensorboard: $(VENV)/.run  ## look at every run
	$(BIN)/tensorboard --logdir runs --samples_per_plugin images=1000,attention=1000

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache

$(VENV)/.run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "attnlab needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(INSTALL) -e '.[dev]'
	@touch $@

$(VENV)/.all: $(VENV)/.dev
	$(INSTALL) -e '.[dev,ray,site]'
	@touch $@

$(VENV)/.site: $(VENV)/.run
	$(INSTALL) -e '.[site]'
	@touch $@

$(VENV)/.oracle: $(VENV)/.dev
	$(INSTALL) -e '.[oracle,views]'
	@touch $@
