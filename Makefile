# corewire: the commands that matter. Everything needs Go alone, unless it says so.

GO      ?= go
BIN     := bin/corewire
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

.PHONY: all build demo test race fuzz lint generate generate-check bench bench-classify bench-inline install clean

all: build

build: ## build bin/corewire
	$(GO) build -trimpath -ldflags "-X main.version=$(VERSION)" -o $(BIN) ./cmd/corewire

demo: build ## show on real traffic what corewire does (root; ARGS=--stay keeps the lab up)
	$(GO) run ./tools/demo --corewire $(BIN) $(ARGS)

test: ## all tests; as root the namespace tests too
	$(GO) test -timeout 15m ./...

race: ## the tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -short -timeout 15m ./...

FUZZTIME ?= 5s
# Inputs are made smaller in few steps, for that would else take nearly all of the time. Where the time is over just while an
# input runs, Go's fuzzer now and then calls that a failure ("context deadline exceeded", without an input): tried again.
fuzz: ## every fuzz target for FUZZTIME
	@set -e; for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "fuzz $$pkg $$f"; \
	    for try in 1 2 3; do \
	      if out=$$($(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$pkg 2>&1); then echo "$$out" | tail -n 1; continue 2; fi; \
	      echo "$$out"; \
	      case "$$out" in *"Failing input"*) exit 1;; *"context deadline exceeded"*) ;; *) exit 1;; esac; \
	    done; exit 1; \
	  done; done

lint: ## gofmt, go vet, staticcheck
	@test -z "$$(gofmt -l .)" || { echo "gofmt wants to change:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

generate: ## rebuild the XDP objects (needs clang) and the generated documentation
	$(GO) generate ./...

generate-check: generate ## fail if a generated file was not current
	git diff --exit-code

bench: ## the in-memory path and the table, with allocations
	$(GO) test -run '^$$' -bench . -benchmem ./bench/...

bench-classify: ## finding a packet's rule, beside DPDK's classifier where it is installed
	$(GO) run ./bench/classify $(ARGS)

bench-inline: build ## corewire beside a bare AF_XDP forwarder and a Linux bridge firewall (root)
	$(GO) run ./bench/inline --corewire $(BIN) $(ARGS)

install: build ## install the binary, the unit file, and a configuration to edit where there is none yet, under DESTDIR
	install -D -m 0755 $(BIN) $(DESTDIR)/usr/local/sbin/corewire
	install -D -m 0644 tools/systemd/corewire.service $(DESTDIR)/etc/systemd/system/corewire.service
	test -e $(DESTDIR)/etc/corewire/corewire.yaml || install -D -m 0644 tools/systemd/corewire.yaml $(DESTDIR)/etc/corewire/corewire.yaml

clean:
	rm -rf bin out
