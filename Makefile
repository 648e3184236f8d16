# Every command of this project. PG chooses the major version of PostgreSQL (14 to 18).
LAB = sh lab/run.sh aimq-lab
BENCH = sh lab/run.sh aimq-bench
HUNT = sh lab/run.sh aimq-hunt
SQLFUZZ = sh lab/run.sh aimq-sqlfuzz
MAJOR = $(if $(PG),--pg $(PG))

# Only where the command names it: who has a PG_CONFIG in the environment may not mean to have it written into.
OWN = $(if $(findstring command line,$(origin PG_CONFIG)),--pg-config "$(PG_CONFIG)")

.PHONY: help demo test hunt bugs fuzz bench install uninstall pgmq env lint deny

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: ## See a worker being woken, on a throw-away server (PG=17)
	@$(LAB) demo $(MAJOR)

test: ## Run every test on PostgreSQL 14 to 18 (PG=17 or PG_CONFIG=…, KIND=unit|client|pgrx|commands, TEST=name)
	@$(LAB) test $(KIND) $(MAJOR) $(OWN)

hunt: ## Look at random for lost wake-ups (SECONDS=60 SEED=… PG=17 PRELOAD=1|0 SHRINK=SEED CONTESTANT=…, ARGS=…)
	@$(HUNT) $(if $(SHRINK),--shrink $(SHRINK)) $(if $(CONTESTANT),--contestant $(CONTESTANT)) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) $(if $(PRELOAD),--preload $(PRELOAD)) $(MAJOR) $(ARGS)

bugs: ## Build aimq with deliberate bugs, and see each of them caught by a test (BUG=unit|loom|client or part of a name)
	@$(LAB) bugs $(BUG)

fuzz: ## Call all of aimq's SQL with hostile values (SECONDS=60 SEED=… PG=17 PRELOAD=1|0, ARGS=…)
	@$(SQLFUZZ) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) $(if $(PRELOAD),--preload $(PRELOAD)) $(MAJOR) $(ARGS)

bench: ## Measure aimq beside its alternatives (PG=17, QUICK=1, KEEP=1, PICTURES=1, SHAPES=1, ARGS=…)
	@$(BENCH) $(if $(SHAPES),shapes,$(if $(PICTURES),pictures,run)) $(if $(QUICK),--quick) $(if $(KEEP),--keep) $(MAJOR) $(ARGS)

install: ## Build a release and install it: make install PG_CONFIG=/path/to/pg_config
	@$(LAB) install "$(or $(PG_CONFIG),$(shell command -v pg_config))"

uninstall: ## Remove aimq's files, if no server needs them: make uninstall PG_CONFIG=/path/to/pg_config (FORCE=1)
	@$(LAB) uninstall "$(PG_CONFIG)" $(if $(FORCE),--force)

pgmq: ## Install the pgmq that aimq is tested with: make pgmq PG_CONFIG=/path/to/pg_config
	@$(LAB) pgmq "$(PG_CONFIG)"

env: ## Print what cargo-pgrx needs to work by hand: eval "$(make env PG=17)"
	@$(LAB) env $(MAJOR)

lint: ## Check spelling, formatting, clippy and documentation; warnings are errors
	@$(LAB) lint

deny: ## Check the licences and sources of the crates that aimq depends on
	@$(LAB) deny
