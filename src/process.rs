//! What a process does at its start and at a bad end.

use std::ffi::{CStr, CString, c_char};
use std::os::unix::ffi::OsStringExt;

use crate::comm;
use crate::error::{Error, exit, out_of_device_memory};

/// What libraries read from the environment, some before main and all before any thread could change it.
const SETTINGS: [(&str, &str); 2] = [
    // glibc hands every large tensor back to the kernel and takes it anew in the next step; so it keeps them, on huge
    // pages: 10 to 16 % faster training on CPU (docs/architecture.md). Other C libraries ignore it.
    (
        "GLIBC_TUNABLES",
        "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296",
    ),
    // repeatable matrix products on a GPU
    ("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
];
/// In a user namespace of its own (an unprivileged container's) the kernel does not let a rank copy from another's memory.
/// Open MPI 4 tries it all the same, and the first large message never arrives; 5 sees it by itself.
const IN_A_CONTAINER: (&str, &str) = ("OMPI_MCA_btl_vader_single_copy_mechanism", "none");
/// A process that no launcher started exchanges nothing: Open MPI then needs no daemon beside it and no network's library, which
/// take 0.3 s (one of them measures a clock in its constructor).
const ALONE: [(&str, &str); 2] = [("OMPI_MCA_ess_singleton_isolated", "1"), ("OMPI_MCA_pml", "ob1")];
/// Holds the number of the process that has started itself anew: it stays the same, and a child has another.
const RESTARTED: &str = "AMLFS_RESTARTED";

/// Starts the program anew, once and in the same process, with those settings that the user has not made. Made for
/// `.preinit_array`, before the libraries' constructors, which take 0.3 s in libtorch: std knows neither arguments nor
/// environment yet.
///
/// # Safety
/// `arguments` and `environment` are those of the process: lists of strings that end with a null.
pub unsafe fn set_environment(arguments: *const *const c_char, environment: *const *const c_char) {
    // SAFETY: as promised
    let mut environment: Vec<&CStr> = unsafe { strings(environment) };
    let value_of = |name: &str| {
        let values = environment.iter().filter_map(|entry| entry.to_bytes().strip_prefix(name.as_bytes()));
        values.filter_map(|value| value.strip_prefix(b"=")).next()
    };
    let process = std::process::id().to_string();
    let alone = comm::RANKS.iter().all(|name| value_of(name).is_none());
    let settings = SETTINGS.into_iter().chain(in_own_user_namespace().then_some(IN_A_CONTAINER));
    let settings = settings.chain(ALONE.into_iter().filter(|_| alone));
    let missing: Vec<_> = settings.filter(|(name, _)| value_of(name).is_none()).collect();
    if missing.is_empty() || value_of(RESTARTED) == Some(process.as_bytes()) {
        return;
    }
    let Ok(program) = std::fs::read_link("/proc/self/exe") else { return };
    let assignments = missing.into_iter().chain([(RESTARTED, process.as_str())]);
    let assignments = assignments.map(|(name, value)| CString::new(format!("{name}={value}")));
    let (Ok(program), Ok(assignments)) = (CString::new(program.into_os_string().into_vec()), assignments.collect())
    else {
        return;
    };
    let assignments: Vec<CString> = assignments;
    // a parent's
    environment.retain(|entry| !entry.to_bytes().starts_with(RESTARTED.as_bytes()));
    let environment = environment.into_iter().chain(assignments.iter().map(CString::as_c_str)).map(CStr::as_ptr);
    let environment: Vec<_> = environment.chain([std::ptr::null()]).collect();
    // SAFETY: strings, and lists of them that end with a null. Returns only if it fails: then the libraries' own settings do
    unsafe { libc::execve(program.as_ptr(), arguments, environment.as_ptr()) };
}

/// # Safety
/// `list` ends with a null, and its strings live as long as the process.
unsafe fn strings(list: *const *const c_char) -> Vec<&'static CStr> {
    // SAFETY: not beyond the null
    let entries = (0..).map(|i| unsafe { *list.add(i) }).take_while(|entry| !entry.is_null());
    // SAFETY: as promised
    entries.map(|entry| unsafe { CStr::from_ptr(entry) }).collect()
}

/// Whether user numbers are not the machine's own. Without Linux's list of them: no.
fn in_own_user_namespace() -> bool {
    let ranges = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let numbers: Vec<_> = ranges.split_whitespace().collect();
    !numbers.is_empty() && numbers != ["0", "0", "4294967295"]
}

/// Says what the environment's settings mean for this run.
pub fn log_environment() {
    let (name, value) = IN_A_CONTAINER;
    if in_own_user_namespace() && std::env::var(name).is_ok_and(|set| set == value) {
        log::info!(
            "this is a user namespace, as containers without privileges have: ranks exchange through shared memory \
             ({name}={value})"
        );
    }
}

/// A file that would grow over a limit (`ulimit -f`) is an error of its writing, not the end of the process.
pub fn bear_file_limits() {
    // SAFETY: no handler of ours is involved
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// A panic on one rank must not leave the others waiting for it.
pub fn end_all_ranks_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // tch panics where libtorch has an error
        let code = match out_of_device_memory(&info.to_string()) {
            Some(error) => report(&error),
            None => {
                default(info);
                eprintln!("amlfs: this is a bug; please report the message above and the command line");
                exit::PANIC
            }
        };
        comm::abort_all(code);
        std::process::exit(code);
    }));
}

/// Says what went wrong, once, and returns the exit code.
pub fn report(error: &Error) -> i32 {
    match error {
        Error::OfAnotherRank { .. } => {}
        Error::Stopped(_) => log::warn!("{error}"),
        _ => log::error!("{error}"),
    }
    error.exit_code()
}
