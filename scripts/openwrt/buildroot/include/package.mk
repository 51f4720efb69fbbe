# `make install` puts the package's files in OUTPUT/root, and `make show-FIELD` prints what the package manager is told.
PKG_BUILD_DIR := $(OUTPUT)/build
PKG_INSTALL_DIR := $(OUTPUT)/install

# The conditions of dependencies that hold: a router has IPv6, and FORMAT is apk for the releases that have this package.
CONFIG := IPV6 $(if $(filter apk,$(FORMAT)),PACKAGE_kmod-nft-socket)
condition = $(firstword $(subst :, ,$1))
dependency = $(if $(findstring :,$1),$(if $(filter $(CONFIG),$(call condition,$1)),$(lastword $(subst :, ,$1))),$1)

define BuildPackage
$(eval $(Package/$(1)))
SHOWN := $(1)
.PHONY: prepare install show-%
prepare:
	$(Build/Prepare)
install:
	$(call Package/$(1)/install,$(OUTPUT)/root)
endef

shown/version = $(PKG_VERSION)
shown/license = $(PKG_LICENSE)
shown/section = $(SECTION)
shown/depends = $(foreach word,$(filter-out @%,$(DEPENDS)),$(call dependency,$(word:+%=%)))
shown/users = $(USERID)
shown/conffiles = $(Package/$(SHOWN)/conffiles)
shown/description = $(Package/$(SHOWN)/description)
shown/postinst = $(Package/$(SHOWN)/postinst)
shown/prerm = $(Package/$(SHOWN)/prerm)

show-%: export TEXT = $(shown/$*)
show-%:
	@echo "$$TEXT"
