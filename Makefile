# Needs make and a Python of 3.11 or later; everything else is installed into .venv/, uv fetches other Pythons.
#   make demo         the main job from an empty machine: data, scores, training, pictures
#   make test         all tests, each host's in its own environment
#   make check        lint, types, and which part may import which
#   make help         the rest

# The first that runs: pyenv puts shims on PATH also for versions that are not switched on.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null && echo $$p && break; done)
UV := .venv/tools/bin/uv
ENVS := data llamafactory axolotl
# Other versions of the hosts: `make test-hosts`.
OTHERS := llamafactory-0.9.4 axolotl-0.19 trl-1.16
STAMPS := $(ENVS:%=.venv/%/.installed)

# No telemetry, no look-ups at the Hub, one thread per process (tests run side by side).
export AXOLOTL_DO_NOT_TRACK := 1
export DO_NOT_TRACK := 1
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
export PYTHONUNBUFFERED := 1

.PHONY: help env demo study study-quick study-check test test-data test-llamafactory test-axolotl test-hosts \
	test-newest test-install test-recipes test-browser fuzz mutate \
	check docs package format constraints clean

help:
	@sed -n 's/^# *\(make [a-z-]*  *.*\)/\1/p' Makefile
	@echo "make env          create the environments only"
	@echo "make test-data, make test-llamafactory, make test-axolotl: one environment's tests"
	@echo "make test-hosts   the other tested host versions, and their plain stages with the package installed"
	@echo "make test-newest  the adapters' first tests against the newest release of each host; a table, never a failure"
	@echo "make test-install README's install lines in new environments: each trains a tiny Qwen2.5-VL (7 GB at a time, removed)"
	@echo "make study        where ASPO helps and where not: writes docs/study.md; make study-check: its gain is kept"
	@echo "make test-recipes every recipe for two steps on a tiny model; prints a table"
	@echo "make fuzz         an hour of damaged rows, files, datasets and images (MINUTES=5: five minutes)"
	@echo "make mutate       which single-line changes of the method no test notices: writes docs/mutation.md"
	@echo "make test-browser pages in a headless Chromium (Debian: apt-get install chromium chromium-driver), and a"
	@echo "                  newcomer's day with each host, kept as text and pictures in .artifacts/journeys"
	@echo "make docs         the site, with strict links; make package: wheel and sdist, checked"
	@echo "make format       format the code; make constraints: write the tested versions anew"
	@echo "make clean        remove the environments and what commands left behind"

# --- environments -------------------------------------------------------------------------------

