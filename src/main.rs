use std::process::exit;

use amlfs::{cli, commands, process, stop};

fn main() {
    stop::hold();
    process::set_environment();
    process::bear_file_limits();
    process::end_all_ranks_on_panic();
    let command = cli::parse();
    amlfs::terminal::start_log();
    let code = match commands::run(command) {
        Ok(()) => amlfs::error::exit::DONE,
        Err(error) => process::report(&error),
    };
    exit(code);
}
