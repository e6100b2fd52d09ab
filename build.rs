//! Makes the binary smaller where the linker can: functions that compile to the same code are kept once.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let of_target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    // The toolchain brings LLVM's linker for this target; the system linkers of others do not fold.
    if (of_target("OS"), of_target("ARCH"), of_target("ENV")) == ("linux".into(), "x86_64".into(), "gnu".into()) {
        for kind in ["bins", "cdylib"] {
            println!("cargo::rustc-link-arg-{kind}=-Wl,--icf=all");
        }
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
