//! Files mapped into memory: one page cache for all ranks of a node. Where a mapped file has lost its end, or its disk or
//! server fails, the kernel has no error to return, only SIGBUS: then the program names the file and ends as with other errors.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};

use libc::{SIGBUS, c_int, c_void, sigaction, siginfo_t};
use memmap2::{Mmap, MmapOptions};

use crate::comm;
use crate::error::exit;

/// A file's bytes, or a range of them.
pub struct MappedFile {
    bytes: Mmap,
    place: &'static Place,
}

impl MappedFile {
    pub fn all(path: &Path, file: &File) -> io::Result<MappedFile> {
        MappedFile::new(path, file, &MmapOptions::new())
    }

    pub fn range(path: &Path, file: &File, range: &Range<u64>) -> io::Result<MappedFile> {
        let length = usize::try_from(range.end - range.start)
            .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "too large for this computer"))?;
        MappedFile::new(path, file, MmapOptions::new().offset(range.start).len(length))
    }

    fn new(path: &Path, file: &File, options: &MmapOptions) -> io::Result<MappedFile> {
        handle_sigbus()?;
        // SAFETY: read-only; data sets do not change under a running job, as for every reader of them. If one gets
        // shorter, the handler ends the process.
        let bytes = unsafe { options.map(file)? };
        Ok(MappedFile { place: Place::publish(&bytes, message(path)), bytes })
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // before others get these addresses
        self.place.mapped.store(false, Ordering::SeqCst);
    }
}

/// Where a file is or was mapped, and what to say if it can't be read there. The signal handler may be reading it at any
/// time, so it is never freed; there are few.
struct Place {
    addresses: Range<usize>,
    message: String,
    mapped: AtomicBool,
    next: *const Place,
}

// SAFETY: `next` points to a place that nobody changes or frees
unsafe impl Sync for Place {}

/// The last one that was published; each has the one before as its next.
static PLACES: AtomicPtr<Place> = AtomicPtr::new(ptr::null_mut());
/// What SIGBUS did before.
static BEFORE: OnceLock<sigaction> = OnceLock::new();
/// Another file that the message goes to, beside standard error: run.log. -1: none.
static LOG: AtomicI32 = AtomicI32::new(-1);

impl Place {
    fn publish(bytes: &Mmap, message: String) -> &'static Place {
        let Range { start, end } = bytes.as_ptr_range();
        // the kernel tells a page's address
        let addresses = start as usize / PAGE * PAGE..(end as usize).next_multiple_of(PAGE);
        let place = Box::leak(Box::new(Place { addresses, message, mapped: AtomicBool::new(true), next: ptr::null() }));
        let published = PLACES.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| {
            place.next = last;
            Some(place)
        });
        published.expect("the closure always gives one");
        place
    }

    fn at(address: usize) -> Option<&'static Place> {
        // SAFETY: null or a leaked place, here and as `next`
        let mut places = std::iter::successors(unsafe { PLACES.load(Ordering::SeqCst).as_ref() }, |place| unsafe {
            place.next.as_ref()
        });
        places.find(|place| place.mapped.load(Ordering::SeqCst) && place.addresses.contains(&address))
    }
}

fn handle_sigbus() -> io::Result<()> {
    if BEFORE.get().is_some() {
        return Ok(());
    }
    // SAFETY: all zeros are a valid `sigaction`; the handler takes no lock and no memory
    unsafe {
        let (mut ours, mut before) = (std::mem::zeroed::<sigaction>(), std::mem::zeroed::<sigaction>());
        libc::sigaction(SIGBUS, ptr::null(), &mut before);
        ours.sa_sigaction = on_sigbus as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        if BEFORE.set(before).is_ok() && libc::sigaction(SIGBUS, &ours, ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Only what POSIX allows in a signal handler.
extern "C" fn on_sigbus(_signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel gives what is known of the signal; SIGBUS has an address
    let address = unsafe { (*info).si_addr() } as usize;
    if let Some(place) = Place::at(address) {
        end_with(place.message.as_bytes());
    }
    // not ours: the same access fails again, and gets what it got before
    if let Some(before) = BEFORE.get() {
        // SAFETY: what was there
        unsafe { libc::sigaction(SIGBUS, before, ptr::null_mut()) };
    }
}

/// Pages are at least so large. No other mapping begins or ends within one.
const PAGE: usize = 4096;

/// From now on the message goes to this open file, too. It must stay open.
pub fn tell_also(log: c_int) {
    LOG.store(log, Ordering::SeqCst);
}

/// As the log would tell it; made in advance, because a signal handler must not take memory.
fn message(path: &Path) -> String {
    let rank = match comm::launcher_rank() {
        0 => String::new(),
        rank => format!("rank {rank}: "),
    };
    format!(
        "amlfs: {rank}error: {}: can't be read any more: it was made shorter while the program used it, or its disk or \
         server failed (SIGBUS); put it back and start again, a run with --resume\n",
        path.display()
    )
}

/// In the signal handler: says this, once, and ends the process.
fn end_with(message: &[u8]) -> ! {
    static BEGUN: AtomicBool = AtomicBool::new(false);
    if BEGUN.swap(true, Ordering::SeqCst) {
        // another thread is about to end the process
        loop {
            // SAFETY: waits for a signal
            unsafe { libc::pause() };
        }
    }
    for file in [libc::STDERR_FILENO, LOG.load(Ordering::SeqCst)] {
        // SAFETY: write(2) may be called in a handler; without the file it fails, and there is nobody to tell
        unsafe { libc::write(file, message.as_ptr().cast(), message.len()) };
    }
    // SAFETY: _exit(2) may be called in a handler
    unsafe { libc::_exit(exit::FAILED) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The file that the test maps in a process of its own.
    const FILE: &str = "AMLFS_TEST_MAPPED_FILE";

    fn map(path: &Path) -> MappedFile {
        MappedFile::all(path, &File::open(path).unwrap()).unwrap()
    }

    fn sum(bytes: &[u8]) -> u64 {
        bytes.iter().map(|&byte| byte as u64).sum()
    }

    #[test]
    fn a_file_that_gets_shorter_is_named_and_ends_the_process_with_1() {
        if let Ok(path) = std::env::var(FILE) {
            let path = Path::new(&path);
            let (_intact, shorter) = (map(&std::env::current_exe().unwrap()), map(path));
            // a page of its own stays, and one that is unmapped is nobody's
            drop(map(path));
            File::options().write(true).open(path).unwrap().set_len(5000).unwrap();
            println!("sum {}", sum(&shorter[..5000]));
            std::thread::scope(|scope| {
                scope.spawn(|| sum(&shorter));
                scope.spawn(|| sum(&shorter));
            });
            unreachable!("nothing can be read there");
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("faces.h5");
        std::fs::write(&path, vec![1; 100_000]).unwrap();
        let mut again = Command::new(std::env::current_exe().unwrap());
        let name = "mapped_file::tests::a_file_that_gets_shorter_is_named_and_ends_the_process_with_1";
        let output = again.args(["--exact", name, "--nocapture"]).env(FILE, &path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("sum 5000"), "{output:?}");
        let beginning = format!("amlfs: error: {}: can't be read any more: it was made shorter", path.display());
        assert!(said.contains(&beginning) && said.matches("SIGBUS").count() == 1, "{said}");
    }

    #[test]
    fn a_range_is_the_files_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, (0..=255).collect::<Vec<u8>>()).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(&MappedFile::range(&path, &file, &(10..13)).unwrap()[..], [10, 11, 12]);
        assert_eq!(MappedFile::all(&path, &file).unwrap().len(), 256);
    }
}
