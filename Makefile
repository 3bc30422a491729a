# What a person types. `make setup` builds .venv; every other target does it first.

PYTHON ?= python3
LOCK := requirements-dev.lock
BIN := .venv/bin
# A copy of the lock that .venv was built from, written last: without it .venv is stale, or was never finished.
STAMP := .venv/installed.lock

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench chaos soak

help:
	@echo "make demo    start everything on this machine and print the address"
	@echo "make test    run all tests"
	@echo "make lint    run all static checks"
	@echo "make chaos   run the experiments that take minutes"
	@echo "make soak    run hundreds of agent runs under random faults"
	@echo "make bench   run the benchmark"
	@echo "make setup   build .venv (the others do it too)"

# `.venv/bin/python -c ''` fails when the folder was moved or its Python is gone.
setup:
	@cmp -s $(LOCK) $(STAMP) && $(BIN)/python -c '' 2>/dev/null || $(MAKE) --no-print-directory .venv

.PHONY: .venv
.venv:
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) here: install Python 3.11 or later, or name one with make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed, $(PYTHON) is older: name another with make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian: apt install python3-venv)"; exit 1; }
	@echo "Installing the locked dependencies into .venv (about a minute, once) ..."
	@rm -rf .venv
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	@cp $(LOCK) $(STAMP)

demo: setup
	@$(BIN)/python manage.py demo

# `pytest` alone does the same, one test after the other.
test: setup
	$(BIN)/python -m pytest -m "not chaos and not alone" -n auto --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m "not chaos and alone"

# The deploy check sees what a server would: real addresses (never connected to), https, a key of its own.
lint: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/python -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run
	SECRET_KEY=$$($(BIN)/python -c 'import secrets; print(secrets.token_urlsafe(64))') \
		DEBUG=0 SECURE_SSL=1 ALLOWED_HOSTS=perdure.example CSRF_TRUSTED_ORIGINS=https://perdure.example \
		DATABASE_URL=postgresql://perdure@db.example/perdure REDIS_URL=redis://redis.example/0 \
		$(BIN)/python manage.py check --deploy --fail-level WARNING

bench: setup
	$(BIN)/python -m tests.bench

chaos: setup
	$(BIN)/python -m pytest -m chaos

soak: setup
	$(BIN)/python -m tests.soak
