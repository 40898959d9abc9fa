//! How a release is linked. Left out is what it never uses: the tables by which a panic would be unwound.
//!
//! A panic ends the daemon at once (`panic = "abort"`); its message names file and line. The
//! standard library is compiled with the tables all the same, and only the linker can leave them
//! out: 0.2 MB, a tenth of the program. Linkers that take no scripts, such as mold, cannot.
//!
//! On 32-bit Arm the program begins with a look at the processor (`src/os/processor.rs`).
//!
//! musl's `getrandom` is asked for by name. The standard library has it as a symbol that may be missing, for which a
//! linker takes nothing out of an archive, and where all is optimized as one, so has the crate getrandom, which on
//! riscv64 calls it without a look: there a call of what is missing leads to itself, for ever.

use std::env;
use std::fs;
use std::io;
use std::path::PathBuf;

/// Beside the linker's own script, not in place of it. `INSERT` makes it so, wherever it points.
const SCRIPT: &str = "SECTIONS { /DISCARD/ : { *(.eh_frame) *(.eh_frame_hdr) \
                      *(.gcc_except_table .gcc_except_table.*) } } INSERT AFTER .text;\n";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |variable, values: &[&str]| {
        env::var(variable).is_ok_and(|value| values.contains(&value.as_str()))
    };
    if is("PROFILE", &["release"])
        && is("CARGO_CFG_TARGET_OS", &["linux"])
        // 32-bit ARM has tables of another kind, and hardly any of these.
        && is("CARGO_CFG_TARGET_ARCH", &["x86_64", "aarch64", "riscv64"])
    {
        let directory = env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?;
        let script = PathBuf::from(directory).join("no-unwinding.ld");
        fs::write(&script, SCRIPT)?;
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{},--no-eh-frame-hdr", script.display());
    }
    if is("CARGO_CFG_TARGET_ENV", &["musl"]) {
        println!("cargo::rustc-link-arg=-Wl,-u,getrandom");
    }
    println!("cargo::rustc-check-cfg=cfg(armv7)");
    if is("CARGO_CFG_TARGET_OS", &["linux"]) && is("CARGO_CFG_TARGET_ARCH", &["arm"]) {
        if env::var("TARGET").is_ok_and(|target| target.contains("v7")) {
            println!("cargo::rustc-cfg=armv7");
        }
        if is("PROFILE", &["release"]) {
            println!("cargo::rustc-link-arg-bins=-Wl,-e,iofog_connector_entry");
        }
    }
    Ok(())
}
