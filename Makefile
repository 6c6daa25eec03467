# Sluice. `make help` lists the targets.
#
#   make BUILD=DIR        everything that is made goes there; default build/
#   make SAN=address,undefined CC=clang CFLAGS=-DX
BUILD ?= build
ifeq ($(origin CC),default)
CC := gcc
endif
PREFIX ?= /usr/local
# Where `make deps` put libduckdb, its extensions and its header; and the page, as C. A sanitized build shares both.
DEPS ?= $(BUILD)
PAGE ?= $(BUILD)/page_assets.c
JOBS ?= $(shell nproc)
VERSION := 0.1.0

PKGS := libuv libpq yaml-0.1 jansson libmicrohttpd libcurl zlib
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null | sed 's/-I/-isystem /g')
# Whose headers are used, and which an attempt maps itself when it needs it.
PKG_CFLAGS += $(shell pkg-config --cflags libmongoc-1.0 2>/dev/null | sed 's/-I/-isystem /g')
PKG_LIBS := $(shell pkg-config --libs $(PKGS) 2>/dev/null)
WARN := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition -Wpointer-arith -Wwrite-strings \
	-Wvla -Wformat=2 -Wimplicit-fallthrough -Wundef -fno-common
ifdef SAN
OPT := -O1 -g3 -fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer
else
OPT := -O2 -g -D_FORTIFY_SOURCE=2 -fstack-protector-strong
endif
CFLAGS_ALL = -std=c17 -D_GNU_SOURCE -DSLUICE_VERSION='"$(VERSION)"' $(OPT) $(WARN) -I. -isystem $(DEPS)/include $(PKG_CFLAGS) $(CFLAGS)
LIBS_ALL = $(PKG_LIBS) -lm -ldl -lpthread $(LDFLAGS)

