# Two commands: `make chat` and `make test`. Each target makes the environment it needs, from a fresh clone, with uv where there
# is one and else with venv and pip, and remakes it when pyproject.toml changes. What tools say goes to stderr: stdout is the answer.
# Written for GNU make 3.81, which is what macOS has.

VENV ?= .venv
REFERENCE_VENV ?= .venv-reference
PEERS_VENV ?= .venv-peers

.PHONY: help chat test lint format docs docs-check reference peers build clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@echo 'make chat        talk to a Gemma: MODEL=path-or-name, else the model in the box'
	@echo 'make test        the tests, about fifteen minutes on two cores; ARGS=... goes to pytest'
	@echo 'make lint        ruff check, ruff format --check, mypy --strict'
	@echo 'make format      let ruff rewrite what it can'
	@echo 'make docs        write docs/reference from the code; `make docs-check` only compares'
	@echo 'make reference   install torch and transformers, then run the live parity suite and the slow tests'
	@echo 'make peers       install mlx-vlm, then have it read what is quantized here'
	@echo 'make build       a wheel and a source archive in dist/'
	@echo 'make clean       remove the environments and what tools left behind'

# With job control the chat owns the terminal, so that Ctrl-C reaches it and not make. A pipe has no terminal to own.
chat: $(VENV)/made
	@if [ -t 0 ]; then set -m; fi; $(VENV)/bin/python -m gemma_mlx chat $(MODEL)

test: $(VENV)/made-dev
	@$(VENV)/bin/python -m pytest -W error $(ARGS)

lint: $(VENV)/made-dev
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy

format: $(VENV)/made-dev
	@$(VENV)/bin/ruff check --fix
	@$(VENV)/bin/ruff format

docs: $(VENV)/made-dev
	@$(VENV)/bin/python docs/generate.py

docs-check: $(VENV)/made-dev
	@$(VENV)/bin/python docs/generate.py --check

reference: $(REFERENCE_VENV)/made
	@$(REFERENCE_VENV)/bin/python -m pytest -W error -m 'reference or slow' $(ARGS)

peers: $(PEERS_VENV)/made
	@$(PEERS_VENV)/bin/python -m pytest -W error -m peers $(ARGS)

build: $(VENV)/made-dev
	@mkdir -p dist
	@$(VENV)/bin/python -c 'from setuptools.build_meta import build_sdist, build_wheel; build_sdist("dist"), build_wheel("dist")' >&2

clean:
	rm -rf $(VENV) $(REFERENCE_VENV) $(PEERS_VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- environments ---------------------------------------------------------------------------------------------------

# find-python prints the first Python that is new enough.
define find-python
for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$python; exit 0; fi; \
done; \
echo "gemma needs Python 3.11 or later; python3 here is: $$(python3 --version 2>&1 || echo missing)." >&2; \
echo >&2; \
echo "hint: install uv (https://docs.astral.sh/uv), which brings its own Python, or 'brew install python'." >&2; \
exit 1
endef

# $(call make-venv,FOLDER,REASON): an empty environment that can run, kept where there is one.
define make-venv
echo "$(2) (once; about a minute)" >&2; \
if $(1)/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then :; \
elif command -v uv >/dev/null 2>&1; then \
	python=$$( ( $(find-python) ) 2>/dev/null) || python='>=3.11'; uv venv --quiet --clear --seed --python "$$python" $(1) >&2; \
else python=$$($(find-python)) || exit 1; $$python -m venv --clear $(1) >&2; fi
endef

# $(call install,FOLDER,PACKAGES)
define install
if command -v uv >/dev/null 2>&1; then uv pip install --quiet --python $(1)/bin/python $(2) >&2; \
else $(1)/bin/python -m pip install --quiet --disable-pip-version-check $(2) >&2; fi
endef

$(VENV)/made: pyproject.toml
	@set -e; $(call make-venv,$(VENV),Making $(VENV)); $(call install,$(VENV),--editable .); touch $@

$(VENV)/made-dev: pyproject.toml
	@set -e; $(call make-venv,$(VENV),Making $(VENV) for development); $(call install,$(VENV),--editable '.[dev]'); \
	touch $(VENV)/made $@

# torch first, by itself and with pip: the default build for Linux brings gigabytes of CUDA, and pip's settings
# (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL) are where a machine says which build it wants.
TORCH = $$(sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
$(REFERENCE_VENV)/made: pyproject.toml
	@set -e; $(call make-venv,$(REFERENCE_VENV),Making $(REFERENCE_VENV) with torch and transformers); \
	pip='$(REFERENCE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check'; \
	$$pip $(TORCH) >&2; $$pip --editable '.[dev,reference]' >&2; touch $@

$(PEERS_VENV)/made: pyproject.toml
	@set -e; $(call make-venv,$(PEERS_VENV),Making $(PEERS_VENV) with mlx-vlm); \
	$(PEERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,peers]' >&2; touch $@
