# The tasks of the repository; `make help` lists them. Needs python3 (3.11 or newer), git and a C compiler from the machine.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' server/afarensis_server/__init__.py)
SANDBOX_IMAGE ?= afarensis-sandbox:$(VERSION)
IMAGE_ARGS ?=
DOCKER ?= docker
COMPOSE ?= docker compose
#: The commit whose contract clients already have.
RELEASED ?= $(shell git rev-parse --quiet --verify origin/main || git rev-parse --quiet --verify HEAD)
#: What lets sessions share memory; they take more without it.
SHARING := server/afarensis_server/sandbox/guest/_sharing.so
UV_COMPILE = $(BIN)/uv pip compile --quiet --no-header --no-emit-index-url --generate-hashes --universal --python-version 3.11 \
	--no-emit-package afarensis

# A shell that keeps bytecode from being written would make every start of the server slow; the others would mix in
# packages that are not ours.
unexport PYTHONDONTWRITEBYTECODE PYTHONUNBUFFERED PYTHONPATH PYTHONHOME VIRTUAL_ENV

.DELETE_ON_ERROR:
.PHONY: help demo test serve setup check sandbox-image server-image up bench format generate lock clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  Flags go in ARGS, for example: make demo ARGS="--model gpt-4.1-mini"'

demo: setup  ## Set everything up and run the main job: a CSV goes in, a chart and a summary come out in demo-out/
	@$(BIN)/python -m examples.demo $(ARGS)

test: check .openai-v1/.stamp tests/node/node_modules/.stamp  ## Run everything: static checks, then unit, contract, security, integration and end-to-end tests
	$(BIN)/python -m pytest $(ARGS)

serve: setup  ## Start the server for daily use
	@exec $(BIN)/afarensis-server serve --http 127.0.0.1:8080 $(ARGS)

setup: .venv/.stamp .guest/.stamp $(SHARING)  ## Make the environments: .venv (server and tools) and .guest (what sandboxed code imports)

check: setup  ## Check lint, format, types, import rules and the contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	@if git cat-file -e '$(RELEASED):buf.yaml' 2>/dev/null; then \
		echo "$(BIN)/buf breaking --against $(RELEASED)"; $(BIN)/buf breaking --against '.git#ref=$(RELEASED)'; \
	else echo 'buf breaking: no released contract to compare with yet'; fi
	$(BIN)/python tools/generate.py --check

sandbox-image: .venv/.stamp  ## Build the image that the docker driver runs sessions in (IMAGE_ARGS: more for docker build; DOCKER=podman)
	$(DOCKER) build -f deploy/sandbox.Dockerfile -t $(SANDBOX_IMAGE) --build-arg VERSION=$(VERSION) \
		--build-arg SOURCES=$$($(BIN)/python server/afarensis_server/sandbox/agent/sources.py) $(IMAGE_ARGS) .

up: .venv/.stamp  ## Start the server with docker sandboxes as containers (ARGS: more for compose up, such as -d)
	VERSION=$(VERSION) SOURCES=$$($(BIN)/python server/afarensis_server/sandbox/agent/sources.py) \
		DOCKER_GID=$$(stat -c %g $${DOCKER_SOCKET:-/var/run/docker.sock}) $(COMPOSE) -p afarensis -f deploy/compose.yaml up --build $(ARGS)

server-image:  ## Build the image of the server (IMAGE_ARGS: more for docker build)
	$(DOCKER) build -f deploy/server.Dockerfile -t afarensis-server:$(VERSION) --build-arg VERSION=$(VERSION) $(IMAGE_ARGS) .

bench: setup .bench/.stamp  ## Measure sessions beside their peers and their floors (ARGS=--help lists the options)
	@$(BIN)/python -m bench $(ARGS)

format: setup  ## Format Python and protos, and fix what lint can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format --write

generate: .venv/.stamp  ## Generate the Python stubs from protos/
	$(BIN)/python tools/generate.py

