# Every target makes the environments it needs, .venv*, from local/requirements*.txt.
PYTHON ?= python3
STACK ?= pollwire
PARAMETERS ?=
SECONDS ?=
SEED ?= 1
REPLAY ?=
ACCOUNTS ?=
INTERVAL ?=
SLOWEST ?=
CHANGES_PER_DAY ?=
LATENCY_MS ?=
ROUNDS ?=
ONLY ?=
PORT ?=
AWS_PORT ?=
PAGE_PORT ?=

export SAM_CLI_TELEMETRY := 0
# The layers are built for what the template's parameters say, see layers/dependencies/Makefile.
export ARCHITECTURE := $(or $(patsubst Architecture=%,%,$(filter Architecture=%,$(PARAMETERS))),arm64)
export PYTHON_RUNTIME := $(or $(patsubst PythonRuntime=%,%,$(filter PythonRuntime=%,$(PARAMETERS))),python3.13)
NO_PYTHON := pollwire: there is no $(PYTHON); install Python 3.11 or later, or name one: make PYTHON=python3.13
MAKE_ENVIRONMENTS := command -v $(PYTHON) >/dev/null || { echo '$(NO_PYTHON)' >&2; exit 1; }; \
	exec $(PYTHON) -m local.bootstrap
SAM := .venv-sam/bin/sam
OVERRIDES := $(if $(PARAMETERS),--parameter-overrides $(PARAMETERS))

# Modules of the layer, for what is run as a module of tests.
simulate bench bench-peers cost audit: export PYTHONPATH := layers/pollwire

.PHONY: help run test simulate bench bench-peers cost check audit build deploy clean environments

help: ## Say what each target does
	@sed -n 's/^\([a-z-]*\):.*## /  make \1 \t/p' Makefile | expand -t 20
	@printf '\nVariables:\n'
	@printf '  make run     SECONDS=90      stop after 90 s of changes and sum up; otherwise Ctrl-C does\n'
	@printf '               SEED=1          what happens at the simulated provider, and in which order\n'
	@printf '               PORT=8070       first port of the simulated providers; otherwise free ones\n'
	@printf '               AWS_PORT=4566   port of MiniStack; otherwise a free one\n'
	@printf '               PAGE_PORT=8060  port of the page; otherwise a free one\n'
	@printf '  make test    ARGS="-k due"   more words for pytest\n'
	@printf '  make simulate SECONDS=60 SEED=1   for how long, and where to begin\n'
	@printf '               REPLAY=swarm:1   one run again, as a failure was printed\n'
	@printf '  make bench   ACCOUNTS=1000 ROUNDS=5   accounts of the shard; more rounds are steadier\n'
	@printf '               ONLY=scale,import        some of idle package scale schedule import backlog neighbours\n'
	@printf '  make cost    ACCOUNTS=1000000  one deployment, position by position; otherwise a table of some\n'
	@printf '               CHANGES_PER_DAY=20 INTERVAL=60 SLOWEST=900   of each account; seconds between two polls\n'
	@printf '               LATENCY_MS=50   how long the provider takes to answer\n'
	@printf '  make bench-peers ACCOUNTS=1000   how many are polled where speed is measured\n'
	@printf '  make deploy  STACK=pollwire  name of the stack\n'
	@printf '               PARAMETERS="AllowedHosts=https://api.example.com LogLevel=DEBUG"\n'
	@printf '  all          PYTHON=python3.13   interpreter to make the environments with, 3.11 to 3.14\n'

run: ## Run the whole system here, without an AWS account; print and show each event as it arrives
	@$(MAKE_ENVIRONMENTS) .venv/bin/python -m local \
		--seconds '$(SECONDS)' --seed '$(SEED)' --port '$(PORT)' --aws-port '$(AWS_PORT)' \
		--page-port '$(PAGE_PORT)'

test: ## Run every test; none needs an AWS account
	@$(MAKE_ENVIRONMENTS) .venv/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

simulate: ## Look for a lost event: the whole system under random faults, in simulated time
	@$(MAKE_ENVIRONMENTS) .venv/bin/python -W ignore -m tests.simulation \
		--seconds '$(SECONDS)' --seed '$(SEED)' --replay '$(REPLAY)'

bench: ## Measure idle accounts, scale, imports, backlogs, neighbours; Linux, 5 minutes
	@$(MAKE_ENVIRONMENTS) .venv/bin/python -m tests.bench \
		--only '$(ONLY)' --accounts '$(ACCOUNTS)' --rounds '$(ROUNDS)'

bench-peers: ## Compare with Airbyte, Singer and dlt over one provider: 15 minutes at most
	@$(MAKE_ENVIRONMENTS) .venv/bin/python -W ignore -m tests.bench.peers --accounts='$(ACCOUNTS)'

cost: ## Print what a deployment costs a month on AWS, from counted calls and measured CPU time
	@$(MAKE_ENVIRONMENTS) .venv/bin/python -m tests.bench.cost 'ACCOUNTS=$(ACCOUNTS)' \
		'INTERVAL=$(INTERVAL)' 'SLOWEST=$(SLOWEST)' 'CHANGES_PER_DAY=$(CHANGES_PER_DAY)' \
		'LATENCY_MS=$(LATENCY_MS)'

check: environments ## Check style, types and the template
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/cfn-lint template.yaml examples/consumer/template.yaml
	$(SAM) validate --lint --region us-east-1

audit: ## Check what is deployed with checkov; .checkov.yaml says what is left out, and why
	@$(MAKE_ENVIRONMENTS) .venv/bin/python -m tests.template.audit

build: environments ## Build functions and layers for Lambda into .aws-sam
	$(SAM) build $(OVERRIDES)

deploy: build ## Deploy to the AWS account you are logged in to
	$(SAM) deploy --stack-name '$(STACK)' $(OVERRIDES)

clean: ## Remove everything that can be made again
	rm -rf .venv .venv-sam .venv-peers-* .venv-audit .local .aws-sam .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf build *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

environments:
	@$(MAKE_ENVIRONMENTS)
