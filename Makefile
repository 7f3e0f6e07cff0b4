# All commands of developers and of the build machine. Each target installs what it needs into .venv; the machine needs
# only make and Python 3.11 or newer.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
PYTHON ?= python3
STORE ?=
LISTEN ?=
ROWS ?=
RUNS ?=
QUICK ?=
PEERS ?=
REPLICAS ?=
DURATION ?= 10m
SEED ?=
# Two processes for each core, because tests spend half of their time waiting for servers, workers and timers.
WORKERS ?= $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN))

# Each file of tests runs in one process, so that what its tests share, a server or a build, is made once. The files
# begin in the order of tests/conftest.py, which puts those that take longest first. When a process crashes, the run
# ends: pytest-xdist hands the rest of its file to a new one, and then waits for ever.
PYTEST := $(BIN)/python -m pytest --quiet --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder \
	--max-worker-restart 0

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Only the checks of `make test` run at the same time, where AT_ONCE is set.
ifndef AT_ONCE
.NOTPARALLEL:
endif

# Each check's lines stay together. GNU Make 3.81, which macOS has, prints them as they come.
CHECKS := --jobs --keep-going $(if $(filter output-sync,$(.FEATURES)),--output-sync=target) AT_ONCE=1

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "jobstate needs Python 3.11 or newer, which '$(PYTHON)' is not. Name one: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up $(VENV), a minute the first time ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[server,dev]'
	@touch $@

.PHONY: demo
demo: $(READY) ## Run a server, workers and a watcher for a few seconds
	@$(BIN)/python -m jobstate_client.demo

.PHONY: serve
serve: $(READY) ## Serve until Ctrl-C; set STORE=sqlite:///jobs.db or LISTEN=127.0.0.1:50051 to choose where
	@$(BIN)/jobstate-server serve $(if $(STORE),--store '$(STORE)') $(if $(LISTEN),--listen '$(LISTEN)')

.PHONY: test
test: $(READY) ## Check everything: style, types, layers, contract, then every test
	@$(MAKE) $(CHECKS) types collection lint imports proto
	@echo "== tests"
	@$(PYTEST)

.PHONY: test-fast
test-fast: $(READY) ## Run the tests of the units and of the stores
	@$(PYTEST) tests/unit tests/store

# When a process with running threads forks, the fork handlers of gRPC kill the child that starts PostgreSQL.
.PHONY: torture
torture: $(READY) ## Kill servers for DURATION=10m and check every promise; STORE=postgres REPLICAS=3, SEED=... repeats one
	@GRPC_ENABLE_FORK_SUPPORT=0 $(BIN)/python -m tests.robustness.torture --duration $(DURATION) \
		$(if $(SEED),--seed '$(SEED)') $(if $(STORE),--store '$(STORE)') $(if $(REPLICAS),--replicas '$(REPLICAS)')

.PHONY: format
format: $(READY) ## Format the code and the protos, and fix what can be fixed automatically
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .
	@$(BIN)/buf format --write

.PHONY: lint
lint: $(READY) ## Check the style of the code
	@echo "== lint"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --diff .

.PHONY: types
types: $(READY) ## Check the types
	@echo "== types"
	@$(BIN)/mypy --no-error-summary

.PHONY: imports
imports: $(READY) ## Check that imports go one way
	@echo "== imports"
	@$(BIN)/lint-imports --no-logo

# Compares with the main branch if this checkout has it. Without git, nothing is compared.
.PHONY: proto
proto: $(READY) ## Check the protos: lint, format, and no breaking change since main
	@echo "== contract"
	@$(BIN)/buf lint
	@$(BIN)/buf format --diff --exit-code
	@for main in origin/main main; do \
		if git cat-file -e "$$main:protos" 2>/dev/null; then \
			git archive "$$main" buf.yaml protos | $(BIN)/buf breaking --against '-#format=tar'; exit; \
		fi; \
	done

# Of use to `make test`, too: it leaves the bytecode that each process of the tests would have to compile otherwise.
.PHONY: collection
collection: $(READY) ## Check that every test can be collected
	@echo "== collection"
	@told=$$($(BIN)/python -m pytest --quiet --quiet --collect-only 2>&1) || { echo "$$told"; exit 1; }

.PHONY: generate
generate: $(READY) ## Generate the Python, Go and TypeScript code from the protos
	@$(BIN)/python generated/generate.py

.PHONY: bench
bench: $(READY) ## Measure every number of docs/benchmarks.md; ROWS='unary get' selects some, QUICK=1 only tries them
	@$(BIN)/python -m tests.bench $(if $(ROWS),--rows $(ROWS)) $(if $(RUNS),--runs $(RUNS)) $(if $(QUICK),--quick)

.PHONY: bench-against
bench-against: $(READY) ## Compare the server's processor time with that of an earlier COMMIT; LIMIT=0.92 is what to reach
	@$(BIN)/python -m tests.bench.against $(COMMIT) $(if $(PAIRS),--pairs $(PAIRS)) $(if $(LIMIT),--limit $(LIMIT)) $(if $(QUICK),--quick)

.PHONY: bench-peers
bench-peers: $(READY) ## Measure jobstate and its alternatives, which are installed in .bench; PEERS='river celery' selects some
	@$(BIN)/python -m tests.bench.peers $(if $(PEERS),--peers $(PEERS)) $(if $(RUNS),--runs $(RUNS)) $(if $(QUICK),--quick)

.PHONY: build
build: $(READY) ## Build the source distribution and the wheel into dist/
	@rm -rf dist
	@$(BIN)/python -m build -qq --no-isolation
	@ls dist/*

.PHONY: clean
clean: ## Remove .venv, caches and built packages; databases stay
	@rm -rf $(VENV) dist .tools .bench .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find server client tests generated -name __pycache__ -prune -exec rm -rf {} +
