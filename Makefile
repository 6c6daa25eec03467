# Sluice. `make help` lists the targets.
BUILD ?= build
CC ?= gcc
LIB := $(BUILD)/lib

PKGS := libuv libpq yaml-0.1 jansson libmicrohttpd libcurl
PKG_CFLAGS = $(shell pkg-config --cflags $(PKGS) | sed 's/-I/-isystem /g')
PKG_LIBS = $(shell pkg-config --libs $(PKGS))
WARN := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition -Wpointer-arith -Wwrite-strings \
	-Wvla -Wformat=2 -Wimplicit-fallthrough -Wundef -fno-common
ifdef SAN
OPT := -O1 -g3 -fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer
else
OPT := -O2 -g -D_FORTIFY_SOURCE=2 -fstack-protector-strong
endif
VERSION := 0.1.0
CFLAGS_ALL = -std=c17 -D_GNU_SOURCE -DSLUICE_VERSION='"$(VERSION)"' $(OPT) $(WARN) -I. -isystem $(BUILD)/include $(PKG_CFLAGS) $(CFLAGS)
LIBS_ALL = $(PKG_LIBS) -lm -ldl -lpthread $(LDFLAGS)

FOLDERS := base flows scheduler scheduler/store tasks tasks/engines tasks/iceberg api api/catalog daemon cli
SRC := $(foreach d,$(FOLDERS),$(wildcard $(d)/*.c))
OBJ := $(SRC:%.c=$(BUILD)/obj/%.o) $(BUILD)/obj/page_assets.o
# Everything but main, so that a unit test pulls in just what it needs.
ARCHIVE := $(BUILD)/libsluice.a
UNIT := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(wildcard tests/unit/test_*.c))

.PHONY: all
all: $(BUILD)/sluice ## build the program: build/sluice

$(BUILD)/sluice: $(BUILD)/obj/cli/main.o $(ARCHIVE)
	$(CC) $(OPT) -o $@ $^ $(LIBS_ALL)

$(ARCHIVE): $(filter-out $(BUILD)/obj/cli/main.o,$(OBJ))
	@rm -f $@
	ar rcs $@ $^

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

$(BUILD)/obj/page_assets.o: $(BUILD)/page_assets.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -c -o $@ $<

$(BUILD)/unit/%: tests/unit/%.c $(ARCHIVE)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -MMD -MP -o $@ $< $(ARCHIVE) -lcmocka $(LIBS_ALL)

-include $(OBJ:.o=.d) $(UNIT:=.d)

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: clean
clean: ## remove what was built (not what was downloaded)
	rm -rf $(BUILD)/obj $(BUILD)/unit $(BUILD)/sluice $(ARCHIVE) $(BUILD)/page_assets.c $(BUILD)/web
