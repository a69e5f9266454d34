# birdstation: each of these does all the set-up on a fresh Debian or Ubuntu. `make help` prints this list.
#   make birds        real species in real sound (FOLDER=recordings PLACE=LAT,LON ACCEPT=CC-BY-NC-SA-4.0 FROM=packages)
#   make own          your own birds from a folder for each species (FOLDER=sorted QUIET=without-birds, as above)
#   make demo         the station on its own: base install, shipped bundle (invented birds), a broker, detections
#   make test         everything the project promises, checked
#   make test-station the station's tests alone, without the trainer's libraries (PYTHON=python3.10)
#   make check        lint, types and the fast tests of what changed: between steps (SINCE=REV: since a commit)
#   make coverage     which branches the tests reach, package by package
#   make demo-train   everything from nothing: corpus, training, bundle, replay (PUBLISH=1 refreshes what ships)
#   make pictures     the picture in README, from the demonstration
#   make bench        ratios, measured in one run (BEFORE=REV: this code beside that of a commit)
#   make jetson-check on a Jetson: engines compiled, parity, latency, memory, power (docs/jetson.md)
#   make install      the station as a service of this machine (as root), uninstall takes it away: docs/install.md

PYTHON ?= python3
BASE := .venv/bin/python
DEV := .venv-dev/bin/python
# A shell may forbid Python to keep what it compiles; then each of hundreds of starts compiles torch anew.
unexport PYTHONDONTWRITEBYTECODE
# More than cores: some tests wait for clocks and brokers.
WORKERS ?= $(shell expr $$(nproc 2>/dev/null || echo 2) + 2)
# What pip does not bring: PortAudio for sounddevice, a broker for demo and tests.
SYSTEM := mosquitto libportaudio2
# What only the tests want: systemd's own tools judge the units, PulseAudio is a sound card without hardware.
SYSTEM_TEST := systemd pulseaudio pulseaudio-utils libasound2-plugins
# Without compiling what is never imported: a third less disk. What a station imports is compiled right after.
INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile

.PHONY: help birds own demo pictures demo-train test test-station check coverage lint bench clean system

help:
	@sed -n 's/^#   //p; /^$$/q' Makefile

demo: .venv/installed
	$(BASE) -m edge demo --out build/demo

# What was given by name comes through the environment, whatever characters are in it.
birds: SYSTEM :=
birds: .venv/adopt
	@$(BASE) -m export birds --out build/birds $${PLACE:+"--place=$$PLACE"} $${ACCEPT:+--accept "$$ACCEPT"} \
	  $${FROM:+--from "$$FROM"} $${FOLDER:+-- "$$FOLDER"}

own: SYSTEM :=
own: .venv/own
	@$(BASE) -m export own --out build/own $${PLACE:+"--place=$$PLACE"} $${ACCEPT:+--accept "$$ACCEPT"} \
	  $${FROM:+--from "$$FROM"} $${QUIET:+"--quiet=$$QUIET"} $${NEW:+"--new=$$NEW"} -- "$${FOLDER:?expected \
	  FOLDER=recordings, with a folder for each species}"

# README's picture, drawn from what the demonstration found.
pictures: .venv-dev/installed
	$(DEV) -m edge demo --out build/demo
	$(DEV) docs/pictures/draw.py build/demo docs/pictures/demo.png

demo-train: .venv-dev/installed
	$(DEV) -m export demo-train --out build/train-demo $(if $(PUBLISH),--publish)

test: SYSTEM += $(SYSTEM_TEST)
test: lint
	$(DEV) -m pytest -n $(WORKERS)

# The station's tests alone, without the libraries of the trainer, on whatever Python PYTHON is.
STATIONS_TESTS := tests/edge tests/project tests/export/test_adopt.py tests/export/test_birds.py
TRAINERS_TESTS := edge/test_jobs $(addprefix project/test_,damaged_arrays foreign_folders geographic_limit older_run rows text workshop)
test-station: SYSTEM += $(SYSTEM_TEST)
test-station: .venv-station/installed
	.venv-station/bin/python -m pytest -n $(WORKERS) $(STATIONS_TESTS) $(TRAINERS_TESTS:%=--ignore=tests/%.py) --deselect \
	  tests/project/test_interrupted.py::test_the_trainer_and_its_workers_end --deselect \
	  tests/project/test_interrupted.py::test_in_the_middle_of_catboost_it_is_the_same_word

