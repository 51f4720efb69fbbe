# A stand-in for OpenWrt's build tree, as far as our package Makefile sees it: `make install` runs its install recipe.
INCLUDE_DIR := $(TOPDIR)/include
INSTALL_DIR := install -d -m 755
INSTALL_BIN := install -m 755
CP := cp -fpR
LN := ln -sf
