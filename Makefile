# knockknock: build, try, test, install. `make help` lists the targets.

PREFIX ?= /usr/local
DESTDIR ?=
PYTHON ?= /usr/bin/python3

BINARY := target/release/knockknock
# A binary of the same version that runs on this machine; it prints the help texts, from which the completions are made.
NATIVE = $(BINARY)
APPLETS := knockknock-daemon knockknock-genprofile knockknock-proxy
PAGES := $(wildcard man/*.[1-8])
SHELL_SCRIPTS := .ci/run $(shell find scripts tests -name '*.sh') scripts/openwrt/knockknock/root/etc/init.d/knockknock \
	$(addprefix scripts/debian/,postinst prerm postrm) tests/openwrt/stand-in/etc/rc.common

bindir := $(DESTDIR)$(PREFIX)/bin
mandir := $(DESTDIR)$(PREFIX)/share/man
unitdir := $(DESTDIR)$(PREFIX)/lib/systemd/system
bashdir := $(DESTDIR)$(PREFIX)/share/bash-completion/completions
zshdir := $(DESTDIR)$(PREFIX)/share/zsh/site-functions
fishdir := $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d

.DEFAULT_GOAL := build

.PHONY: build
build: ## build target/release/knockknock (the default; names what is missing, and installs nothing)
	@scripts/setup.sh --check build
	cargo build --release --locked
	@touch target/release/knockknock

.PHONY: demo
demo: ## watch a closed port open to one knock, once (as root; installs missing packages with apt)
	@scripts/setup.sh build demo
	@$(MAKE) --no-print-directory build
	@scripts/demo.sh

.PHONY: test
test: ## run the unit, integration and end-to-end tests (as root, about 20 minutes; installs missing packages with apt)
	@scripts/setup.sh build test
	@scripts/test.sh

.PHONY: e2e
e2e: ## run the end-to-end tests only: namespaces, real firewalls, the real kernel log
	@scripts/setup.sh build test
	@$(MAKE) --no-print-directory build
	$(PYTHON) -B -m pytest tests/e2e --ignore=tests/e2e/test_browser.py

.PHONY: browser
browser: ## open links in a real browser (as root, half a minute; installs Chromium, 370 MB)
	@scripts/setup.sh build test browser
	@$(MAKE) --no-print-directory build
	$(PYTHON) -B -m pytest tests/e2e/test_browser.py

.PHONY: e2e-static
e2e-static: ## run those of the log and of privileges with the static file: musl makes other system calls than glibc
	@scripts/setup.sh build test
	scripts/build-static.sh x86_64
	KNOCKKNOCK=$(CURDIR)/dist/x86_64-unknown-linux-musl/knockknock \
		$(PYTHON) -B -m pytest tests/e2e/test_log.py tests/e2e/test_privileges.py

SEED ?= $(shell date +%s)

.PHONY: simulate
simulate: ## run 10 million steps of the watcher's simulation (SEED=…); make test runs 100,000
	KNOCKKNOCK_SEED=$(SEED) KNOCKKNOCK_STEPS=10000000 \
		cargo test --release --locked --test simulation -- --nocapture

HOST := x86_64-unknown-linux-gnu

.PHONY: sanitize
sanitize: ## run the tests of sys/, the only unsafe code, under valgrind and AddressSanitizer
	@scripts/setup.sh build sanitize
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="valgrind -q --error-exitcode=1" \
		cargo test --locked --lib --target $(HOST) sys::
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=target/sanitize \
		cargo test --locked --lib --target $(HOST) sys::

.PHONY: deny
deny: ## check the dependencies' licences, sources and duplicate versions with cargo-deny
	@scripts/setup.sh build deny
	scripts/deny.sh licenses sources bans

.PHONY: advisories
advisories: ## check the dependencies for security advisories with cargo-deny (fetches the RustSec database)
	@scripts/setup.sh build deny
	scripts/deny.sh advisories

SECONDS ?= 60

.PHONY: fuzz
fuzz: ## search with cargo-fuzz for inputs that break a parser, SECONDS (60) for each target
	tests/fuzz/run.sh $(SECONDS)

.PHONY: fuzz-seeds
fuzz-seeds: ## run each fuzz target once over its committed inputs (without cargo-fuzz)
	@scripts/setup.sh build fuzz
	tests/fuzz/run.sh 0

.PHONY: bench bench-quick
bench: ## measure knockknock beside its peers and the floor, and write docs/benchmarks.md (as root, ten minutes)
bench-quick: ## print the same in under a minute, with less certainty
bench bench-quick:
	@scripts/setup.sh build bench
	@$(MAKE) --no-print-directory $(if $(wildcard dist/x86_64-unknown-linux-musl/knockknock),static,build)
	$(PYTHON) -B tests/bench/bench.py $(if $(filter bench-quick,$@),--quick)

.PHONY: bench-proxy
bench-proxy: ## measure the proxy beside a direct connection and microsocks, for the same document (as root, three minutes)
	@scripts/setup.sh build bench
	@$(MAKE) --no-print-directory build
	$(PYTHON) -B tests/bench/proxy.py

.PHONY: bench-doc
bench-doc: ## render docs/benchmarks.md and .svg again from docs/benchmarks.json, without measuring
	$(PYTHON) -B tests/bench/document.py

.PHONY: drawings
drawings: ## draw docs/knock.svg, the path of a knock
	$(PYTHON) -B scripts/drawings.py

.PHONY: lint
lint: ## check format, lints, shell scripts, manual pages and the documentation
	@scripts/setup.sh build lint
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	shellcheck -x $(SHELL_SCRIPTS)
	mandoc -Tlint -Wwarning $(PAGES)
	! mandoc -Tlint -Wall $(PAGES) 2>/dev/null | grep -v 'referenced manual not found'
	RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps

TARGET ?= x86_64-unknown-linux-musl

.PHONY: static
static: ## build dist/TARGET/knockknock, one static musl file (TARGET=x86_64-unknown-linux-musl)
	scripts/build-static.sh $(TARGET)

.PHONY: static-all
static-all: ## the same for each target in scripts/targets.tsv
	scripts/build-static.sh all

.PHONY: deb ipk apk
deb: ## build a Debian package of the static file in dist/ (ARCH=amd64, arm64, armhf; see scripts/targets.tsv)
ipk: ## build a package for OpenWrt up to 24.10 in dist/ (ARCH=x86_64, mips_24kc, mipsel_24kc, aarch64_cortex-a53, ...)
apk: ## the same for OpenWrt 25.12 and later
deb ipk apk:
	scripts/package.sh $@ $(or $(ARCH),$(if $(filter deb,$@),amd64,x86_64))

.PHONY: release
release: ## replace dist/ by all static files, packages for Debian and OpenWrt, MANIFEST and SHA256SUMS
	scripts/release.sh

.PHONY: size
size: ## compare the files in dist/ with scripts/size-budget.tsv, and list their largest symbols
	scripts/size.sh

.PHONY: reproducible
reproducible: ## make a release of HEAD for TARGET twice, in two directories, and compare the bytes
	tests/cross/reproducible.sh $(TARGET)

.PHONY: router
router: ## test the OpenWrt files: the init script, the installer, a small router (as root)
	@scripts/setup.sh router
	scripts/build-static.sh x86_64
	$(PYTHON) -B -m pytest tests/openwrt

.PHONY: systemd
systemd: build ## test the unit under a real systemd, in a container (as root)
	@scripts/setup.sh test systemd
	$(PYTHON) -B -m pytest tests/systemd

PROCESSORS ?= mips mipsel armv7 aarch64

.PHONY: cross
cross: build ## test on other processors: unit tests, a knock, and the whole daemon on a MIPS machine (as root)
	@scripts/setup.sh test router cross
	scripts/build-static.sh $(PROCESSORS) mipsel x86_64
	tests/cross/unit.sh $(PROCESSORS)
	PROCESSORS="$(PROCESSORS)" $(PYTHON) -B -m pytest tests/cross --ignore=tests/cross/test_links.py

MACHINES ?= mipsel aarch64 armv7 riscv64

.PHONY: machines
machines: ## run the whole daemon on other kernels, under qemu-system (MACHINES=...; as root)
	@scripts/setup.sh test router cross machines
	scripts/build-static.sh $(MACHINES) x86_64
	MACHINES="$(MACHINES)" $(PYTHON) -B -m pytest tests/cross/test_machine.py tests/cross/test_links.py

.PHONY: cross-be
cross-be: ## the same on a big-endian MIPS machine, with a kernel built from linux-source (see tests/cross/kernel.sh)
	tests/cross/kernel.sh
	$(MAKE) machines MACHINES=mips

.PHONY: dynamic
dynamic: ## build against a shared musl, as OpenWrt's feed does
	tests/cross/dynamic.sh

# A binary that is older than its sources is built again. Root, under sudo, often has no cargo: then nothing is installed.
target/release/knockknock: $(shell find src build.rs Cargo.toml Cargo.lock -type f)
	@command -v cargo >/dev/null || { \
		printf '%s\n' '$@ is missing or older than its sources, and cargo is not in PATH' \
			'run make as the user who builds, and then: sudo make install' >&2; exit 1; }
	@$(MAKE) --no-print-directory build

.PHONY: install
install: $(BINARY) ## install below DESTDIR and PREFIX (/usr/local); profiles are never touched
	@printf 'installing %s in %s: ' $(BINARY) $(bindir) && $(abspath $(NATIVE)) --version
	install -D -m 755 $(BINARY) $(bindir)/knockknock
	for applet in $(APPLETS); do ln -sf knockknock $(bindir)/$$applet || exit 1; done
	for page in $(PAGES); do install -D -m 644 $$page $(mandir)/man$${page##*.}/$${page##*/} || exit 1; done
	install -d $(unitdir) $(bashdir) $(zshdir) $(fishdir)
	sed 's,/usr/local/bin/,$(PREFIX)/bin/,' scripts/systemd/knockknock-daemon.service >$(unitdir)/knockknock-daemon.service
	scripts/completions.sh $(abspath $(NATIVE)) bash >$(bashdir)/knockknock
	scripts/completions.sh $(abspath $(NATIVE)) zsh >$(zshdir)/_knockknock
	scripts/completions.sh $(abspath $(NATIVE)) fish >$(fishdir)/knockknock.fish
	chmod 644 $(unitdir)/knockknock-daemon.service $(bashdir)/knockknock $(zshdir)/_knockknock $(fishdir)/knockknock.fish
	for applet in $(APPLETS); do ln -sf knockknock $(bashdir)/$$applet && ln -sf knockknock.fish $(fishdir)/$$applet.fish || exit 1; done

.PHONY: uninstall
uninstall: ## remove exactly what install put there; refuses while the guard is active
	@[ -n "$(DESTDIR)" ] || scripts/check-no-guard.sh
	rm -f $(addprefix $(bindir)/,knockknock $(APPLETS))
	rm -f $(foreach page,$(PAGES),$(mandir)/man$(subst .,,$(suffix $(page)))/$(notdir $(page)))
	rm -f $(unitdir)/knockknock-daemon.service $(zshdir)/_knockknock
	rm -f $(addprefix $(bashdir)/,knockknock $(APPLETS)) $(addsuffix .fish,$(addprefix $(fishdir)/,knockknock $(APPLETS)))

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
