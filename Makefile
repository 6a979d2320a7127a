# Everything a fresh machine needs: `make demo` or `make test`, each as the first and only command.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
INSTALLED := $(VENV)/.installed

.PHONY: demo test study lint format docs lock clean

demo: $(INSTALLED)
	$(VENV)/bin/semseg demo $(ARGS)

# One process per core, one thread each: threads that share a busy core wait for each other. tests/conftest.py says
# which files begin.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

# The study of docs/results/study.md, hours long; started again it goes on. CAMVID is the photos' folder.
CAMVID ?= camvid
study: $(INSTALLED)
	HF_HUB_OFFLINE=1 $(VENV)/bin/python benchmarks/study.py --data $(CAMVID) $(ARGS)

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(INSTALLED)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# The documentation as a site in build/site; a warning, such as a dead link, is an error.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet $(ARGS)

# Version and hashes of every package: all of them, and those of the Docker image among them. Versions that are locked
# already stay; `make lock ARGS=--upgrade` takes the newest. Needs uv.
COMPILE := uv pip compile --no-config --universal --python-version 3.11 --generate-hashes --no-annotate \
	--default-index https://pypi.org/simple --custom-compile-command 'make lock'
lock:
	$(COMPILE) pyproject.toml --extra export --extra serve --extra cpu --extra large --extra docs --extra dev \
	    --output-file constraints.txt $(ARGS)
	echo setuptools | $(COMPILE) pyproject.toml - --extra serve --extra cpu --constraint constraints.txt \
	    --output-file requirements-docker.txt

clean:
	rm -rf $(VENV) build *.egg-info

# All cores compile what pip has installed; a few packages hold files for other versions of Python.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes \
	    --requirement constraints.txt
	$(VENV)/bin/python -m compileall -qq -j 0 $(VENV)/lib || true
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(INSTALLED)
