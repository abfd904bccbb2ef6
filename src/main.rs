use std::ffi::{c_char, c_int};
use std::io::Write;

use amlfs::{cli, commands, process, stop};

/// Called before the constructors of the libraries.
#[used]
#[unsafe(link_section = ".preinit_array")]
static FIRST: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = first;

extern "C" fn first(_: c_int, arguments: *const *const c_char, environment: *const *const c_char) {
    stop::hold();
    // SAFETY: they are what the C library hands to main
    unsafe { process::set_environment(arguments, environment) };
}

fn main() {
    process::bear_file_limits();
    process::end_all_ranks_on_panic();
    let code = cli::parse().map_or_else(|code| code, run);
    let _ = std::io::stdout().flush();
    // SAFETY: ends the process, without the libraries' destructors, which take 0.1 s in libtorch
    unsafe { libc::_exit(code) }
}

/// Returns the exit code.
fn run(command: cli::Command) -> i32 {
    amlfs::terminal::start_log();
    match commands::run(command) {
        Ok(()) => amlfs::error::exit::DONE,
        Err(error) => process::report(&error),
    }
}
