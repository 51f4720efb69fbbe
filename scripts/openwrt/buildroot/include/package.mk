PKG_BUILD_DIR := $(OUTPUT)/build
PKG_INSTALL_DIR := $(OUTPUT)/install

define BuildPackage
$(eval $(Package/$(1)))
.PHONY: prepare install show prerm
prepare:
	$(Build/Prepare)
install:
	$(call Package/$(1)/install,$(OUTPUT)/root)
show:
	@echo 'version: $(PKG_VERSION)'
	@echo 'depends: $(DEPENDS)'
	@echo 'users: $(USERID)'
	@echo 'conffiles: $(foreach file,$(Package/$(1)/conffiles),$(file))'
prerm: export TEXT = $$(call Package/$(1)/prerm)
prerm:
	@echo "$$$$TEXT"
endef
