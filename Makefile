# make demo   set up, run the whole retrain through Airflow, promote, serve, ask   (SOURCE= DATA= MAPPING= MODEL= EPOCHS=)
# make test   set up, run all tests      make test-fast   unit tests only
# make up     Airflow's UI and the served model until Ctrl-C   (AIRFLOW_PORT= SERVE_PORT=)
# make bench  measure the artefact and its serving, half an hour   (DATA=)
# make lint   ruff                       make clean       remove what runs left behind (keeps .venv)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo up test test-fast bench lint clean setup
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
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

demo: $(READY)
	@$(BIN)/python demo.py $(if $(SOURCE),--source "$(SOURCE)") $(if $(DATA),--data "$(DATA)") $(if $(MAPPING),--mapping "$(MAPPING)") $(if $(MODEL),--model $(MODEL)) $(if $(EPOCHS),--epochs $(EPOCHS))

up: $(READY)
	@$(BIN)/pushcart up

test: $(READY)
	$(BIN)/pytest

test-fast: $(READY)
	$(BIN)/pytest -m "not e2e" -n 2

bench: $(READY)
	@$(BIN)/python -m benchmarks.serving $(if $(DATA),--data "$(DATA)")

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf data reports artefact bento dvc_plots .airflow .environments .pytest_cache .ruff_cache .hypothesis dvc.lock .dvc/cache .dvc/tmp