.venv-station/installed: pyproject.toml | system
	@$(MAKE) --no-print-directory venv DIR=.venv-station EXTRAS='[test]'

check: lint
	$(DEV) -m tests.changed $(if $(SINCE),--since $(SINCE)) -n $(WORKERS)

coverage: SYSTEM += $(SYSTEM_TEST)
coverage: export COVERAGE_FILE := $(CURDIR)/build/coverage/data
coverage: .venv-dev/installed
	@rm -rf build/coverage && mkdir -p build/coverage
	$(DEV) -m coverage run -m pytest -n $(WORKERS) || touch build/coverage/failed
	@$(DEV) -m coverage combine --quiet build/coverage
	@for package in edge trainer export; do \
	  $(DEV) -m coverage json -q --include "$$package/*" -o build/coverage/$$package.json && \
	  $(DEV) -c 'import json, sys; t = json.load(open(sys.argv[1]))["totals"]; n, of = t["covered_branches"], \
	    t["num_branches"]; print(f"{sys.argv[1]}: {n} of {of} branches, {100 * n / of:.2f} %")' \
	    build/coverage/$$package.json; done
	@[ ! -e build/coverage/failed ]

lint: .venv-dev/installed
	$(DEV) -m ruff check .
	$(DEV) -m ruff format --check .
	$(DEV) -m mypy
	.venv-dev/bin/lint-imports

bench: .venv-dev/installed
	$(DEV) -m tests.bench $(if $(BEFORE),--before $(BEFORE))

# What only the board can show. Its Python is the system's, which sees JetPack's TensorRT.
JETSON_PYTHON := .venv-jetson/bin/python
BUNDLE ?= edge/demo/bundle
STATE ?= build/jetson

.PHONY: jetson-check
jetson-check: .venv-jetson/installed
	$(JETSON_PYTHON) -m export trt --bundle $(BUNDLE) --out $(STATE)/engines
	$(JETSON_PYTHON) -m export trt-bench --bundle $(BUNDLE) --engines $(STATE)/engines

.venv-jetson/installed: pyproject.toml | system
	@$(MAKE) --no-print-directory venv DIR=.venv-jetson EXTRAS='[trt]' VENV_OPTIONS=--system-site-packages

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

.venv/adopt: pyproject.toml | system
	@$(MAKE) --no-print-directory venv DIR=.venv EXTRAS='[adopt]'
	@touch $@

.venv-dev/installed: pyproject.toml | system
	@$(MAKE) --no-print-directory venv DIR=.venv-dev EXTRAS='[dev]'

.venv/own: pyproject.toml | system
	@$(MAKE) --no-print-directory venv DIR=.venv EXTRAS='[adopt,export]'
	@touch $@

NEW_ENOUGH := 'import sys; sys.version_info >= (3, 10) or sys.exit("error: expected Python 3.10 or newer, found " + \
  sys.version.split()[0] + "; name another with PYTHON=/path/to/python3")'

.PHONY: venv
venv:
	@$(PYTHON) -c $(NEW_ENOUGH)
	@$(PYTHON) -m venv $(VENV_OPTIONS) $(DIR)
	$(DIR)/bin/python $(INSTALL) -e '.$(EXTRAS)'
	@$(DIR)/bin/python -c 'import edge.__main__'
	@touch $(DIR)/installed

# The service: PREFIX is its own folder, DESTDIR a tree to install into for another machine or a package.
PREFIX ?= /opt/birdstation
# `uninstall` removes what these name, and make takes a space for the end of a name.
ifneq ($(words x$(PREFIX) x$(DESTDIR)),2)
$(error expected PREFIX and DESTDIR without spaces, found "$(PREFIX)" and "$(DESTDIR)")
endif
ifeq ($(filter /%,$(PREFIX)),)
$(error expected PREFIX as an absolute path, found "$(PREFIX)")
endif
STATE_FOLDER := /var/lib/birdstation
LINK := $(DESTDIR)/usr/local/bin/birdstation
UNITS := birdstation.service birdstation-retention.service birdstation-retention.timer \
  birdstation-backup.service birdstation-backup.timer
