# The front door. `make` alone prints this help. Variables, as in `make degradation-cifar PROTOCOL=smoke`:
#   PROTOCOL=paper|short|quick|smoke   default: paper where torch can use a CUDA device (and has ImageNet), else quick
#   DEPTHS=20,56   SEEDS=0             the grid: any depths 6n+2 (ImageNet: 18, 34, 50, 101, 152), any seeds
#   DATA_DIR=data  RESULTS_DIR=results where the images are (or are downloaded to), where records and figures go
#   JOBS=auto                          runs at once
#   ARGS="logger=none ..."             further Hydra overrides; of figures and bench further options (ARGS=--help lists
#                                      them), of claims both
.DEFAULT_GOAL := help
.PHONY: help setup degradation-cifar degradation-imagenet claims figures bench test lint clean
PYTHON ?= python3
VENV ?= .venv
DATA_DIR ?= data
RESULTS_DIR ?= results
JOBS ?= auto
export DATA_DIR RESULTS_DIR JOBS
# As the environment's .pth file says, too, which macOS may hide from Python where it hides .venv.
export PYTHONPATH := $(CURDIR)/src$(if $(PYTHONPATH),:$(PYTHONPATH))
KNOWN = PROTOCOL DEPTHS SEEDS DATA_DIR RESULTS_DIR JOBS ARGS PYTHON VENV
GIVEN = $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name)))
$(foreach name,$(filter-out $(KNOWN) MAKE% -*,$(GIVEN)),$(error unknown variable $(name); there are $(KNOWN)))
# A grid is refused where there is none to choose.
IDLE_claims = DEPTHS
IDLE_figures = PROTOCOL DEPTHS SEEDS
IDLE_bench = PROTOCOL DEPTHS SEEDS JOBS
IDLE_test = PROTOCOL DEPTHS SEEDS ARGS
$(foreach goal,$(MAKECMDGOALS),$(foreach name,$(filter $(IDLE_$(goal)),$(GIVEN)),$(error make $(goal) takes no $(name))))
SWEEP = $(if $(PROTOCOL),protocol=$(PROTOCOL)) $(if $(DEPTHS),depth=$(DEPTHS)) $(if $(SEEDS),seed=$(SEEDS)) $(ARGS)

help: ## print this help
	@awk '/^#/ {sub(/^# ?/, ""); print; next} {exit}' $(firstword $(MAKEFILE_LIST))
	@echo; awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-21s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.installed ## make the environment in .venv (the other targets do it when it is missing)

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; name one with PYTHON=")'
	@echo "installing torch and the rest into $(VENV): one to ten minutes, without a word"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

degradation-cifar: $(VENV)/.installed ## train plain and residual networks, then draw the figures
degradation-imagenet: $(VENV)/.installed ## the same with the ImageNet networks (DEPTHS=18,34)
degradation-cifar degradation-imagenet:
	@status=0; $(VENV)/bin/python experiments/train.py experiment=$(subst -,_,$@) $(SWEEP) || status=$$?; \
	  test $$status -ne 2 || exit 2; \
	  $(VENV)/bin/python experiments/report.py $(if $(filter logger=none logger.name=none,$(ARGS)),,--wandb $(subst -,_,$@) \
    $(patsubst logger.project=%,--wandb-project %,$(filter logger.project=%,$(ARGS)))) || exit $$?; exit $$status

claims: $(VENV)/.installed ## train what the paper's claims still need beside the published runs, then judge them
	@$(VENV)/bin/python experiments/claims.py $(if $(PROTOCOL),--protocol $(PROTOCOL)) $(if $(SEEDS),--seeds $(SEEDS)) $(ARGS)

figures: $(VENV)/.installed ## rebuild every figure, table and page in results/ from your records
	@$(VENV)/bin/python experiments/report.py $(ARGS)

bench: $(VENV)/.installed ## measure training speed against the usual recipe, into results/bench/
	@$(VENV)/bin/python experiments/bench.py $(ARGS)

test: $(VENV)/.installed ## run the tests
	@$(VENV)/bin/python -m pytest

lint: $(VENV)/.installed ## check style, types and which wing imports which
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy && $(VENV)/bin/lint-imports --no-logo

clean: ## remove the environment and caches, never results
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache src/*.egg-info
