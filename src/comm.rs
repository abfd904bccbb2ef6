//! Message passing. MPI is used here and nowhere else. One rank without MPI runs the same path.

use std::cell::RefCell;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::environment::Universe;
use mpi::request::{Request, Scope, scope};
use mpi::topology::{Process, SimpleCommunicator};
use mpi::traits::{Communicator, CommunicatorCollectives, Equivalence, Root};

use crate::error::{Error, Result, exit};
use crate::lookout::{Asker, Lookout, OwnNote};

/// MPI counts are i32, and some MPIs copy a message whole: numbers per broadcast.
const CHUNK: usize = 1 << 24;
/// So long a rank asks without a pause whether the others have come, and this for each byte that it waits for: messages go
/// on only while it asks.
const EAGER: Duration = Duration::from_millis(1);
const EAGER_PER_BYTE: Duration = Duration::from_nanos(20);
/// The longest pause then.
const PAUSE: Duration = Duration::from_millis(10);
/// A wait that the others are told of.
const LONG: Duration = Duration::from_millis(100);
/// Where launchers say a process' rank.
pub const RANKS: [&str; 6] =
    ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "PALS_RANKID", "MV2_COMM_WORLD_RANK", "SLURM_PROCID"];

/// Set while MPI is up, so that a panic or an error can end all ranks.
static RUNNING: AtomicBool = AtomicBool::new(false);

pub struct Comm {
    /// `None`: one rank, no MPI (tests, and commands that need one rank).
    mpi: Option<Mpi>,
    lookout: RefCell<Lookout>,
}

struct Mpi {
    world: SimpleCommunicator,
    /// For the end alone: a rank that fails goes there while the others still talk in `world`.
    leaving: SimpleCommunicator,
    /// The last field: dropping it finalizes MPI.
    _universe: Universe,
}

impl Comm {
    /// One rank without MPI.
    pub fn single() -> Comm {
        Comm { mpi: None, lookout: RefCell::new(Lookout::new(0, 1)) }
    }

    /// MPI's world. Errors: MPI can't be initialised; the launcher started several tasks that do not know each other.
    pub fn world() -> Result<Comm> {
        let (universe, _) = mpi::initialize_with_threading(Threading::Funneled)
            .ok_or_else(|| Error::failed("MPI is initialised already"))?;
        let world = universe.world();
        if let Some((variable, tasks)) = launcher_tasks().filter(|&(_, tasks)| tasks > 1 && world.size() == 1) {
            return Err(Error::failed(format!(
                "the launcher started {tasks} tasks ({variable}), but each of them is alone in MPI: use the mpirun of \
                 the MPI that amlfs was built with, or srun --mpi=pmix (docs/clusters.md)"
            )));
        }
        RUNNING.store(true, Ordering::SeqCst);
        let lookout = RefCell::new(Lookout::new(world.rank() as usize, world.size() as usize));
        let leaving = world.duplicate();
        Ok(Comm { mpi: Some(Mpi { world, leaving, _universe: universe }), lookout })
    }

    /// From now on all ranks end with 75 if one shows no sign of life for `stall` (`None`: as long as follows from the
    /// longest round), or soon if `asker` asks them to stop.
    pub fn limit_waits(&self, stall: Option<Duration>, asker: Box<dyn Asker>) {
        self.lookout.borrow_mut().limit(stall, asker);
    }

    /// From now on the ranks tell each other through files below `run_directory` what they do.
    pub fn keep_notes(&self, run_directory: &Path) {
        self.lookout.borrow_mut().keep_notes(run_directory);
    }

    /// Where this rank says what it does.
    pub fn note(&self) -> OwnNote {
        self.lookout.borrow().own()
    }

    pub fn round_took(&self, time: Duration) {
        self.lookout.borrow_mut().round_took(time);
    }

    fn world_if_any(&self) -> Option<&SimpleCommunicator> {
        self.mpi.as_ref().map(|mpi| &mpi.world)
    }

    pub fn rank(&self) -> usize {
        self.world_if_any().map_or(0, |world| world.rank() as usize)
    }

    pub fn size(&self) -> usize {
        self.world_if_any().map_or(1, |world| world.size() as usize)
    }

    pub fn is_root(&self) -> bool {
        self.rank() == 0
    }

    /// (rank, size) among the ranks that share this node's memory.
    pub fn local(&self) -> (usize, usize) {
        self.barrier(); // splitting spins while it waits
        self.world_if_any().map_or((0, 1), |world| {
            let node = world.split_shared(world.rank());
            (node.rank() as usize, node.size() as usize)
        })
    }

    pub fn barrier(&self) {
        if let Some(world) = self.world_if_any() {
            self.wait(world.immediate_barrier(), 0);
        }
    }

    /// Every rank's `values`, of the same length everywhere, one after the other.
    pub fn all_gather<T: Equivalence + Clone + Default>(&self, values: &[T]) -> Vec<T> {
        let Some(world) = self.world_if_any() else { return values.to_vec() };
        let mut gathered = vec![T::default(); values.len() * self.size()];
        let bytes = size_of_val(&gathered[..]);
        scope(|scope| self.wait(world.immediate_all_gather_into(scope, values, &mut gathered[..]), bytes));
        gathered
    }

    /// The largest `value` of all ranks.
    pub fn all_max(&self, value: u64) -> u64 {
        let Some(world) = self.world_if_any() else { return value };
        let mut largest = 0;
        scope(|scope| {
            self.wait(world.immediate_all_reduce_into(scope, &value, &mut largest, SystemOperation::max()), 0)
        });
        largest
    }

