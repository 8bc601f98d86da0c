# Two commands first: `make repro` (the whole pipeline) and `make test`. Every target brings its own environment.

UV := tools/uv
RUN := $(UV) run --no-sync
REPORT := reports/report.html
ARGS ?=

export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.PHONY: help repro test lint format report summary register doctor sync clean-cache

help: ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "make %-12s %s\n", $$1, $$2}'

repro: sync ## run what changed of the pipeline, register the student, and say what came out
	@$(RUN) stillsmall doctor --quick
	$(RUN) dvc repro $(ARGS)
	$(RUN) stillsmall register
	@$(RUN) stillsmall summary

test: sync ## all tests (ARGS="tests/test_text.py -x" for some)
	$(RUN) pytest $(ARGS)

lint: sync ## ruff, its formatter, and mypy; changes nothing
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

format: sync ## let ruff mend what it can
	$(RUN) ruff check --fix --exit-zero .
	$(RUN) ruff format .

report: ## where the report is; opens it where there is a desktop
	@test -f $(REPORT) || { echo "There is no $(REPORT) yet: make repro"; exit 1; }
	@echo "$(CURDIR)/$(REPORT)"
	@if [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] && command -v xdg-open >/dev/null; then xdg-open $(REPORT); fi

summary: sync ## teacher against student, and what to type next
	@$(RUN) stillsmall summary

register: sync ## put models/student into the registry (once, however often this runs)
	$(RUN) stillsmall register

doctor: sync ## what this machine has and lacks
	@$(RUN) stillsmall doctor

sync: ## the locked environment, with uv where there is none
	@tools/sync

clean-cache: ## forget unfinished and reusable work in .stillsmall/cache; models, data and registry stay
	rm -rf .stillsmall/cache
