use std::process::exit;

use amlfs::{cli, commands, process, stop};

/// Runs before what libtorch does ahead of `main`, which takes most of the start: a signal must not end the run then.
#[used]
#[unsafe(link_section = ".preinit_array")]
static BEFORE_LIBRARIES_START: extern "C" fn() = hold_signals;

extern "C" fn hold_signals() {
    stop::hold();
}

fn main() {
    process::set_environment();
    process::end_all_ranks_on_panic();
    let command = cli::parse();
    amlfs::terminal::start_log();
    let code = match commands::run(command) {
        Ok(()) => amlfs::error::exit::DONE,
        Err(error) => process::report(&error),
    };
    exit(code);
}
