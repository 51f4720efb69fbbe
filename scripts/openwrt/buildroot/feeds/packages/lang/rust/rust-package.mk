RUST_ARCH_DEPENDS := @(aarch64||arm||mips||mipsel||x86_64)
