# Gatepost's developer commands. On a fresh Debian or Ubuntu machine `make demo` and `make test` install what they need
# and say what: Debian packages (as root), Python packages into .venv, npm packages into tests/lab/idp.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export VENV

# ONCE=1 lets the demo end by itself; otherwise it keeps running for the reader's own mail client.
ONCE ?=
# PRACTICE=1 puts servers from PyPI in the place of Debian's, which is also done where these can't be installed.
PRACTICE ?=

.PHONY: help demo test test-systemd check lint format types docs dist deb lab lab-servers bench bench-short bench-peers \
	lock clean bench-revocation fuzz bench-guessing bench-waiting sbom audit soak kill9

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: $(VENV)/.installed  ## the story: an old mail client, an app password, an OAuth2-only server
	@practice=$(PRACTICE); \
	if [ -z "$$practice" ] && ! tests/lab/install.sh servers; then \
		echo "demo: Debian's servers are not to be had here (see above): a practice upstream of PyPI parts stands in"; \
		practice=1; \
	fi; \
	exec $(BIN)/python -m tests.demo $${practice:+--practice} $(if $(ONCE),--once)

test: $(VENV)/.installed lab  ## all tests, in parallel
	$(BIN)/python -m pytest -n auto $(ARGS)

bench-revocation: $(VENV)/.installed lab  ## how fast a revocation is felt on two nodes; see bench/RESULTS.md
	$(BIN)/python -m bench.revocation

soak: $(VENV)/.installed lab-servers  ## mixed clients for MINUTES=120: memory, descriptors, tasks flat? Into bench/RESULTS.md
	nice -n 10 $(BIN)/python -m bench.soak --minutes $(or $(MINUTES),120)

kill9: $(VENV)/.installed  ## kill -9 of anything under load, CYCLES=1000: is what was acknowledged kept? Into bench/RESULTS.md
	nice -n 10 $(BIN)/python -m bench.killing --cycles $(or $(CYCLES),1000)

test-systemd: $(VENV)/.installed  ## the service in a booted systemd: a Debian in systemd-nspawn, as root
	tests/lab/install.sh systemd
	GATEPOST_SYSTEMD=1 $(BIN)/python -m pytest tests/systemd $(ARGS)

fuzz: $(VENV)/.installed  ## fuzz what reads strangers' bytes, an hour in all: SECONDS=600 TARGET=imap for less
	$(BIN)/python -m pip --quiet --disable-pip-version-check install --require-hashes --only-binary :all: \
		--requirement tests/fuzz/requirements.lock || echo "no atheris here: the run is not guided by coverage"
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),3600) $(if $(TARGET),--target $(TARGET))

bench-guessing: $(VENV)/.installed  ## what a guesser learns from the clock, and what a flood of guesses does: ten minutes
	$(BIN)/python -m bench.guessing $(ARGS)

bench-waiting: $(VENV)/.installed  ## 10,000 sockets that never log in: four minutes
	$(BIN)/python -m bench.waiting $(ARGS)

sbom: $(VENV)/.installed  ## dist/gatepost.cdx.json: what is installed with Gatepost, in CycloneDX, from the lock
	$(BIN)/python .ci/sbom.py dist/gatepost.cdx.json

audit:  ## known holes in the locked packages, by pip-audit; fails with the reason where the service can't be reached
	PYTHON=$(PYTHON) .ci/audit

check: lint types test  ## format, lint, types and tests: what CI runs

lint: $(VENV)/.installed  ## ruff: format and rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed  ## mypy --strict on proxy/
	$(BIN)/mypy

format: $(VENV)/.installed  ## put the code in order
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed  ## the pages and manual pages that are made from the code
	$(BIN)/python -m docs.generate

dist: $(VENV)/.installed docs  ## wheel and source archive, into dist/; the same bytes for the same commit
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || echo 1)} $(BIN)/python -m hatchling build

deb: $(VENV)/.installed  ## a package for this release of Debian or Ubuntu, into dist/
	$(BIN)/python -m hatchling build -t wheel -d dist/deb
	config/debian/build.sh dist/deb/*.whl dist
	rm -rf dist/deb

lab: $(VENV)/.installed  ## install the upstream servers, legacy clients and database that the tests run
	tests/lab/install.sh

lab-servers: $(VENV)/.installed
	tests/lab/install.sh servers

bench: bench-peers  ## measure against nginx, Dovecot and email-oauth2-proxy: about an hour; writes bench/RESULTS.md
	$(BIN)/python -m bench $(ARGS)

bench-short: bench-peers  ## the same in minutes, to judge a change by
	$(BIN)/python -m bench --short $(ARGS)

bench-peers: $(VENV)/.installed lab-servers
	bench/install.sh

$(VENV)/.installed: requirements.lock pyproject.toml tests/venv.sh
	PYTHON=$(PYTHON) tests/venv.sh $(VENV)
	@touch $@

lock:  ## resolve requirements.lock anew: hashes, no URLs
	$(BIN)/uv pip compile pyproject.toml --group dev --extra postgresql --universal --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header --quiet --upgrade --output-file requirements.lock

clean:  ## remove what the commands above made here
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz .audit dist tests/lab/idp/node_modules bench/.peers
