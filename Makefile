# Every target sets itself up: it makes .venv if need be, and installs again only after the dependencies changed.

PYTHON ?= python3
ARGS ?=
N ?= 10000

VENV := .venv
DEPENDENCIES := setup.py pyproject.toml requirements/constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-long test-oracle test-real test-slow fuzz lint format docs clean
.NOTPARALLEL:

help: ## list the targets
	@echo "vit_jax: Vision Transformers in JAX. Targets:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1 \2/p' Makefile | awk '{printf "  make %-10s", $$2; $$1 = $$2 = ""; print $$0}'
	@echo "Variables:"
	@echo "  PYTHON=python3.12   the Python (3.11 or newer) that .venv is made with; make clean first to change it"
	@echo "  ARGS='...'          further arguments of the demo, of pytest or of the fuzzer, as in make test ARGS='tests/nn -k pool'"
	@echo "  N=10000             damaged files that make fuzz tries"

demo: $(VENV)/.installed ## pretrain, probe and fine-tune a small ViT on digits; the report goes to runs/demo
	$(VENV)/bin/python -m vit_jax demo --workdir runs/demo $(ARGS)

test: $(VENV)/.installed-test ## run the tests that take a second each: five to six minutes in all on two cores
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not long and not slow and not oracle and not real" $(ARGS)

test-long: $(VENV)/.installed-test ## run those of many devices, of several processes and of whole runs: half an hour
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "long and not slow and not oracle and not real" $(ARGS)

test-oracle: $(VENV)/.installed-oracle ## compare with torch, timm and transformers (about 1 GB more to install)
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "oracle and not slow" $(ARGS)

test-real: $(VENV)/.installed-oracle ## load weights that somebody trained (174 MB more to fetch, kept in .cache)
	$(VENV)/bin/python -m pytest -m "real and not slow" tests/real $(ARGS)

test-slow: $(VENV)/.installed-test ## run those that take minutes each; CI runs the notebooks of them
	$(VENV)/bin/python -m pytest -m slow $(ARGS)

fuzz: $(VENV)/.installed-test ## read N damaged files of every kind; each must be read or refused in one sentence
	$(VENV)/bin/python -m tests.fuzz --count $(N) $(ARGS)

lint: $(VENV)/.installed-dev ## check style and formatting
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .

format: $(VENV)/.installed-dev ## mend what ruff can mend, and format
	$(VENV)/bin/python -m ruff check --fix .
	$(VENV)/bin/python -m ruff format .

docs: $(VENV)/.installed-docs ## build the manual with the API as a site, in build/docs
	$(VENV)/bin/python -m zensical build --strict

clean: ## remove .venv, builds and caches; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call install,WHAT): makes .venv unless a working one is there, then installs WHAT in the tested versions.
define install
	@if ! $(VENV)/bin/python -m pip --version >/dev/null 2>&1; then \
	  if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "vit_jax needs Python 3.11 or newer, which '$(PYTHON)' is not: name one, as in make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; \
	  elif ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
	    echo "'$(PYTHON)' cannot make virtual environments: install its venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 2; \
	  fi; \
	  clear=; $(VENV)/bin/python -c '' 2>/dev/null || clear=--clear; \
	  $(PYTHON) -m venv $$clear $(VENV) || exit; \
	fi
	@echo "Installing $(1) into $(VENV) (the first time 1 to 2 minutes and 1 GB; later seconds) ..."
	@start=$$(date +%s); $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint requirements/constraints.txt --editable '$(1)' && echo "Installed in $$(($$(date +%s) - start)) s."
endef

# dev holds test, and test holds what the demo needs: the larger installation stamps the smaller ones too.
$(VENV)/.installed: $(DEPENDENCIES)
	$(call install,.)
	@touch $@

$(VENV)/.installed-test: $(DEPENDENCIES)
	$(call install,.[test])
	@touch $(VENV)/.installed $@

$(VENV)/.installed-oracle: $(DEPENDENCIES)
	$(call install,.[oracle])
	@touch $(VENV)/.installed $(VENV)/.installed-test $@

$(VENV)/.installed-dev: $(DEPENDENCIES)
	$(call install,.[dev])
	@touch $(VENV)/.installed $(VENV)/.installed-test $@

$(VENV)/.installed-docs: $(DEPENDENCIES)
	$(call install,.[docs])
	@touch $(VENV)/.installed $@