    /// `values`, of the same length everywhere, as `root` has them.
    pub fn broadcast<T: Equivalence>(&self, values: &mut [T], root: usize) {
        let Some(world) = self.world_if_any() else { return };
        let root: Process = world.process_at_rank(root as i32);
        for chunk in values.chunks_mut(CHUNK) {
            let bytes = size_of_val(chunk);
            scope(|scope| self.wait(root.immediate_broadcast_into(scope, chunk), bytes));
        }
    }

    /// Until what all ranks do together is done. A blocking call would spin, and could be stopped by nothing. Ends all ranks
    /// when the lookout says so.
    fn wait<'a, D: ?Sized, S: Scope<'a>>(&self, mut request: Request<'a, D, S>, bytes: usize) {
        let start = Instant::now();
        let eager = EAGER + EAGER_PER_BYTE * bytes.try_into().unwrap_or(u32::MAX);
        loop {
            request = match request.test() {
                Ok(_) => break,
                Err(request) => request,
            };
            let waited = start.elapsed();
            if waited < eager {
                std::thread::yield_now();
                continue;
            }
            if waited > LONG
                && let Some(why) = self.lookout.borrow_mut().waits(waited)
            {
                log::warn!("{why}");
                abort_all(exit::STOPPED);
            }
            std::thread::sleep((waited / 16).min(PAUSE));
        }
        self.lookout.borrow_mut().came(start.elapsed());
    }

    /// Waits for all ranks at the end of their work.
    pub fn part(&self) {
        if let Some(mpi) = &self.mpi {
            self.wait(mpi.leaving.immediate_barrier(), 0);
        }
    }

    /// Whether all ranks part within `limit`: then they can leave in order.
    pub fn part_within(&self, limit: Duration) -> bool {
        let Some(mpi) = &self.mpi else { return true };
        let mut request = mpi.leaving.immediate_barrier();
        let start = Instant::now();
        loop {
            request = match request.test() {
                Ok(_) => return true,
                Err(request) => request,
            };
            if start.elapsed() > limit {
                std::mem::forget(request); // dropping an open request panics; the caller aborts
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Every rank calls this with its own outcome, and gets its value only if all succeeded. Otherwise the lowest
    /// failing rank gets its error back, to report it, and the others `Error::OfAnotherRank`.
    pub fn agree<T>(&self, outcome: Result<T>) -> Result<T> {
        let code = outcome.as_ref().err().map_or(-1.0, |error| error.exit_code() as f64);
        agreed(outcome, &self.all_gather(&[code]), self.rank())
    }
}

/// `codes`: the exit code of each rank's error, -1 for a success.
fn agreed<T>(outcome: Result<T>, codes: &[f64], rank: usize) -> Result<T> {
    match codes.iter().position(|&code| code >= 0.0) {
        None => outcome,
        Some(first) if first == rank => outcome,
        Some(first) => Err(Error::OfAnotherRank { exit_code: codes[first] as i32 }),
    }
}

impl Drop for Comm {
    fn drop(&mut self) {
        RUNNING.store(false, Ordering::SeqCst); // dropping the universe finalizes MPI
    }
}

/// Ends all ranks at once, if MPI is running: the others would wait in a collective for ever.
pub fn abort_all(code: i32) {
    if RUNNING.load(Ordering::SeqCst) {
        SimpleCommunicator::world().abort(code);
    }
}

/// This process' rank before MPI_Init, by the launcher's variables; 0 if there is no launcher.
pub fn launcher_rank() -> usize {
    launcher_says_rank().unwrap_or(0)
}

/// `None` if there is no launcher.
pub fn launcher_says_rank() -> Option<usize> {
    RANKS.iter().find_map(|name| number(name))
}

/// This process' rank on its node before MPI_Init. SLURM_LOCALID is set in any Slurm shell, so it comes last.
pub fn launcher_local_rank() -> Option<usize> {
    let variables = [
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "MPI_LOCALRANKID",
        "MV2_COMM_WORLD_LOCAL_RANK",
        "PMI_LOCAL_RANK",
        "PALS_LOCAL_RANKID",
        "SLURM_LOCALID",
    ];
    variables.iter().find_map(|name| number(name))
}

/// How many tasks the launcher started, and the variable that says so. A job step's own variable, not SLURM_NTASKS,
/// which a batch script has before any srun.
fn launcher_tasks() -> Option<(&'static str, usize)> {
    ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"]
        .into_iter()
        .find_map(|name| number(name).map(|tasks| (name, tasks)))
}

fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failing_rank_tells_and_the_others_end_with_its_code() {
        let stopped = || Err::<(), _>(Error::Stopped("saved".into()));
        let codes = [-1.0, stopped().unwrap_err().exit_code() as f64, 1.0];
        let ended = [Ok(()), stopped(), Err(Error::failed("no such file"))].into_iter().enumerate();
        let ended: Vec<Error> = ended.map(|(rank, outcome)| agreed(outcome, &codes, rank).unwrap_err()).collect();
        assert!(matches!(ended[0], Error::OfAnotherRank { exit_code: 75 }));
        assert!(matches!(&ended[1], Error::Stopped(text) if text == "saved"));
        assert!(matches!(ended[2], Error::OfAnotherRank { exit_code: 75 }));
        assert_eq!(agreed(Ok(7), &[-1.0; 3], 2).unwrap(), 7);
        // told on a third rank, it is still that rank's to tell
        assert!(matches!(
            Comm::single().agree(stopped().map_err(|error| error.told_elsewhere())),
            Err(Error::OfAnotherRank { exit_code: 75 })
        ));
    }
}