lock: .venv/.stamp  ## Pin the newest versions that the requirements allow (commit the result)
	$(UV_COMPILE) --upgrade server/pyproject.toml clients/python/pyproject.toml requirements/dev.in --extra uvloop -o requirements/dev.txt
	$(UV_COMPILE) --upgrade server/pyproject.toml clients/python/pyproject.toml --extra uvloop -c requirements/dev.txt -o requirements/server.txt
	$(UV_COMPILE) --upgrade requirements/bootstrap.in -c requirements/dev.txt -o requirements/bootstrap.txt
	$(UV_COMPILE) --upgrade requirements/build.in -c requirements/dev.txt -o requirements/build.txt
	$(UV_COMPILE) --upgrade requirements/openai-v1.in -o requirements/openai-v1.txt
	$(UV_COMPILE) --upgrade requirements/guest.in -o requirements/guest.txt
	$(UV_COMPILE) --upgrade requirements/bench.in -c requirements/guest.txt -o requirements/bench.txt

clean:  ## Remove the environments, the caches and demo-out/ (the server's data stays)
	rm -rf $(SHARING) .venv .guest .bench .openai-v1 tests/node/node_modules demo-out bench/results .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Everything is pinned with hashes, and nothing is built from an unpinned tool: hatchling is in dev.txt.
.venv/.stamp: requirements/bootstrap.txt requirements/dev.txt server/pyproject.toml clients/python/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python 3.11 or newer is needed; name one with PYTHON=..., for example: make PYTHON=python3.12 setup'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		echo 'This Python cannot make environments; installing the package python3-venv.'; \
		run=; [ "$$(id -u)" = 0 ] || run=sudo; \
		command -v apt-get >/dev/null && $$run apt-get update -qq && $$run apt-get install -y -qq python3-venv >/dev/null && \
		$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo 'That did not work. Install the venv module of your Python by hand, then run make again.'; exit 1; }; }
	@[ -x $(BIN)/uv ] || { echo 'Making .venv: the server and its tools'; rm -rf .venv && $(PYTHON) -m venv .venv && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt; }
	@$(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python requirements/dev.txt
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python -e clients/python -e server
	@touch $@

.guest/.stamp: requirements/guest.txt | .venv/.stamp
	@[ -x .guest/bin/python ] || { echo 'Making .guest: what sandboxed code imports'; rm -rf .guest && $(BIN)/python -m venv --without-pip .guest; }
	@$(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode --python .guest/bin/python requirements/guest.txt
	@touch $@

$(SHARING): server/afarensis_server/sandbox/guest/sharing.c
	@$(CC) -O2 -Wall -Wextra -Werror -shared -fPIC -o $@ $< || \
		echo 'That took a C compiler (Debian: gcc). Everything works without; sessions take half as much memory again.'

# SDKs of other times and languages, which programs bring along.
.openai-v1/.stamp: requirements/openai-v1.txt | .venv/.stamp
	@[ -x .openai-v1/bin/python ] || { echo 'Making .openai-v1: the SDK of early 2024'; rm -rf .openai-v1 && $(BIN)/python -m venv --without-pip .openai-v1; }
	@$(BIN)/uv pip sync --quiet --require-hashes --python .openai-v1/bin/python requirements/openai-v1.txt
	@touch $@

tests/node/node_modules/.stamp: tests/node/package-lock.json
	@command -v npm >/dev/null || echo 'There is no npm here: the tests of the Node SDK will be skipped.'
	@if command -v npm >/dev/null; then cd tests/node && npm ci --silent; else mkdir -p $(@D); fi
	@touch $@

.bench/.stamp: requirements/bench.txt | .venv/.stamp
	@[ -x .bench/bin/python ] || { echo 'Making .bench: what sessions are measured against'; rm -rf .bench && $(BIN)/python -m venv --without-pip .bench; }
	@$(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode --python .bench/bin/python requirements/bench.txt
	@touch $@
