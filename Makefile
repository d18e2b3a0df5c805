# SPDX-License-Identifier: Apache-2.0
#
# make            the image build: a static binary at target/<triple>/release/attestation-agent
# make build      both programs for this machine, with the build host's tools
# make guest-pull the second program, for every system with glibc 2.34 or newer
# make demo       the main task on real input: a private image is refused, then pulled, in the ways of 2023 and of today
# make test       all tests that need no VM
# make test-podvm tests the installed daemon in a booted VM; make test-podvm-today today's peer-pod image with both programs
# make test-linking runs guest-pull with the C libraries of other distributions
# make bench      footprint and speed, compared with simpler programs in the same run; QUICK=1 is shorter
# make bench-pull pulling, compared with inflating alone and with other pullers, as root; QUICK=1 is shorter, CDH=PATH adds a
#                 stock confidential-data-hub
# make figures    draws the charts of docs/figures again; FROM=target takes the figures of the last `make bench` and
#                 `make bench-pull` over before
# make compare    this project beside a stock confidential-data-hub (CDH=PATH), point by point, as root: docs/comparison.md
# make soak       hours of mixed load and hostile peers; SOAK_SECONDS sets the duration
# make soak-pull  hours of pulls of random images, with faults, as root; SOAK_SECONDS too, and SEED=N repeats one
# make test-long  a soak of ten minutes
# make install    installs into DESTDIR, below PREFIX; GUEST_PULL=1 installs guest-pull too
# make deb, rpm   packages of what `make install` installs, in target/packages: one of the daemon, one of guest-pull
# make extension  kata's extension image of both programs and of the pause bundle that PAUSE_BUNDLE= names
# make manual     man pages and completions; make test-manual checks them
# make fuzz       the fuzz targets, FUZZ_SECONDS each; make fuzz-short takes three minutes for all
# make audit      licences, sources and duplicates of the crates
# make dist       the files of a release: docs/release.md; make publish-dry-run packs and builds its crates

CARGO ?= cargo
# The oldest cargo that builds the program; rust-version in Cargo.toml is the same.
CARGO_NEEDED := 1.85

KBC ?= offline_fs_kbc
LIBC ?= gnu
ARCH ?= $(shell uname -m)
DESTDIR ?=
PREFIX ?= /usr/local
UNITDIR ?= $(PREFIX)/lib/systemd/system
PRESETDIR ?= $(PREFIX)/lib/systemd/system-preset
TMPFILESDIR ?= $(PREFIX)/lib/tmpfiles.d
SHAREDIR ?= $(PREFIX)/share/offline-fs-kbc
DOCDIR ?= $(PREFIX)/share/doc/offline-fs-kbc
# The names of the drop-ins to put in place, without .conf; see docs/systemd.md.
DROP_INS ?=

# Set to 1 to install guest-pull with its units too. Then the daemon takes the place of the confidential-data-hub, whose
# requests to pull images it passes on to guest-pull.
GUEST_PULL ?=
# Set to 1 to install the program as confidential-data-hub too. With IMAGE=peerpod, confidential-data-hub.service runs it
# then. Today's kata-agents pull images through that program: without guest-pull, leave the stock one in their images.
CDH ?= $(GUEST_PULL)
# Set to peerpod for images with cloud-api-adaptor's units: they start the program; see docs/systemd.md. It counts on the
# command line only, since many build environments have a variable of this name.
IMAGE :=

NAME := offline-fs-kbc
LEGACY_NAME := attestation-agent
HUB_NAME := confidential-data-hub
BIN ?= target/release/$(NAME)
# uname and the image build say ppc64le; Rust says powerpc64le.
RUST_ARCH := $(patsubst ppc64le,powerpc64le,$(ARCH))
# For another ARCH it is built for that one. Its C library is always glibc, which resolves names.
GUEST_PULL_TARGET := $(if $(filter-out $(shell uname -m),$(ARCH)),$(RUST_ARCH)-unknown-linux-gnu)
GUEST_PULL_BUILT := target/$(if $(GUEST_PULL_TARGET),$(GUEST_PULL_TARGET)/)release/guest-pull
GUEST_PULL_BIN ?= $(GUEST_PULL_BUILT)

TRIPLE := $(RUST_ARCH)-unknown-linux-$(LIBC)
# Where the image builds of mid 2023 and of early 2023 look; both use their own ARCH.
IMAGE_DIR := target/$(ARCH)-unknown-linux-$(LIBC)/release
IMAGE_PLACES := $(IMAGE_DIR)/$(LEGACY_NAME) app/$(IMAGE_DIR)/$(LEGACY_NAME)

