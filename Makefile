# make demo   set up, run the whole retrain through Airflow, promote, serve, ask   (SOURCE= DATA= MAPPING= MODEL= EPOCHS= PRIVACY=1 CONTENT=1)
# make test   set up, run all tests      make test-fast   unit tests only
# make demo-live   the simulated shop as it lives: events over HTTP, answers that follow, a retrain on just these
# make campaign   a campaign of the simulated shop: planned, sent to a webhook of this machine, answered, and what it brought beside other ways
# make up     Airflow's UI and the served model until Ctrl-C   (AIRFLOW_PORT= SERVE_PORT=)
# make bench  measure the artefact and its serving, half an hour   (DATA=)
# make bench-scale   the whole chain on 10^5 to 10^7 events, an hour      make kills   every stage killed at random moments, an hour
# make bench-read    10^7 rows of CSV beside Polars' own scan, and 10^5 tables written in any form and read back; an hour and a half
# make bench-marketing   marketing's decisions beside published figures and the truth of the simulated shop
# make bench-privacy     is what privacy promises so?      make bench-explain   are reasons true, and soon enough?
# make bench-online      events over HTTP: how many, how soon they are known, none lost
# make bench-content     what items look and read like, what customers are answered: an hour
# make sbom   what an installation is made of, as CycloneDX: reports/sbom.json
# make lint   ruff                       make clean       remove what runs left behind (keeps .venv)
# make lock   requirements.lock again from pyproject.toml  (UPGRADE=--upgrade for newer versions)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo demo-live campaign up test test-fast bench bench-scale bench-read bench-marketing bench-online bench-privacy bench-explain bench-content kills sbom lint lock clean setup
.DEFAULT_GOAL := demo

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@command -v git >/dev/null || { echo "error: git is not installed; install it and run make again"; exit 1; }
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed; install Python 3.11 or newer, or name one with PYTHON="; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $$($(PYTHON) --version) is too old; Pushcart needs 3.11 or newer (name one with PYTHON=)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) has no venv module; install it (Debian: python3-venv)"; exit 1; }
	@cmp -s requirements.lock $(VENV)/requirements.lock || { \
	  echo "setting up $(VENV) (a few minutes, once) ..."; \
	  rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/pip install -qq --disable-pip-version-check -r requirements.lock && cp requirements.lock $(VENV)/requirements.lock; }
	@printf '#!/bin/sh\n# Pushcart is a checkout: this runs its command line from wherever you are in it.\nhere=$$(CDPATH= cd -- "$$(dirname -- "$$0")/../.." && pwd)\nPYTHONPATH="$$here$${PYTHONPATH:+:$$PYTHONPATH}" exec "$$here/$(VENV)/bin/python" -m deploy.cli "$$@"\n' >$(BIN)/pushcart
	@chmod +x $(BIN)/pushcart
	@touch $(READY)

demo: $(READY)
	@$(BIN)/python demo.py $(if $(SOURCE),--source "$(SOURCE)") $(if $(DATA),--data "$(DATA)") $(if $(MAPPING),--mapping "$(MAPPING)") $(if $(MODEL),--model $(MODEL)) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(PRIVACY),--privacy) $(if $(CONTENT),--content)

demo-live: $(READY)
	@$(BIN)/python demo.py --live $(if $(VISITS),--visits $(VISITS))

campaign: $(READY)
	@$(BIN)/python -m benchmarks.campaign $(if $(CAMPAIGN),--campaign "$(CAMPAIGN)")

up: $(READY)
	@$(BIN)/pushcart up

# A file of tests stays with one process, as its tests share a server; two files run at a time.
test: test-fast
	$(BIN)/pytest -m e2e -n 2 --dist loadfile

test-fast: $(READY)
	$(BIN)/pytest -m "not e2e" -n 2

bench: $(READY)
	@$(BIN)/python -m benchmarks.serving $(if $(DATA),--data "$(DATA)")

bench-scale: $(READY)
	@$(BIN)/python -m benchmarks.scale

bench-read: $(READY)
	@$(BIN)/python -m benchmarks.read
	EXAMPLES=100000 $(BIN)/pytest -m e2e tests/pipelines/data/test_reading.py

bench-marketing: $(READY)
	@$(BIN)/python -m benchmarks.marketing

bench-online: $(READY)
	@$(BIN)/python -m benchmarks.online

bench-explain: $(READY)
	@$(BIN)/python -m benchmarks.explain

bench-content: $(READY)
	@$(BIN)/python -m benchmarks.content

bench-privacy: $(READY)
	@$(BIN)/python -m benchmarks.privacy

kills: $(READY)
	@$(BIN)/python -m benchmarks.kills

sbom: $(READY)
	@mkdir -p reports && $(BIN)/python -m cyclonedx_py requirements requirements.lock --of JSON -o reports/sbom.json && echo "reports/sbom.json"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The CUDA libraries are left to torch's own pins: pip takes them along with a CUDA build and leaves them out with a CPU build.
lock: $(READY)
	@$(BIN)/uv pip compile pyproject.toml --quiet --all-extras --group dev --python-version 3.11 --only-binary :all: \
	  --no-annotate --no-header $(UPGRADE) --output-file requirements.lock >/dev/null
	@{ echo "# The one virtualenv: all of pyproject.toml, pinned for CPython 3.11 to 3.13 on Linux (x86-64, arm64), CPU or CUDA. Made by make lock."; \
	  sed -E '/^(#|nvidia-|cuda-|triton)/d; s/\+[a-z0-9.]+$$//' requirements.lock; } >requirements.lock.new
	@mv requirements.lock.new requirements.lock

clean:
	rm -rf data reports artefact bento dvc_plots .airflow .environments .pytest_cache .ruff_cache .hypothesis dvc.lock .dvc/cache .dvc/tmp
