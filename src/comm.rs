//! Message passing. MPI is used here and nowhere else. One rank without MPI runs the same path.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Equivalence, Root};

use crate::error::{Error, Result};

/// MPI counts are i32, and some MPIs copy a message whole: numbers per broadcast.
const CHUNK: usize = 1 << 24;

/// Set while MPI is up, so that a panic or an error can end all ranks.
static RUNNING: AtomicBool = AtomicBool::new(false);

pub struct Comm {
    /// `None`: one rank, no MPI (tests, and commands that need one rank).
    mpi: Option<(Universe, SimpleCommunicator)>,
}

impl Comm {
    /// One rank without MPI.
    pub fn single() -> Comm {
        Comm { mpi: None }
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
        Ok(Comm { mpi: Some((universe, world)) })
    }

    pub fn rank(&self) -> usize {
        self.mpi.as_ref().map_or(0, |(_, world)| world.rank() as usize)
    }

    pub fn size(&self) -> usize {
        self.mpi.as_ref().map_or(1, |(_, world)| world.size() as usize)
    }

    pub fn is_root(&self) -> bool {
        self.rank() == 0
    }

    /// (rank, size) among the ranks that share this node's memory.
    pub fn local(&self) -> (usize, usize) {
        self.mpi.as_ref().map_or((0, 1), |(_, world)| {
            let node = world.split_shared(world.rank());
            (node.rank() as usize, node.size() as usize)
        })
    }

    pub fn barrier(&self) {
        if let Some((_, world)) = &self.mpi {
            world.barrier();
        }
    }

    /// Every rank's `values` (f32 or f64), of the same length everywhere, one after the other.
    pub fn all_gather<T: Equivalence + Clone + Default>(&self, values: &[T]) -> Vec<T> {
        match &self.mpi {
            None => values.to_vec(),
            Some((_, world)) => {
                let mut gathered = vec![T::default(); values.len() * self.size()];
                world.all_gather_into(values, &mut gathered[..]);
                gathered
            }
        }
    }

    /// The largest `value` of all ranks.
    pub fn all_max(&self, value: u64) -> u64 {
        match &self.mpi {
            None => value,
            Some((_, world)) => {
                let mut largest = 0;
                world.all_reduce_into(&value, &mut largest, SystemOperation::max());
                largest
            }
        }
    }

    pub fn broadcast_f64(&self, values: &mut [f64], root: usize) {
        self.broadcast(values, root, |root, chunk| root.broadcast_into(chunk));
    }

    pub fn broadcast_f32(&self, values: &mut [f32], root: usize) {
        self.broadcast(values, root, |root, chunk| root.broadcast_into(chunk));
    }

    /// `values`, of the same length everywhere, as `root` has them.
    fn broadcast<T>(&self, values: &mut [T], root: usize, send: impl Fn(mpi::topology::Process, &mut [T])) {
        if let Some((_, world)) = &self.mpi {
            for chunk in values.chunks_mut(CHUNK) {
                send(world.process_at_rank(root as i32), chunk);
            }
        }
    }

    /// Whether all ranks call this within `limit`: then they can leave in order.
    pub fn meet(&self, limit: Duration) -> bool {
        let Some((_, world)) = &self.mpi else { return true };
        let mut request = world.immediate_barrier();
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
    let variables =
        ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "PALS_RANKID", "MV2_COMM_WORLD_RANK", "SLURM_PROCID"];
    variables.iter().find_map(|name| number(name))
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