UNIT_DIR := $(DESTDIR)/etc/systemd/system
SHARE := $(DESTDIR)$(PREFIX)/share/birdstation

.PHONY: install install-files install-environment state-folder uninstall
install: install-environment install-files
	@if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" = 0 ]; then systemd-sysusers && $(MAKE) --no-print-directory state-folder \
	  && { [ ! -d /run/systemd/system ] || systemctl daemon-reload; }; fi
	@echo "Installed. Your settings are in /etc/birdstation/station.yaml. Next, type:"
	@echo "  sudo -u birdstation birdstation check"
	@echo "  sudo systemctl enable --now birdstation"

# As the service would make it at its first start, so that the check before that finds it.
state-folder:
	@[ -e $(STATE_FOLDER) ] || install -d -m750 -o birdstation -g birdstation $(STATE_FOLDER)

# Units, user and settings; settings that are there stay as they are.
install-files:
	@mkdir -p $(UNIT_DIR) $(DESTDIR)/etc/sysusers.d $(DESTDIR)/etc/birdstation $(SHARE)/optional $(dir $(LINK))
	@ln -sfn $(PREFIX)/bin/birdstation $(LINK)
	@for unit in $(UNITS); do sed 's#/opt/birdstation#$(PREFIX)#g' systemd/$$unit >$(UNIT_DIR)/$$unit || exit 1; done
	@for file in systemd/optional/*.conf; do \
	  sed 's#/opt/birdstation#$(PREFIX)#g' $$file >$(SHARE)/optional/$$(basename $$file) || exit 1; done
	@install -m644 systemd/sysusers.conf $(DESTDIR)/etc/sysusers.d/birdstation.conf
	@install -m644 docs/*.md station.yaml $(SHARE)
	@settings=$(DESTDIR)/etc/birdstation/station.yaml; [ -e $$settings ] || \
	  { sed 's#^state: \. #state: $(STATE_FOLDER) #' station.yaml >$$settings && chmod 644 $$settings; }

# Built from a copy: nothing that an older version left behind comes along, nothing of root's stays in the checkout.
# Compiled here, since the service may not write to its own folder.
install-environment: SYSTEM := libportaudio2
install-environment: | system
	@[ -n "$(DESTDIR)" ] || [ "$$(id -u)" = 0 ] || { echo "error: only root may install: sudo make install"; exit 1; }
	@$(PYTHON) -c 'import os, sys; base = os.path.realpath(sys.base_prefix); sys.exit(base.startswith(("/root", "/home")) \
	  and f"error: the service cannot read the Python in {base}; make install PYTHON=/usr/bin/python3" or 0)'
	@$(PYTHON) -c $(NEW_ENOUGH)
	@$(PYTHON) -m venv $(if $(JETSON),--system-site-packages) $(DESTDIR)$(PREFIX)
	@copy=$$(mktemp -d) && trap "rm -rf $$copy" EXIT && \
	  cp -r edge trainer export pyproject.toml README.md LICENSE $$copy && \
	  $(DESTDIR)$(PREFIX)/bin/python -m pip install --quiet --disable-pip-version-check "$$copy$(if $(JETSON),[trt])"
	@[ -z "$(DESTDIR)" ] || sed -i 's#$(DESTDIR)$(PREFIX)#$(PREFIX)#g' $(DESTDIR)$(PREFIX)/bin/birdstation

# Settings in /etc/birdstation, the record in /var/lib/birdstation and the user stay.
uninstall:
	@if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" = 0 ]; then systemctl disable --now $(UNITS) || :; fi
	@rm -rf $(addprefix $(UNIT_DIR)/,$(UNITS)) $(DESTDIR)/etc/sysusers.d/birdstation.conf $(SHARE)
	@[ "$$(readlink $(LINK))" != $(PREFIX)/bin/birdstation ] || rm $(LINK)
	@[ ! -e $(DESTDIR)$(PREFIX)/pyvenv.cfg ] || rm -rf $(DESTDIR)$(PREFIX)
	@if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" = 0 ]; then systemctl daemon-reload || :; fi
	@echo "Removed. Still there: /etc/birdstation, $(STATE_FOLDER) and the user birdstation."

clean:
	rm -rf .venv .venv-dev .venv-station .venv-jetson build
