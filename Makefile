# SPDX-License-Identifier: Apache-2.0
#
# Every target works on a fresh clone, with nothing but make, Python 3.11 or
# newer and PyPI: the first one makes a virtual environment in .venv.
#
#   make demo              the whole method on the embedded world, and its report
#   make test              the test suite; ARGS="-k losses -x" narrows it,
#                          WORKERS=0 runs it in one process
#   make slow              the tests of more than ten seconds each, which it
#                          leaves out: several processes, plans, whole runs
#   make lint type         ruff; pyright
#   make bench             every file in benchmarks/, one after the other
#   make clean             removes .venv and caches, never runs/
#
#   make test PYTHON=python3.12 VENV=.venv312     another Python beside the first

VENV ?= .venv
# Processes that share the tests.
WORKERS ?= 2
ARGS ?=

BIN := $(VENV)/bin
RUN := $(VENV)/.installed
DEV := $(VENV)/.installed-dev

# Tried in this order: the first that runs, is new enough and can make an
# environment. (A name on the PATH proves little: pyenv puts stubs there, and
# Debian's python3 comes without ensurepip.)
PYTHON ?=
CANDIDATES = $(or $(PYTHON),python3.12 python3.11 python3.13 python3)
CHECK = import ensurepip, sys, venv; \
        sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

# $(call timed,COMMAND) runs a command and says how long it took.
timed = @start=$$(date +%s); echo '$(1)'; $(1); status=$$?; \
  echo "make $@: $$(($$(date +%s) - start)) s (installation apart)"; \
  exit $$status

.PHONY: help demo test slow lint type bench clean

help:
	@sed -n '3,/^$$/s/^# \{0,1\}//p' Makefile

demo: $(RUN)
	$(call timed,$(BIN)/python launch/demo.py $(ARGS))

test: $(DEV)
	$(call timed,$(BIN)/python -m pytest -n $(WORKERS) -m 'not slow' $(ARGS))

slow: $(DEV)
	$(call timed,$(BIN)/python -m pytest -n $(WORKERS) -m slow $(ARGS))

lint: $(DEV)
	$(call timed,$(BIN)/ruff check $(ARGS))

type: $(DEV)
	$(call timed,$(BIN)/pyright --pythonpath $(BIN)/python $(ARGS))

bench: $(RUN)
	@ls benchmarks/*.py >/dev/null
	@for file in benchmarks/*.py; do \
	  echo "== $$file"; $(BIN)/python $$file $(ARGS) || exit; \
	done

clean:
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache build *.egg-info
	find configs launch rlhf tests -name __pycache__ -prune -exec rm -rf {} +

# An environment that is there already is kept and brought up to date; one that
# was left half made is made again.
$(RUN): setup.py requirements.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  for python in $(CANDIDATES); do \
	    if "$$python" -c '$(CHECK)' >/dev/null 2>&1; then \
	      echo "Making $(VENV) with $$("$$python" --version)."; \
	      exec "$$python" -m venv --clear $(VENV); \
	    fi; \
	  done; \
	  echo 'Tried: $(CANDIDATES). None is a Python 3.11, 3.12 or 3.13 that can' \
	    'make a virtual environment. (Debian, Ubuntu: apt install' \
	    'python3-venv.) Name one: make PYTHON=/path/to/python3.11' >&2; \
	  exit 1; \
	}
	$(call install,.,about 1 GB to download)

$(DEV): $(RUN)
	$(call install,.[dev],test and lint tools)

# $(call install,WHAT,REMARK)
install = @echo 'Installing $(1) into $(VENV): $(2) ...'; \
  start=$$(date +%s); \
  $(BIN)/python -m pip install -qq --disable-pip-version-check -e '$(1)' \
    && touch $@ && echo "Installed in $$(($$(date +%s) - start)) s."
