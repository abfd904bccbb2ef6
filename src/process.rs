//! What a process does at its start and at a bad end.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::comm;
use crate::error::{Error, exit};

/// glibc hands every large tensor back to the kernel and takes it anew in the next step; with these settings it keeps
/// them, on huge pages: 10 to 16 % faster training on CPU (docs/architecture.md). They are read before main, hence
/// the program starts itself once more, in the same process. A GLIBC_TUNABLES of the user's is left alone.
pub fn tune_allocator() {
    const VARIABLE: &str = "GLIBC_TUNABLES";
    const SETTINGS: &str =
        "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296";
    if cfg!(all(target_os = "linux", target_env = "gnu")) && std::env::var_os(VARIABLE).is_none() {
        let Ok(program) = std::env::current_exe() else { return };
        let mut arguments = std::env::args_os();
        let mut again = Command::new(program);
        if let Some(name) = arguments.next() {
            again.arg0(name);
        }
        // returns only if it fails; then the default allocator does
        let _ = again.args(arguments).env(VARIABLE, SETTINGS).exec();
    }
}

/// A panic on one rank must not leave the others waiting for it.
pub fn end_all_ranks_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        eprintln!("amlfs: this is a bug; please report the message above and the command line");
        comm::abort_all(exit::PANIC);
        std::process::exit(exit::PANIC);
    }));
}

/// Says what went wrong, once, and returns the exit code. Errors without text are another rank's to tell.
pub fn report(error: &Error) -> i32 {
    let text = error.to_string();
    match error {
        _ if text.is_empty() => {}
        Error::Stopped(_) => log::warn!("{text}"),
        _ => log::error!("{text}"),
    }
    error.exit_code()
}
