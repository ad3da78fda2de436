# Needs only Python 3.11 and make; everything else is installed into .venv/.
#   make demo         the main job from an empty machine: data, scores, training, pictures
#   make test         all tests, each host's in its own environment
#   make check        lint, types, and which part may import which
#   make help         the rest

PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV := .venv/tools/bin/uv
ENVS := data llamafactory axolotl
STAMPS := $(ENVS:%=.venv/%/.installed)

# No telemetry, no look-ups at the Hub, one thread per process (tests run side by side).
export AXOLOTL_DO_NOT_TRACK := 1
export DO_NOT_TRACK := 1
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
export PYTHONUNBUFFERED := 1

.PHONY: help env demo test test-data test-llamafactory test-axolotl test-hosts test-recipes test-browser fuzz \
	check docs package format constraints clean

help:
	@sed -n 's/^# *\(make [a-z-]*  *.*\)/\1/p' Makefile
	@echo "make env          create the environments only"
	@echo "make test-data, make test-llamafactory, make test-axolotl: one environment's tests"
	@echo "make test-hosts   the other tested host versions, and their plain stages with the package installed"
	@echo "make test-recipes every recipe for two steps on a tiny model; prints a table"
	@echo "make fuzz         an hour of damaged rows, files, datasets and images (MINUTES=5: five minutes)"
	@echo "make test-browser pages in a headless Chromium (Debian: apt-get install chromium chromium-driver)"
	@echo "make docs         the site, with strict links; make package: wheel and sdist, checked"
	@echo "make format       format the code; make constraints: write the tested versions anew"
	@echo "make clean        remove the environments and what commands left behind"

# --- environments -------------------------------------------------------------------------------

.venv/tools/.installed: constraints/tools.txt
	$(PYTHON) -m venv .venv/tools
	.venv/tools/bin/python -m pip install --quiet --disable-pip-version-check -r constraints/tools.txt
	@touch $@

# The two hosts pin disjoint versions of transformers and TRL, so each has its own environment.
.venv/llamafactory/.installed: EXTRA := [llamafactory]
.venv/axolotl/.installed: EXTRA := [axolotl]
.venv/%/.installed: constraints/%.txt pyproject.toml .venv/tools/.installed
	@echo "installing .venv/$* (several minutes on a new machine)"
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv/$*
	$(UV) pip install --quiet --python .venv/$*/bin/python --constraint $< --group $* --editable '.$(EXTRA)'
	@touch $@

# Another tested version of a host: its constraint file names it. bitsandbytes and ray serve one test each.
.venv/llamafactory-0.9.4/.installed: constraints/llamafactory-0.9.4.txt pyproject.toml .venv/tools/.installed
	@echo "installing .venv/llamafactory-0.9.4"
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv/llamafactory-0.9.4
	$(UV) pip install --quiet --python .venv/llamafactory-0.9.4/bin/python --constraint $< --group test bitsandbytes ray \
		--editable '.[llamafactory]'
	@touch $@

env: $(STAMPS)

# --- the main job and the tests -----------------------------------------------------------------

demo: .venv/llamafactory/.installed
	.venv/llamafactory/bin/python -m demo

test: $(STAMPS)
	$(PYTHON) tools/run_tests.py

test-data: .venv/data/.installed
	$(PYTHON) tools/run_tests.py data

test-llamafactory: .venv/llamafactory/.installed
	$(PYTHON) tools/run_tests.py llamafactory

test-axolotl: .venv/axolotl/.installed
	$(PYTHON) tools/run_tests.py axolotl

test-recipes: .venv/llamafactory/.installed .venv/axolotl/.installed
	$(PYTHON) tools/run_tests.py recipes; status=$$?; $(PYTHON) -m tests.recipes.table; exit $$status

test-browser: .venv/llamafactory/.installed
	$(PYTHON) tools/run_tests.py browser

test-hosts: .venv/llamafactory-0.9.4/.installed
	$(PYTHON) tools/run_tests.py hosts

# The long part of tests/faults: damaged rows, files, datasets and images, one hour of them.
fuzz: .venv/data/.installed
	.venv/data/bin/python -m tests.faults.fuzz --minutes $(or $(MINUTES),60)

check: .venv/tools/.installed
	.venv/tools/bin/ruff check .
	.venv/tools/bin/ruff format --check .
	.venv/tools/bin/mypy
	.venv/tools/bin/lint-imports

# The site, in .artifacts/site; a broken link fails.
.venv/docs/.installed: constraints/docs.txt pyproject.toml .venv/tools/.installed
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv/docs
	$(UV) pip install --quiet --python .venv/docs/bin/python --constraint $< --group docs
	@touch $@

docs: .venv/docs/.installed
	$(PYTHON) tools/file_tree.py --check
	NO_MKDOCS_2_WARNING=1 .venv/docs/bin/python -m mkdocs build --quiet

# Wheel and sdist in dist/, looked at as the package index does, and installed into empty environments.
package: .venv/tools/.installed
	rm -rf dist build
	.venv/tools/bin/python -m build --quiet --installer uv
	.venv/tools/bin/twine check --strict dist/*
	.venv/tools/bin/python tools/check_package.py

# --- upkeep -------------------------------------------------------------------------------------

format: .venv/tools/.installed
	.venv/tools/bin/ruff check --fix .
	.venv/tools/bin/ruff format .

# Names and versions only: no addresses, so the files work with any package index.
constraints: $(STAMPS)
	for env in $(ENVS); do $(UV) pip freeze --quiet --exclude-editable --python .venv/$$env/bin/python \
		| grep -E '^[A-Za-z0-9_.-]+==' > constraints/$$env.txt; done
	.venv/tools/bin/python -m pip freeze --disable-pip-version-check | grep -E '^[A-Za-z0-9_.-]+==' > constraints/tools.txt

clean:
	rm -rf .venv .artifacts build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