# Packed relocations (bits instead of records) make a static binary a twentieth smaller. The C library that is linked in
# must apply them, which it does since 2.36. The check reads the C library of this machine, so only a binary for this
# architecture gets them.
LIBC_VERSION := $(shell getconf GNU_LIBC_VERSION 2>/dev/null | sed -n 's/^glibc //p')
ifeq ($(LIBC)-$(ARCH)-$(shell printf '%s\n' 2.36 $(or $(LIBC_VERSION),0) | sort -V | head -n 1),gnu-$(shell uname -m)-2.36)
PACKED := -C link-arg=-Wl,-z,pack-relative-relocs
endif
STATIC = -C target-feature=+crt-static $(PACKED)
# So that builds in different places are the same, bit for bit: docs/verify.md.
REMAP = --remap-path-prefix=$(CURDIR)=/usr/src/offline-fs-kbc \
	--remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/usr/src/cargo

# Set to 1 to put the list of crates into the binary; cargo-auditable must be installed. It is off even where that is
# installed, because the result must depend on the source and the compiler alone.
AUDITABLE ?=
AUDITABLE_BUILD = $(if $(filter 1,$(AUDITABLE)),auditable )build

FLOORS := target/$(TRIPLE)/floors
SOAK_SECONDS ?= 7200

# Build results must be where this file and the image build look for them.
unexport CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR

# The examples that are installed with the documentation.
EXAMPLES := $(patsubst examples/%,%,$(wildcard examples/image/* examples/cloud-init/* examples/kustomize/* examples/peerpod/*))
# The version of packages.
VERSION ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p;T;q' Cargo.toml)
PACKAGES := $(CURDIR)/target/packages
# The Debian suite of the VM.
DISTRO ?= bookworm
# Those of today's image: a kernel that mounts layers from loop devices, and one that does so from files.
TODAY ?= bookworm trixie

REGISTRY := target/registry/usr/bin/docker-registry
TOOLS := target/tools
# A skopeo that supports key providers: that of Debian 13, with its libraries.
SKOPEO := target/skopeo/usr/bin/skopeo
# Archives with which other readers of tar archives are tested.
ARCHIVES := target/archives
# The newest cosign of Debian, and that of Debian 13, which signs in another way.
COSIGN := target/cosign/usr/bin/cosign
COSIGN_2 := target/cosign-2/usr/bin/cosign
TEST_ENV = PATH="$$PATH:$(CURDIR)/$(TOOLS)/run" OFFLINE_FS_KBC_BIN=$(CURDIR)/$(BIN) \
	DOCKER_REGISTRY=$(CURDIR)/$(REGISTRY) \
	GO_CLIENT=$(CURDIR)/$(GO_CLIENT) SKOPEO=$(CURDIR)/$(SKOPEO) COSIGN=$(CURDIR)/$(COSIGN) COSIGN_2=$(CURDIR)/$(COSIGN_2) \
	GUEST_PULL_BIN=$(CURDIR)/$(GUEST_PULL_BUILT) FOREIGN_ARCHIVES=$(CURDIR)/$(ARCHIVES)
SECCOMP := target/seccomp
PYTHON_SECCOMP = PYTHONPATH=$(CURDIR)/$(SECCOMP)/usr/lib/python3/dist-packages
SYSTEM_CALLS := target/system-calls
GUEST_PULL_UNIT := systemd/guest-pull/guest-pull@.service
GUEST_PULL_CALLS := target/guest-pull-system-calls
# Programs that the tests call and that a small machine may lack: strace, systemd's tools that read units, and what reads
# images and EROFS.
TOOL_NAMES := strace systemctl systemd-analyze systemd-tmpfiles fsck.erofs mkfs.erofs umoci containerd ctr tinyproxy zstd
# These tests build, or run commands that the unit does not run, so the unit's list does not apply to them. And strace
# makes calls fail that are on no list.
NOT_UNDER_FILTER := image_build commands packages:: check_image pull units tools user_data sealing encrypted_images extension_image:: everything:: \
	try_it faults
# The tests of the worker's own list run it under strace, whose calls are not on the list of the unit.
GUEST_PULL_ALONE := system_calls
# Debian's Go with containerd's ttrpc, unpacked and not installed.
GO := target/go
GO_CLIENT := $(GO)/go-client

.PHONY: bench bench-pull figures floors compare soak soak-pull soak-short test-long instructions image build guest-pull install \
	check-install uninstall deb rpm test test-podvm test-podvm-today test-linking demo registry go-client skopeo clean check-cargo check-image

.DEFAULT_GOAL := image

# The image build calls make with KBC, LIBC, ARCH and ttrpc on the command line. ttrpc is ignored, because the program
# speaks nothing else.
image: check-image check-cargo
	RUSTFLAGS="$(STATIC) $(REMAP)" $(CARGO) $(AUDITABLE_BUILD) --release --locked \
		--no-default-features --bin $(NAME) --target $(TRIPLE)
	for place in $(IMAGE_PLACES); do \
		install -D -m 0755 target/$(TRIPLE)/release/$(NAME) $$place || exit 1; \
	done

check-image:
	@if [ "$(KBC)" != offline_fs_kbc ]; then \
		echo "KBC=$(KBC): this program is offline_fs_kbc only; build another KBC from its own source" >&2; exit 1; \
	fi
	@case "$(LIBC)" in gnu|musl) ;; *) echo "LIBC=$(LIBC): it must be gnu or musl" >&2; exit 1;; esac
	@libdir=$$(rustc --print target-libdir --target $(TRIPLE) 2>/dev/null); \
	if [ ! -d "$$libdir" ]; then \
		echo "the Rust standard library for $(TRIPLE) is missing; install it with: rustup target add $(TRIPLE)" >&2; exit 1; \
	fi

check-cargo:
	@version=$$($(CARGO) --version 2>/dev/null | cut -d' ' -f2); \
	oldest=$$(printf '%s\n%s\n' "$$version" $(CARGO_NEEDED) | sort -V | head -n 1); \
	if [ "$$oldest" != $(CARGO_NEEDED) ]; then \
		echo "cargo $(CARGO_NEEDED) or newer is needed; found: $${version:-none}" >&2; exit 1; \
	fi

# Each by itself: built together, each would get the features of crates that the other one needs.
build: check-cargo guest-pull
	RUSTFLAGS="$$RUSTFLAGS $(REMAP)" $(CARGO) $(AUDITABLE_BUILD) --release --locked

# It is linked dynamically, because only the C library of the system resolves names as that system means them. So what it
# needs of that library must be in the oldest one that it has to run with.
guest-pull: check-cargo
	RUSTFLAGS="$(REMAP)" $(CARGO) $(AUDITABLE_BUILD) --release --locked --package guest-pull \
		$(if $(GUEST_PULL_TARGET),--target $(GUEST_PULL_TARGET))
	packaging/check-glibc $(GUEST_PULL_BUILT)

# The settings of the service, for drop-ins of units that run the program in its place. So their sandbox is always that of
# the service. Left out: what is about its own sockets and its own command, and the comments.
SETTINGS := sed -e '/^\[Install\]/,$$d' -e '/^\(Description\|After\|ExecStart\)=/d' -e '/^\#/d' -e '/^$$/d' \
	systemd/$(NAME).service
# Units of cloud-api-adaptor that run the program with IMAGE=peerpod.
PEERPOD_UNITS := $(LEGACY_NAME) $(if $(filter 1,$(CDH)),$(HUB_NAME))

check-install:
	@case "$(GUEST_PULL)" in ''|1) ;; *) echo "GUEST_PULL=$(GUEST_PULL): it must be 1 or empty; GUEST_PULL_BIN names the program" >&2; exit 1;; esac
	@case "$(IMAGE)" in ''|peerpod) ;; *) echo "IMAGE=$(IMAGE): it must be peerpod or empty" >&2; exit 1;; esac
	@for name in $(DROP_INS); do \
		test -f systemd/drop-ins/$$name.conf || { echo "DROP_INS=$$name: there is no such drop-in" >&2; exit 1; }; \
		case "$(IMAGE)-$$name" in peerpod-both-roles|peerpod-no-activation|peerpod-attestation-agent-alias) \
			echo "DROP_INS=$$name is for the program's own units, which IMAGE=peerpod disables" >&2; exit 1;; \
		esac; \
	done

install: check-install
	@test -z "$(filter 1,$(GUEST_PULL))" || test -x $(GUEST_PULL_BIN) || \
		{ echo "GUEST_PULL_BIN=$(GUEST_PULL_BIN) is missing; 'make guest-pull' builds it" >&2; exit 1; }
	@test -x $(BIN) || { echo "BIN=$(BIN) is missing; 'make' builds the binary for an image, 'make build' the one for this machine" >&2; exit 1; }
	install -D -m 0755 $(BIN) $(DESTDIR)$(PREFIX)/bin/$(NAME)
	ln -sf $(NAME) $(DESTDIR)$(PREFIX)/bin/$(LEGACY_NAME)
	if [ "$(CDH)" = 1 ]; then ln -sf $(NAME) $(DESTDIR)$(PREFIX)/bin/$(HUB_NAME); fi
	install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(SHAREDIR)/drop-ins
	install -m 0644 systemd/*.service systemd/*.socket $(DESTDIR)$(UNITDIR)
	install -m 0644 systemd/drop-ins/*.conf $(DESTDIR)$(SHAREDIR)/drop-ins
	sed -i 's|^ExecStart=/usr/local/|ExecStart=$(PREFIX)/|' $(DESTDIR)$(UNITDIR)/$(NAME).service \
		$(DESTDIR)$(SHAREDIR)/drop-ins/*.conf
	if [ "$(CDH)" != 1 ] && [ "$$(readlink $(DESTDIR)$(PREFIX)/bin/$(HUB_NAME))" = $(NAME) ]; then \
		rm -f $(DESTDIR)$(PREFIX)/bin/$(HUB_NAME); \
	fi
	install -d $(DESTDIR)$(SHAREDIR)/peerpod
	rm -f $(DESTDIR)$(SHAREDIR)/peerpod/*.service.conf
	for unit in $(PEERPOD_UNITS); do \
		{ printf '# SPDX-License-Identifier: Apache-2.0\n#\n# The settings of $(NAME).service, which says why.\n'; \
			$(SETTINGS); sed -e 1d -e 's|/usr/local/bin/|$(PREFIX)/bin/|g' systemd/peerpod/$$unit.conf; \
		} >$(DESTDIR)$(SHAREDIR)/peerpod/$$unit.service.conf || exit 1; \
	done
	install -m 0644 systemd/peerpod/$(NAME).preset $(DESTDIR)$(SHAREDIR)/peerpod
	install -m 0755 systemd/peerpod/use-peerpod-units $(DESTDIR)$(SHAREDIR)
	sed -i -e 's|@UNITDIR@|$(UNITDIR)|' -e 's|@PRESETDIR@|$(PRESETDIR)|' -e 's|@SHAREDIR@|$(SHAREDIR)|' \
		$(DESTDIR)$(SHAREDIR)/use-peerpod-units
	install -D -m 0644 systemd/$(NAME).tmpfiles $(DESTDIR)$(TMPFILESDIR)/$(NAME).conf
	install -D -m 0644 systemd/$(NAME).preset $(DESTDIR)$(PRESETDIR)/80-$(NAME).preset
	install -d $(DESTDIR)$(DOCDIR)/docs
	install -m 0644 README.md SECURITY.md CHANGELOG.md LICENSE $(DESTDIR)$(DOCDIR)
	install -m 0644 docs/*.md $(DESTDIR)$(DOCDIR)/docs
	for example in $(EXAMPLES); do \
		install -D -m 0644 examples/$$example $(DESTDIR)$(DOCDIR)/examples/$$example || exit 1; \
	done
	if [ -d $(MANUAL) ]; then $(MAKE) --no-print-directory install-manual; fi
	for name in $(DROP_INS); do \
		for unit in $$(sed -n 's|^# Goes to \(.*\)\.d/.*|\1|p' systemd/drop-ins/$$name.conf); do \
			case "$(IMAGE)-$$unit" in \
			*-tmpfiles) places=$(TMPFILESDIR)/$(NAME)-$$name.conf;; \
			*-guest-pull@.service) places=$(if $(filter 1,$(GUEST_PULL)),$(UNITDIR)/$$unit.d/$$name.conf);; \
			peerpod-$(NAME).service) places="$(PEERPOD_UNITS:%=$(UNITDIR)/%.service.d/$$name.conf)";; \
			*) places=$(UNITDIR)/$$unit.d/$$name.conf;; \
			esac; \
			for to in $$places; do \
				install -D -m 0644 $(DESTDIR)$(SHAREDIR)/drop-ins/$$name.conf $(DESTDIR)$$to || exit 1; \
			done; \
		done; \
	done
	$(if $(filter 1,$(GUEST_PULL)),$(INSTALL_GUEST_PULL),$(DROP_GUEST_PULL))
	$(if $(IMAGE),$(DESTDIR)$(SHAREDIR)/use-peerpod-units --root "$(DESTDIR)")

# Its preset is read before that of the daemon, which leaves the hub's socket disabled.
GUEST_PULL_FILES := $(PREFIX)/bin/guest-pull $(UNITDIR)/guest-pull.socket $(UNITDIR)/guest-pull@.service \
	$(PRESETDIR)/79-guest-pull.preset $(TMPFILESDIR)/guest-pull.conf
define INSTALL_GUEST_PULL
install -D -m 0755 $(GUEST_PULL_BIN) $(DESTDIR)$(PREFIX)/bin/guest-pull
	install -m 0644 systemd/guest-pull/*.service systemd/guest-pull/*.socket $(DESTDIR)$(UNITDIR)
	sed -i 's|^ExecStart=/usr/local/|ExecStart=$(PREFIX)/|' $(DESTDIR)$(UNITDIR)/guest-pull@.service
	install -D -m 0644 systemd/guest-pull/guest-pull.tmpfiles $(DESTDIR)$(TMPFILESDIR)/guest-pull.conf
	install -D -m 0644 systemd/guest-pull/guest-pull.preset $(DESTDIR)$(PRESETDIR)/79-guest-pull.preset
endef
# What an earlier `make install GUEST_PULL=1` installed, which the preset tells from what somebody put there by hand.
define DROP_GUEST_PULL
if [ -e $(DESTDIR)$(PRESETDIR)/79-guest-pull.preset ]; then rm -f $(GUEST_PULL_FILES:%=$(DESTDIR)%); fi
endef

DROP_IN_PLACES := $(NAME).service $(NAME)-.socket $(LEGACY_NAME).service $(HUB_NAME).service guest-pull@.service

# The components' names are removed only if they are links to this program: an upstream component may have been
# installed since.
uninstall:
	$(DROP_GUEST_PULL)
	rm -f $(DESTDIR)$(PREFIX)/bin/$(NAME) $(DESTDIR)$(TMPFILESDIR)/$(NAME).conf \
		$(DESTDIR)$(TMPFILESDIR)/$(NAME)-early-2023.conf $(DESTDIR)$(PRESETDIR)/80-$(NAME).preset
	if [ -x $(DESTDIR)$(SHAREDIR)/use-peerpod-units ]; then \
		$(DESTDIR)$(SHAREDIR)/use-peerpod-units --undo --root "$(DESTDIR)"; \
	fi
	rm -rf $(DESTDIR)$(SHAREDIR) $(DESTDIR)$(DOCDIR)
	for unit in $(notdir $(wildcard systemd/*.service systemd/*.socket)); do \
		rm -f $(DESTDIR)$(UNITDIR)/$$unit || exit 1; \
	done
	for directory in $(DROP_IN_PLACES:%=$(DESTDIR)$(UNITDIR)/%.d); do \
		for conf in $(notdir $(wildcard systemd/drop-ins/*.conf)); do rm -f $$directory/$$conf; done; \
		rmdir $$directory 2>/dev/null || true; \
	done
	@for name in $(LEGACY_NAME) $(HUB_NAME); do \
		path=$(DESTDIR)$(PREFIX)/bin/$$name; \
		if [ "$$(readlink $$path)" = $(NAME) ]; then rm -f $$path; fi; \
	done

# The daemon's package contains the image's binary, which needs nothing from the system that it is installed in, and its
# manual. The other one contains what GUEST_PULL=1 adds.
deb rpm: image image-manual guest-pull
	packaging/build $@ $(VERSION) $(ARCH) $(CURDIR)/$(IMAGE_DIR)/$(LEGACY_NAME) $(CURDIR)/$(GUEST_PULL_BUILT) $(PACKAGES)

# kata's extension image. Its dm-verity salt comes from its content, or is what EXTENSION_SALT= says in hexadecimal.
EXTENSION ?= target/extension/kata-containers-coco-extension.img
PAUSE_BUNDLE ?=
EXTENSION_SALT ?=
# Where Debian has the tools, and users do not look; and what was fetched for the tests.
EXTENSION_PATH := PATH="$$PATH:/usr/sbin:/sbin:$(CURDIR)/$(TOOLS)/run"

.PHONY: extension check-extension

extension: check-extension image guest-pull
	$(EXTENSION_PATH) packaging/extension/build $(IMAGE_DIR)/$(LEGACY_NAME) $(GUEST_PULL_BUILT) "$(PAUSE_BUNDLE)" \
		"$(EXTENSION)" $(EXTENSION_SALT)

check-extension:
	@$(EXTENSION_PATH) packaging/extension/check "$(PAUSE_BUNDLE)"

# The tests run the release binary, which is built separately: built together with the tests, it would get the crate
# features that the tests turn on. Where the unit's list applies, a system call that is not on it kills the process.
# guest-pull's tests, and the pages of the documents more so, wait longer than they work, so more of them run at once.
test: build registry go-client skopeo $(COSIGN) $(COSIGN_2) $(TOOLS)/fetched $(ARCHIVES)/fetched $(SYSTEM_CALLS) \
		$(GUEST_PULL_CALLS)
	$(TEST_ENV) $(CARGO) test --locked --lib --bins --examples --test project
	$(TEST_ENV) $(CARGO) test --locked --package offline-fs-kbc-common
	$(TEST_ENV) $(PYTHON_SECCOMP) GUEST_PULL_SYSTEM_CALLS=$(CURDIR)/$(GUEST_PULL_CALLS) \
		$(CARGO) test --locked --package guest-pull -- --test-threads=4 $(GUEST_PULL_ALONE:%=--skip %)
	$(TEST_ENV) $(CARGO) test --locked --package guest-pull -- $(GUEST_PULL_ALONE)
	$(TEST_ENV) $(CARGO) test --locked --package offline-fs-kbc-bench
	$(TEST_ENV) $(CARGO) test --locked --doc
	$(TEST_ENV) $(CARGO) test --locked --test pages -- --test-threads=8
	$(TEST_ENV) $(CARGO) test --locked --test black_box -- $(NOT_UNDER_FILTER)
	$(TEST_ENV) $(PYTHON_SECCOMP) \
		OFFLINE_FS_KBC_SYSTEM_CALLS=$(CURDIR)/$(SYSTEM_CALLS) \
		$(CARGO) test --locked --test black_box -- $(NOT_UNDER_FILTER:%=--skip %)

# What measures and tests endurance, and the programs to compare with (floors). They are static like the image build, so
# that they start in the same way.
floors: check-cargo
	RUSTFLAGS="$(STATIC)" $(CARGO) build --locked --profile floors \
		--package offline-fs-kbc-bench --target $(TRIPLE)

# QUICK=1 makes the run shorter. Run it as root, because only root can see the daemon's memory.
bench: image floors
	$(FLOORS)/offline-fs-kbc-bench $(IMAGE_DIR)/$(LEGACY_NAME) $(FLOORS) target/bench.json \
		$(if $(QUICK),--quick) $(BIN)
	$(FLOORS)/charts target/charts target/bench.json

# Its images are of this machine's Debian packages, and stay below target/bench-pull. Run it as root, because it mounts.
bench-pull: guest-pull floors registry skopeo $(TOOLS)/fetched
	RUSTFLAGS="$(REMAP)" $(CARGO) build --locked --release --package guest-pull --example floors
	$(TEST_ENV) $(FLOORS)/bench-pull $(GUEST_PULL_BUILT) target/release/examples/floors target/bench-pull \
		target/bench-pull.json $(if $(QUICK),--quick) $(CDH)
	$(FLOORS)/charts target/charts target/bench-pull.json

# The charts that the documentation shows, and the figures that they show. FROM names a directory with newer figures, of one
# benchmark or of both.
FIGURES := docs/figures
FROM ?= $(FIGURES)
figures: check-cargo
	@test -n "$(wildcard $(FROM)/bench.json $(FROM)/bench-pull.json)" || \
		{ echo "FROM=$(FROM) has no bench.json and no bench-pull.json; 'make bench' and 'make bench-pull' write them" >&2; exit 1; }
	$(if $(filter-out $(FIGURES),$(FROM)),cp $(wildcard $(FROM)/bench.json $(FROM)/bench-pull.json) $(FIGURES))
	$(CARGO) run --locked --quiet --package offline-fs-kbc-bench --bin charts -- $(FIGURES) \
		$(patsubst $(FROM)/%,$(FIGURES)/%,$(wildcard $(FROM)/bench.json $(FROM)/bench-pull.json))

# CDH= names the stock program, and STOCK= says which one it is; without them this project plays alone. ONLY= plays one
# point. UPDATE=1 writes what was seen into docs/comparison.md and into the record that a test compares with this project.
compare: build registry skopeo $(COSIGN) $(COSIGN_2)
	$(CARGO) build --locked --package offline-fs-kbc-bench --bin compare
	$(TEST_ENV) target/debug/compare $(BIN) $(GUEST_PULL_BUILT) $(if $(CDH),--cdh $(CDH) --stock "$(STOCK)") \
		$(if $(ONLY),--only $(ONLY)) $(if $(UPDATE),--json docs/figures/compare.json --page docs/comparison.md)

# BASE= names the commit with which this one is compared.
instructions:
	tests/instructions $(BASE)

soak: image floors
	$(FLOORS)/soak $(IMAGE_DIR)/$(LEGACY_NAME) systemd/$(NAME).service $(SOAK_SECONDS)

# It mounts, in a mount namespace of its own. Run it as root.
soak-pull: image guest-pull floors
	$(FLOORS)/soak-pull $(IMAGE_DIR)/$(LEGACY_NAME) $(GUEST_PULL_BUILT) $(SOAK_SECONDS) $(SEED)

soak-short:
	$(MAKE) soak SOAK_SECONDS=60
	$(MAKE) soak-pull SOAK_SECONDS=30

test-long:
	$(MAKE) soak SOAK_SECONDS=600

# Tests the packages in two VMs, which boot three times and twice, and kata's extension image in a third one. Must run as
# root; takes five to ten minutes without KVM.
test-podvm: image $(TOOLS)/fetched
	tests/podvm/run $(DISTRO) $(CURDIR)/target/podvm

# Boots today's image with both programs, four times in VMs of each of two Debian suites. Must run as root; takes ten to
# twenty minutes without KVM.
test-podvm-today: image guest-pull $(TOOLS)/fetched
	tests/podvm/run-today $(CURDIR)/target/podvm $(TODAY)

# Runs guest-pull with the C libraries of other distributions. Must run as root; takes seconds once they are fetched.
test-linking: guest-pull registry skopeo
	$(TEST_ENV) tests/linking $(GUEST_PULL_BUILT) $(CURDIR)/target/linking

# The unit's system calls, one name on each line, and the libraries that load such a list.
$(SYSTEM_CALLS): systemd/$(NAME).service tests/under-filter | $(SECCOMP)/fetched $(TOOLS)/fetched
	PATH="$$PATH:$(CURDIR)/$(TOOLS)/run" tests/under-filter --expand $< > $@.new && mv $@.new $@

$(GUEST_PULL_CALLS): $(GUEST_PULL_UNIT) tests/under-filter | $(SECCOMP)/fetched $(TOOLS)/fetched
	PATH="$$PATH:$(CURDIR)/$(TOOLS)/run" tests/under-filter --expand $< > $@.new && mv $@.new $@

$(SECCOMP)/fetched:
	tests/fetch-debs $(CURDIR)/$(SECCOMP) python3-seccomp libseccomp2

# Unpacked and not installed; the machine's own tools come first.
$(TOOLS)/fetched:
	tests/fetch-debs $(CURDIR)/$(TOOLS) strace libunwind8 systemd libsystemd-shared libkmod2 \
		libapparmor1 libip4tc2 libseccomp2 libcap2 erofs-utils umoci liblz4-1 libselinux1 libpcre2-8-0 \
		containerd tinyproxy-bin zstd
	mkdir $(TOOLS)/run
	for tool in $(TOOL_NAMES); do \
		program=$$(ls $(CURDIR)/$(TOOLS)/bin/$$tool $(CURDIR)/$(TOOLS)/usr/bin/$$tool 2>/dev/null); \
		libraries=$$(find $(CURDIR)/$(TOOLS) -name 'lib*.so*' -printf '%h\n' | sort -u | paste -s -d :); \
		printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$$@"\n' "$$libraries" "$$program" \
			>$(TOOLS)/run/$$tool && chmod +x $(TOOLS)/run/$$tool || exit 1; \
	done

$(ARCHIVES)/fetched: tests/fetch-archives
	tests/fetch-archives $(CURDIR)/$(ARCHIVES)

demo: build registry
	OFFLINE_FS_KBC_BIN=$(CURDIR)/$(BIN) GUEST_PULL_BIN=$(CURDIR)/$(GUEST_PULL_BUILT) \
		DOCKER_REGISTRY=$(CURDIR)/$(REGISTRY) $(CARGO) run --locked --quiet --example demo

registry: $(REGISTRY)

$(REGISTRY):
	tests/fetch-debs $(CURDIR)/target/registry docker-registry

skopeo: $(SKOPEO)

# The loader of its own C library runs it, because this machine's C library may be older.
$(SKOPEO): tests/fetch-debs tests/debian-program
	tests/fetch-debs --suite trixie $(CURDIR)/target/skopeo skopeo libc6 libgpgme11t64 libassuan9 \
		libgpg-error0 libsqlite3-0
	mv $(SKOPEO) $(SKOPEO).elf
	install -m 0755 tests/debian-program $(SKOPEO)

$(COSIGN): tests/fetch-debs tests/debian-program
	tests/fetch-debs --suite forky $(CURDIR)/target/cosign cosign libc6
	mv $(COSIGN) $(COSIGN).elf
	install -m 0755 tests/debian-program $(COSIGN)

$(COSIGN_2): tests/fetch-debs tests/debian-program
	tests/fetch-debs --suite trixie $(CURDIR)/target/cosign-2 cosign libc6
	mv $(COSIGN_2) $(COSIGN_2).elf
	install -m 0755 tests/debian-program $(COSIGN_2)

go-client: $(GO_CLIENT)

$(GO)/fetched:
	tests/fetch-debs $(CURDIR)/$(GO) golang-go+ golang-github-containerd-ttrpc-dev+ \
		golang-github-golang-protobuf-1-3-dev-

$(GO_CLIENT): tests/go-client/main.go | $(GO)/fetched
	cd tests/go-client && GO111MODULE=off CGO_ENABLED=0 GOFLAGS= GOROOT=$(CURDIR)/$(GO)/usr/lib/go \
		GOPATH=$(CURDIR)/$(GO)/usr/share/gocode GOCACHE=$(CURDIR)/$(GO)/cache \
		$(CURDIR)/$(GO)/usr/lib/go/bin/go build -o $(CURDIR)/$(GO_CLIENT) main.go

clean:
	$(CARGO) clean
	rm -rf app

# --- Manual, fuzzing, supply chain and release -----------------------------------------------------

.PHONY: manual image-manual test-manual install-manual uninstall-manual fuzz fuzz-short test-reproducible audit sbom publish-dry-run dist test-other

# `make install` installs the manual if it was made; an image does not need it.
MANUAL ?= target/manual
# The manual of the image's binary, without pages of the build host's tools.
IMAGE_MANUAL := target/image-manual
MANDIR ?= $(PREFIX)/share/man
BASHDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
FISHDIR ?= $(PREFIX)/share/fish/vendor_completions.d

# Man pages and completions, from the definitions of the command line. A debug build is enough, because it runs once.
manual: check-cargo
	$(CARGO) run --locked --quiet --features manual --bin manual -- man $(MANUAL)

image-manual: check-cargo
	$(CARGO) run --locked --quiet --no-default-features --features manual --bin manual -- man $(IMAGE_MANUAL)

# The image's binary comes first, so that the binary that stays in target/debug has all commands.
test-manual: manual image-manual
	$(CARGO) build --locked --quiet --no-default-features --bin $(NAME)
	tests/manual target/debug/$(NAME) $(IMAGE_MANUAL)
	$(CARGO) build --locked --quiet
	tests/manual target/debug/$(NAME) $(MANUAL)

install-manual:
	for section in 1 5; do \
		install -d $(DESTDIR)$(MANDIR)/man$$section || exit 1; \
		install -m 0644 $(MANUAL)/man$$section/* $(DESTDIR)$(MANDIR)/man$$section || exit 1; \
	done
	install -D -m 0644 $(MANUAL)/completions/$(NAME).bash $(DESTDIR)$(BASHDIR)/$(NAME)
	install -D -m 0644 $(MANUAL)/completions/_$(NAME) $(DESTDIR)$(ZSHDIR)/_$(NAME)
	install -D -m 0644 $(MANUAL)/completions/$(NAME).fish $(DESTDIR)$(FISHDIR)/$(NAME).fish

uninstall: uninstall-manual

uninstall-manual:
	rm -f $(DESTDIR)$(MANDIR)/man1/$(NAME).1 $(DESTDIR)$(MANDIR)/man1/$(NAME)-*.1 \
		$(DESTDIR)$(MANDIR)/man5/aa-offline_fs_kbc-resources.json.5 \
		$(DESTDIR)$(MANDIR)/man5/aa-offline_fs_kbc-keys.json.5 \
		$(DESTDIR)$(BASHDIR)/$(NAME) $(DESTDIR)$(ZSHDIR)/_$(NAME) $(DESTDIR)$(FISHDIR)/$(NAME).fish

# Tools from crates.io. Each is built once, because some take minutes.
CRATES := target/crates
FUZZER := $(CRATES)/cargo-fuzz-0.13.2
DENY := $(CRATES)/cargo-deny-0.20.2
AUDITOR := $(CRATES)/cargo-auditable-0.7.7
TOOL_PATH = PATH="$(CURDIR)/$(CRATES)/bin:$$PATH"

$(FUZZER) $(DENY) $(AUDITOR):
	$(CARGO) install --locked --root $(CRATES) $$(echo $(@F) | sed 's/-\([0-9.]*\)$$/@\1/')
	touch $@

# See docs/fuzzing.md. The time is for each target; inputs that are found beyond the seeds stay below target/.
FUZZ_SECONDS ?= 600
# With fsck.erofs, if it was fetched for the tests.
FUZZ_PATH = PATH="$(CURDIR)/$(CRATES)/bin:$$PATH:$(CURDIR)/$(TOOLS)/run"

fuzz: $(FUZZER)
	$(FUZZ_PATH) fuzz/run $(FUZZ_SECONDS)

# Three minutes for all targets together, once they are built.
fuzz-short: $(FUZZER)
	$(FUZZ_PATH) FUZZ_SEED=1 fuzz/run $$((180 / $$(ls fuzz/fuzz_targets/*.rs | wc -l)))

# See docs/verify.md.
test-reproducible:
	tests/reproducible

# Runs cargo-deny, and compares the list of crates in a binary with the sources.
audit: $(DENY) $(AUDITOR)
	$(TOOL_PATH) release/audit

# Every crate of the image build and of guest-pull, as CycloneDX.
sbom:
	@mkdir -p target/dist
	release/sbom $(TRIPLE) > target/dist/$(NAME).cdx.json
	release/sbom $(TRIPLE) guest-pull > target/dist/guest-pull.cdx.json

# Packs the crates as crates.io would get them, and builds each from its package.
publish-dry-run: check-cargo
	$(CARGO) publish --workspace --locked --dry-run

# Makes the files of a release, from the tag VERSION or from HEAD: docs/release.md.
dist: $(AUDITOR)
	$(TOOL_PATH) release/dist $(VERSION)

# Builds for other architectures, and with the oldest Rust. Must run as root; takes an hour.
test-other:
	tests/other-architectures $(CURDIR)/target/other