FOLDERS := base storage flows scheduler scheduler/store tasks tasks/engines tasks/iceberg tasks/maintain api api/catalog daemon cli
SRC := $(foreach d,$(FOLDERS),$(wildcard $(d)/*.c))
OBJ := $(SRC:%.c=$(BUILD)/obj/%.o)
# Everything but main, so that a unit test pulls in just what it needs.
ARCHIVE := $(BUILD)/libsluice.a
UNIT_SRC := $(wildcard tests/unit/test_*.c)
UNIT := $(UNIT_SRC:tests/unit/%.c=$(BUILD)/unit/%)
WEB_SRC := $(shell find web -type f -not -path '*/node_modules/*' -not -path '*/dist/*' 2>/dev/null)

.DELETE_ON_ERROR:

# The Python package as it is installed: its modules, and what its engines require.
PYTHON_SRC := $(shell find tasks/engines/python -name '*.py' -o -name '*.properties' -o -name '*.java' -o -path '*/requirements/*.txt' -o -path '*/requirements/*.in' -o -path '*/requirements/*.jars')

.PHONY: all
all: $(BUILD)/sluice $(DEPS)/lib/python/.made ## build the program: build/sluice
	@:

.PHONY: debug
debug: $(PAGE) ## the same with AddressSanitizer and UBSan: build/debug/sluice
	@mkdir -p $(BUILD)/debug && ln -sfn $(abspath $(DEPS)/lib) $(BUILD)/debug/lib
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/debug DEPS=$(DEPS) PAGE=$(PAGE) SAN=address,undefined all

$(BUILD)/sluice: $(BUILD)/obj/cli/main.o $(ARCHIVE)
	@echo "  LD    $@"
	@$(CC) $(OPT) -o $@ $^ $(LIBS_ALL)

# What attempts in Python run: the package, beside the libraries.
$(DEPS)/lib/python/.made: $(PYTHON_SRC)
	@rm -rf $(@D)
	@mkdir -p $(@D)
	@tar -c -C tasks/engines/python $(PYTHON_SRC:tasks/engines/python/%=%) | tar -x -C $(@D)
	@touch $@

$(ARCHIVE): $(filter-out $(BUILD)/obj/cli/main.o,$(OBJ)) $(BUILD)/obj/page_assets.o
	@rm -f $@
	@ar rcs $@ $^

$(BUILD)/obj/%.o: %.c | $(DEPS)/include/duckdb.h
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(CC) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

$(BUILD)/obj/page_assets.o: $(PAGE)
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(CC) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

$(BUILD)/unit/%: tests/unit/%.c $(ARCHIVE)
	@mkdir -p $(@D)
	@echo "  CC    $<"
	@$(CC) $(CFLAGS_ALL) -MMD -MP -o $@ $< $(ARCHIVE) -lcmocka $(LIBS_ALL)

$(DEPS)/include/duckdb.h:
	@echo "something is missing to build with; run: make deps" >&2; exit 1

-include $(OBJ:.o=.d) $(BUILD)/obj/page_assets.d $(UNIT:=.d)

# The page: TypeScript, checked and bundled by Vite, then its files as bytes in C.
web/node_modules/.package-lock.json: web/package.json web/package-lock.json
	@echo "  NPM   web"
	@# `install`, not `ci`: the lock names one platform's optional packages, which ci refuses on any; hashes are checked all the same.
	@cd web && npm install --no-save --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
	@touch $@

$(BUILD)/web/index.html: $(WEB_SRC) web/node_modules/.package-lock.json
	@mkdir -p $(BUILD)
	@echo "  WEB   $(BUILD)/web"
	@cd web && npm run --silent build -- --outDir $(abspath $(BUILD))/web --emptyOutDir --logLevel warn

$(BUILD)/page_assets.c: $(BUILD)/web/index.html tools/embed
	@tools/embed $@ $(BUILD)/web

.PHONY: deps
deps: ## install what is missing: Debian packages, libduckdb and its extensions (pinned by SHA-256)
	@tools/deps $(BUILD)

.PHONY: demo
demo: ## build, start the daemon, run examples/employees and show the result; PORT=8080
	@PORT=$(PORT) DEMO_HOME=$(DEMO_HOME) ROWS=$(ROWS) tools/demo start $(BUILD)

.PHONY: demo-stop
demo-stop: ## stop what `make demo` started
	@DEMO_HOME=$(DEMO_HOME) tools/demo stop $(BUILD)

.PHONY: check
check: ## every test; ends with "N passed, N failed, N skipped"
	@tools/check $(BUILD)

.PHONY: unit
unit: $(PAGE) ## the unit tests, with AddressSanitizer and UBSan; NAME=cron runs test_cron alone
	@mkdir -p $(BUILD)/debug && ln -sfn $(abspath $(DEPS)/lib) $(BUILD)/debug/lib
	@$(MAKE) --no-print-directory -j$(JOBS) BUILD=$(BUILD)/debug DEPS=$(DEPS) PAGE=$(PAGE) SAN=address,undefined unit-programs
	@tools/unit $(BUILD) $(BUILD)/debug/unit $(if $(NAME),test_$(NAME),$(UNIT_SRC:tests/unit/%.c=%))

.PHONY: unit-programs
unit-programs: $(UNIT)

.PHONY: integration
integration: all ## the tests against the real program and PostgreSQL; ARGS="-k employees"
	@tools/integration $(BUILD) $(ARGS)

.PHONY: integration-debug
integration-debug: debug ## the same against the sanitized program
	@SLUICE_BINARY=$(abspath $(BUILD))/debug/sluice SLUICE_TEST_PATIENCE=60 tools/integration $(BUILD) $(ARGS)

.PHONY: interop
interop: all ## DuckDB, PyIceberg and Spark on the same tables, in both directions; SPARKS="4.1 3.5" ARGS="-k rollback"
	@tools/interop $(BUILD) "$(or $(SPARKS),4.1 3.5)" $(ARGS)

.PHONY: faults
faults: all ## kill, stop and starve every process and check that nothing is lost; SEED= ROUNDS=500, ONLY=17 repeats one round
	@tools/faults $(BUILD) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY),--rounds $(or $(ROUNDS),500) --long --write) $(ARGS)

.PHONY: check-deps
check-deps: ## who may include what, as docs/architecture.md says
	@tools/check-deps

.PHONY: lint
lint: ## the Python package: mypy (strict) and ruff
	@tools/lint $(BUILD)

.PHONY: check-format
check-format: ## does the code look as .clang-format says?
	@tools/format --check

.PHONY: format
format: ## make the code look as .clang-format says
	@tools/format

.PHONY: bench
bench: all ## measure it all, a quarter of an hour, into tests/bench/README.md; ARGS="--only chain load"
	@python3 tests/bench/bench.py --binary $(BUILD)/sluice $(ARGS)

.PHONY: reference
reference: ## write docs/reference.md from the flow language's JSON Schema
	@tools/gen-reference

.PHONY: compile_commands.json
compile_commands.json: ## for clangd and other tools
	@{ echo '['; sep=; for f in $(SRC) $(UNIT_SRC); do \
		printf '%s{"directory": "%s", "file": "%s", "arguments": [%s]}' "$$sep" "$(CURDIR)" "$$f" "$$(for a in $(CC) $(CFLAGS_ALL) -c $$f; do \
			printf '%s"%s"' "$$c" "$$(printf %s "$$a" | sed 's/\\/\\\\/g; s/"/\\"/g')"; c=', '; done)"; \
		sep=$$(printf ',\n.'); sep=$${sep%.}; done; echo; echo ']'; } >$@

.PHONY: install
install: all ## install below PREFIX (/usr/local): the program, libduckdb and its extensions
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/sluice
	install -m 0755 $(BUILD)/sluice $(DESTDIR)$(PREFIX)/bin/sluice
	install -m 0644 $(DEPS)/lib/libduckdb.so $(wildcard $(DEPS)/lib/*.duckdb_extension) $(DESTDIR)$(PREFIX)/lib/sluice/
	install -m 0644 $(DEPS)/lib/SHA256SUMS $(DESTDIR)$(PREFIX)/lib/sluice/
	rm -rf $(DESTDIR)$(PREFIX)/lib/sluice/python
	$(foreach f,$(PYTHON_SRC:tasks/engines/python/%=%),install -m 0644 -D tasks/engines/python/$(f) $(DESTDIR)$(PREFIX)/lib/sluice/python/$(f) &&) true

.PHONY: clean
clean: ## remove what was built (not what was downloaded, nor the demo's state)
	rm -rf $(BUILD)/obj $(BUILD)/unit $(BUILD)/debug $(BUILD)/test $(BUILD)/sluice $(ARCHIVE) $(BUILD)/page_assets.c $(BUILD)/web

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z_.-]+:.*## / { printf "  %-22s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
