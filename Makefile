# A thin face over CMake.  `make help` lists what there is; `make demo` is the place to begin.
JOBS ?= $(shell nproc)
PREFIX ?= /usr/local
# PRESET: one of CMakePresets.json (release, debug, clang, asan, tsan, fuzz, coverage, cuda)
PRESET ?= release
# CMAKE_FLAGS: more for cmake's first step, such as -DCAMBIUM_WERROR=ON
CMAKE_FLAGS ?=
CTEST_FLAGS ?=
MAKEFLAGS += --no-print-directory
SOURCES = $(shell find include src tests bench examples -name '*.c' -o -name '*.h')

.PHONY: all build setup demo check bench install docs format lint clean help

all: build

build: ## build the library and the program (PRESET=release)
	cmake --preset $(PRESET) $(CMAKE_FLAGS)
	cmake --build --preset $(PRESET) --parallel $(JOBS)

setup: ## install the Debian packages a build needs, if any is missing
	tools/setup.sh build

demo: setup ## from nothing to an adapted model, in a few minutes
	$(MAKE) build PRESET=release
	PATH="$(CURDIR)/build:$$PATH" tools/demo.sh

check: setup build ## build and run every test
	ctest --preset $(PRESET) --parallel $(JOBS) $(CTEST_FLAGS)

bench: ## rates of matrix products on this machine
	$(MAKE) build PRESET=release
	build/cambium bench gemm

install: build ## install under PREFIX (/usr/local); DESTDIR is honoured
	cmake --install build --prefix $(PREFIX)

docs: build ## write docs/commands.md from the option tables
	build/cambium help --markdown > docs/commands.md

format: ## clang-format every source file
	clang-format -i $(SOURCES)

lint: ## check the format, then clang-tidy
	tools/lint.sh

clean: ## delete what builds made
	rm -rf build build-*

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s%s\n", $$1, $$2}' Makefile
