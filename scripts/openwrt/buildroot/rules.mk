# OpenWrt's build tree as far as our package Makefile needs it, so that a package can be made without an SDK.
INCLUDE_DIR := $(TOPDIR)/include
INSTALL_DIR := install -d -m 755
INSTALL_BIN := install -m 755
CP := cp -fpR
LN := ln -sf
