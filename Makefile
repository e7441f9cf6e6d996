# Prescore: `make demo` shows everything working, `make test` checks it. `make help` lists the rest.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The whole locked environment, hashes checked. Remade when the lock or the project file changes.
.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Prescore needs Python 3.11 or newer, not " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing the locked environment into .venv (two minutes, once)"
	@$(BIN)/python -m pip install -qq --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: install demo test check format airflow lock clean help

install: .venv/installed  ## create .venv from requirements.lock

demo: .venv/installed  ## run the whole walk on a real data set and look up three users
	@$(BIN)/prescore demo

test: .venv/installed  ## run every test
	@$(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/installed  ## format, lint, strict types, import direction
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: .venv/installed  ## format and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

airflow: .venv/installed  ## start Airflow with the DAGs in place and print its address
	@$(BIN)/python infra/airflow_standalone.py

lock: .venv/installed  ## resolve requirements.lock anew (needs uv)
	uv pip compile pyproject.toml --extra materialize --extra airflow --extra demo --extra trees --extra tracing --extra tune --extra dev \
	  --generate-hashes --universal --python-version 3.11 --no-strip-extras \
	  --no-emit-index-url --no-emit-find-links --no-annotate --no-header --output-file requirements.lock

clean:  ## remove the environment and everything that was built
	rm -rf .venv .prescore .airflow build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1|\2/' | column -t -s '|'