.venv/tools/.installed: constraints/tools.txt
	@test -n "$(PYTHON)" || { echo "There is no Python of 3.11 or later on PATH: install one (apt-get install python3, \
	brew install python), or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	"$(PYTHON)" -m venv .venv/tools
	.venv/tools/bin/python -m pip install --quiet --disable-pip-version-check -r constraints/tools.txt
	@touch $@

# The hosts pin disjoint versions of transformers and TRL, so each has its own environment. The first line of a
# constraint file names the version of Python; a group of pyproject.toml names what the tests need beside the host.
.venv/data/.installed: GROUP := data
.venv/llamafactory/.installed: GROUP := llamafactory
.venv/llamafactory-0.9.4/.installed: GROUP := llamafactory-older
.venv/axolotl/.installed .venv/axolotl-0.19/.installed: GROUP := axolotl
.venv/trl-1.16/.installed: GROUP := trl
.venv/llamafactory/.installed .venv/llamafactory-0.9.4/.installed: EXTRA := [llamafactory]
.venv/axolotl/.installed .venv/axolotl-0.19/.installed: EXTRA := [axolotl]
.venv/trl-1.16/.installed: EXTRA := [trl]
.venv/%/.installed: constraints/%.txt pyproject.toml .venv/tools/.installed
	@echo "installing .venv/$* (several minutes on a new machine)"
	$(call install,$*,$$(sed -n 's/^# Python //p' $<),--constraint $<)
	@touch $@

# (name of the environment, version of Python, options of `uv pip install`)
install = python=$$(sh tools/find_python.sh $(2) $(UV)) \
	&& $(UV) venv --quiet --allow-existing --python "$$python" .venv/$(1) \
	&& $(UV) pip install --quiet --python .venv/$(1)/bin/python $(3) --group $(GROUP) --editable '.$(EXTRA)'

env: $(STAMPS)

# --- the main job and the tests -----------------------------------------------------------------

demo: .venv/llamafactory/.installed
	.venv/llamafactory/bin/python -m demo

# Resumes: every run is a line of study/runs.jsonl.
study: .venv/llamafactory/.installed
	.venv/llamafactory/bin/python -m study

study-quick: .venv/llamafactory/.installed
	.venv/llamafactory/bin/python -m study --quick

study-check: .venv/llamafactory/.installed
	.venv/llamafactory/bin/python -m study.check

test: $(STAMPS)
	"$(PYTHON)" tools/run_tests.py

test-data: .venv/data/.installed
	"$(PYTHON)" tools/run_tests.py data

test-llamafactory: .venv/llamafactory/.installed
	"$(PYTHON)" tools/run_tests.py llamafactory

test-axolotl: .venv/axolotl/.installed
	"$(PYTHON)" tools/run_tests.py axolotl

test-recipes: .venv/llamafactory/.installed .venv/axolotl/.installed
	"$(PYTHON)" tools/run_tests.py recipes; status=$$?; "$(PYTHON)" -m tests.recipes.table; \
		.venv/axolotl/bin/python -W ignore -m tests.trl.table || status=1; exit $$status

test-browser: .venv/llamafactory/.installed .venv/axolotl/.installed
	"$(PYTHON)" tools/run_tests.py browser

test-hosts: $(OTHERS:%=.venv/%/.installed)
	"$(PYTHON)" tools/run_tests.py hosts

# The adapters' first tests against whatever is newest today. A table, and no failure: it says what a new version will cost.
test-newest: .venv/tools/.installed
	-$(MAKE) --keep-going --always-make .venv/newest-llamafactory .venv/newest-axolotl .venv/newest-trl
	-"$(PYTHON)" tools/run_tests.py newest

.venv/newest-%: GROUP = $*
.venv/newest-%: EXTRA = [$*]
.venv/newest-%:
	$(call install,newest-$*,3.12,--upgrade)

# Which single-line changes no test notices, all or ONLY='aspo_plugin.method.*': seconds each, so hours for all.
# Stopped, it goes on where it was. Lists the survivors in docs/mutation.md.
mutate: .venv/llamafactory/.installed
	$(UV) pip install --quiet --python .venv/llamafactory/bin/python --target .venv/mutmut mutmut==3.8.1
	PYTHONPATH=.venv/mutmut OMP_NUM_THREADS=1 .venv/llamafactory/bin/python -m mutmut run --max-children 2 $(ONLY)
	"$(PYTHON)" tools/mutants.py --write

# What a user gets today: environments without constraints, made from the wheel and removed again.
test-install: package
	.venv/tools/bin/python tools/check_install.py

# The long part of tests/faults: damaged rows, files, datasets and images, one hour of them.
fuzz: .venv/data/.installed
	.venv/data/bin/python -m tests.faults.fuzz --minutes $(or $(MINUTES),60)

check: .venv/tools/.installed
	.venv/tools/bin/ruff check .
	.venv/tools/bin/ruff format --check .
	.venv/tools/bin/mypy
	.venv/tools/bin/lint-imports
	"$(PYTHON)" tools/tested_versions.py --check

# The site, in .artifacts/site; a broken link fails.
.venv/docs/.installed: constraints/docs.txt pyproject.toml .venv/tools/.installed
	python=$$(sh tools/find_python.sh $$(sed -n 's/^# Python //p' $<) $(UV)) \
	&& $(UV) venv --quiet --allow-existing --python "$$python" .venv/docs
	$(UV) pip install --quiet --python .venv/docs/bin/python --constraint $< --group docs
	@touch $@

docs: .venv/docs/.installed
	"$(PYTHON)" tools/file_tree.py --check
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

# The version of Python, names and versions: no addresses, so the files work with any package index.
constraints: $(STAMPS)
	for env in $(ENVS) $(OTHERS); do \
		test -e .venv/$$env/.installed || continue; \
		{ .venv/$$env/bin/python -c 'import sys; print("# Python %d.%d" % sys.version_info[:2])'; \
		$(UV) pip freeze --quiet --exclude-editable --python .venv/$$env/bin/python \
			| grep -E '^[A-Za-z0-9_.-]+=='; } > constraints/$$env.txt; done
	.venv/tools/bin/python -m pip freeze --disable-pip-version-check | grep -E '^[A-Za-z0-9_.-]+==' > constraints/tools.txt
	"$(PYTHON)" tools/tested_versions.py --write

clean:
	rm -rf .venv .artifacts build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
