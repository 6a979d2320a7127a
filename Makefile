# Everything a fresh machine needs: `make demo` or `make test`, each as the first and only command.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint format lock clean

demo: $(INSTALLED)
	$(VENV)/bin/semseg demo $(ARGS)

# One process per core, one thread each: threads that share a busy core wait for each other.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist loadfile $(ARGS)

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(INSTALLED)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Versions that are locked already stay; ARGS=--upgrade takes the newest. Needs uv.
lock:
	uv pip compile pyproject.toml --no-config --universal --python-version 3.11 --generate-hashes --no-annotate \
	    --extra export --extra serve --extra cpu --extra large --extra dev --default-index https://pypi.org/simple \
	    --custom-compile-command 'make lock' --output-file constraints.txt $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement constraints.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(INSTALLED)
