# Two commands: `make run` and `make test`. Everything else is thin over `recsys`.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help run test test-long trust quality bench demo api lab docs explore export lint clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

run: $(STAMP)  ## set up, draw the sample shop, run the river on it, show the metrics
	@$(BIN)/recsys run sample --publish

test: $(STAMP)  ## every test, on the tiny shop
	$(BIN)/python -m pytest -m "not slow"

test-long: $(STAMP)  ## the tests that take longer, too
	$(BIN)/python -m pytest

trust: $(STAMP)  ## the figures about trust, measured again: kills, damage, dirty data, determinism (over an hour)
	$(BIN)/python benchmarks/determinism.py
	$(BIN)/python benchmarks/damage.py
	$(BIN)/python benchmarks/dirty_data.py
	$(BIN)/python benchmarks/kills.py

quality: $(STAMP)  ## the figures about quality, on the real data in RECSYS_REAL_DATA (over an hour)
	$(BIN)/python benchmarks/quality.py toys
	$(BIN)/python benchmarks/quality.py hm
	$(BIN)/python benchmarks/quality.py rr
	$(BIN)/python benchmarks/quality.py engines

bench: $(STAMP)  ## the figures about speed, each against its peer in the same run (some hours; leave the machine alone)
	$(BIN)/python benchmarks/river.py sample --record
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/als.py --record
	$(BIN)/python benchmarks/embedding.py
	$(BIN)/python benchmarks/towers.py --record
	$(BIN)/python benchmarks/topk.py --record
	$(BIN)/python benchmarks/evaluation.py --record
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/visitors.py --record
	for figure in start rate similar overload swap sigterm fuzz soak; do $(BIN)/python benchmarks/service.py $$figure --record || exit 1; done

demo: $(STAMP)  ## the demo, in a browser
	$(BIN)/recsys demo

api: $(STAMP)  ## the service, on http://127.0.0.1:8000
	$(BIN)/recsys api

lab: $(STAMP)  ## JupyterLab, in nbs/
	$(BIN)/jupyter lab nbs

docs: $(STAMP)  ## the docs site, from the notebooks as they are: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "look at it: $(BIN)/python -m http.server --bind 127.0.0.1 --directory site 8001"

export: $(STAMP)  ## notebooks -> recsys/, notebooks clean, README
	$(BIN)/nbdev-export
	$(BIN)/nbdev-clean
	$(BIN)/python -m jupyter nbconvert --to markdown --output-dir . --output README nbs/index.ipynb
	sed -i 's#(images/#(nbs/images/#' README.md

explore: $(STAMP)  ## the explore notebooks anew, as they show without a kernel (two_runs wants two runs of the sample)
	RECSYS_STILL=1 $(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.store_widget_state=False nbs/explore/*.ipynb
	$(BIN)/nbdev-clean

lint: $(STAMP)  ## ruff and the import rules
	$(BIN)/ruff check
	$(BIN)/lint-imports

clean:  ## remove what runs and tests made; raw data and .venv stay
	rm -rf runs/[!R]* runs/.store data/tiny data/sample .pytest_cache .ruff_cache .hypothesis
