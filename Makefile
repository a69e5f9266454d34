# birdstation: two commands do all the set-up on a fresh Debian or Ubuntu.
#   make demo         the station on its own: base install, shipped bundle, a broker, detections
#   make test         everything the project promises, checked
#   make demo-train   everything from nothing: corpus, training, bundle, replay (PUBLISH=1 refreshes what ships)
#   make bench        ratios, measured in one run

PYTHON ?= python3
BASE := .venv/bin/python
DEV := .venv-dev/bin/python
# What pip does not bring: PortAudio for sounddevice, a broker for demo and tests.
SYSTEM := mosquitto libportaudio2
# Without compiling what is never imported: a third less disk; Python compiles the rest on first use.
INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile

.PHONY: demo demo-train test lint bench clean system

demo: .venv/installed
	$(BASE) -m edge demo --out build/demo

demo-train: .venv-dev/installed
	$(DEV) -m export demo-train --out build/train-demo $(if $(PUBLISH),--publish)

test: lint
	$(DEV) -m pytest

lint: .venv-dev/installed
	$(DEV) -m ruff check .
	$(DEV) -m ruff format --check .
	$(DEV) -m mypy
	.venv-dev/bin/lint-imports

bench: .venv-dev/installed
	$(DEV) tests/bench.py

# Debian and Ubuntu: installs as root what is missing, otherwise says what to install and goes on.
system:
	@missing=""; for p in $(SYSTEM); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	else echo "Please install:$$missing (sudo apt-get install$$missing); going on without."; fi

.venv/installed: pyproject.toml | system
	@$(MAKE) --no-print-directory venv DIR=.venv EXTRAS=

.venv-dev/installed: pyproject.toml | system
	@$(MAKE) --no-print-directory venv DIR=.venv-dev EXTRAS='[dev]'

.PHONY: venv
venv:
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "Python 3.10 or newer is wanted"'
	@$(PYTHON) -m venv $(DIR)
	$(DIR)/bin/python $(INSTALL) -e '.$(EXTRAS)'
	@touch $(DIR)/installed

clean:
	rm -rf .venv .venv-dev build
