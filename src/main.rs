//! The `iofog-connector` command.

// Nothing that the network, a file or a user can influence may panic. In a test a panic is a report.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::ExitCode;

fn main() -> ExitCode {
    iofog_connector::cli::main(std::env::args_os().skip(1).collect())
}

/// What the standard library would unwind with. A panic ends the process, and the tables that say how
/// to unwind are left out (`build.rs`), but the library names these functions all the same, and the
/// linker would add 21 KB of them. They can only be called for the backtrace that RUST_BACKTRACE asks
/// for, once the panic's message is written; they end the process as the panic is about to.
///
/// Not where panics unwind, as in tests, nor on 32-bit ARM, whose names are others.
#[cfg(all(
    panic = "abort",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
#[allow(unsafe_code, non_snake_case)]
mod unwinding {
    macro_rules! never_used {
        ($($name:ident)*) => {$(
            // SAFETY: nothing else defines the name in this program. Whatever the arguments, they are
            // not looked at, and there is no return.
            #[unsafe(no_mangle)]
            extern "C" fn $name() -> ! {
                std::process::abort()
            }
        )*};
    }

    never_used!(
        _Unwind_Backtrace
        _Unwind_GetDataRelBase
        _Unwind_GetIP
        _Unwind_GetIPInfo
        _Unwind_GetLanguageSpecificData
        _Unwind_GetRegionStart
        _Unwind_GetTextRelBase
        _Unwind_SetGR
        _Unwind_SetIP
    );
}
