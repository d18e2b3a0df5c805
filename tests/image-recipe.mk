# SPDX-License-Identifier: Apache-2.0
#
# The steps that cloud-api-adaptor's podvm/Makefile.inc of 2023 does with the source of an attestation-agent, for the test
# of them: `early` is that of early 2023, `mid` that of mid 2023.

ARCH ?= $(shell uname -m)
LIBC ?= gnu
KBC ?= offline_fs_kbc
ATTESTATION_AGENT_SRC ?= ../../attestation-agent
FILES_DIR ?= files

# Where the build leaves the binary, for the recipe.
RELEASE := target/$(ARCH)-unknown-linux-$(LIBC)/release/attestation-agent
AGENT := $(FILES_DIR)/usr/local/bin/attestation-agent

.PHONY: early mid

early:
	cd "$(ATTESTATION_AGENT_SRC)" && CC= $(MAKE) KBC=$(KBC) LIBC=$(LIBC) ARCH=$(ARCH)
	install -D -m 0755 "$(ATTESTATION_AGENT_SRC)/app/$(RELEASE)" "$(AGENT)"

mid:
	cd "$(ATTESTATION_AGENT_SRC)" && $(MAKE) KBC=$(KBC) LIBC=$(LIBC) ttrpc=true ARCH=$(ARCH) CC=
	install -D -m 0755 "$(ATTESTATION_AGENT_SRC)/$(RELEASE)" "$(AGENT)"
