//! Whom the others wait for. Every rank notes what it does in a file of its own below the run directory, which takes nothing
//! of a rank that is stuck. Of those that wait long, the lowest one reads the notes, names the rank that is missing, and ends
//! all ranks if it shows no sign of life. A rank that makes steps, however slowly, is waited for.

mod notes;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use notes::{KeptNote, Note};
pub use notes::{NAME, OwnNote, evaluated_batch, what_ranks_do};

const MINUTE: Duration = Duration::from_secs(60);
/// Unless it is set, the least time without a sign of life after which all end.
const LEAST_STALL: Duration = Duration::from_secs(30 * 60);
/// Or so many times the longest round: not all work gives signs.
const STALL_ROUNDS: u32 = 5;
/// The same for a run that was asked to stop, perhaps because its job ends in two minutes.
const STOP_PATIENCE: Duration = Duration::from_secs(90);

/// Who may ask a run to stop, while its training loop does not listen.
pub trait Asker {
    fn asks_to_stop(&mut self) -> bool;

    /// All ranks are about to end.
    fn answered(&mut self);
}

/// How long a rank may show no sign of life.
enum Stall {
    /// For ever: the command trains nothing.
    Never,
    Set(Duration),
    /// By the longest round so far.
    Rounds(Duration),
}

pub struct Lookout {
    rank: usize,
    size: usize,
    own: OwnNote,
    stall: Stall,
    asker: Option<Box<dyn Asker>>,
    kept: Option<KeptNote>,
    wait: Option<Wait>,
}

/// One wait for the others.
struct Wait {
    looked: Instant,
    /// What each rank's file said, and since when it does.
    seen: Vec<Option<Seen>>,
    asked: Option<Instant>,
    speaks_at: Duration,
    spoke: bool,
}

#[derive(Clone)]
struct Seen {
    note: Option<Note>,
    since: Instant,
}

/// Whom the others wait for, and whether this rank is the one to say so.
struct Late {
    /// With their notes, and since when these are as they are.
    ranks: Vec<(usize, Note, Instant)>,
    /// Whether there are ranks without a note that can be read.
    unknown: bool,
    speaks: bool,
}

impl Lookout {
    /// Knows nothing of the others, and waits for ever.
    pub fn new(rank: usize, size: usize) -> Lookout {
        let own = OwnNote::default();
        own.edit(|note| {
            let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            (note.host, note.process) = (host.trim().to_owned(), std::process::id());
        });
        Lookout { rank, size, own, stall: Stall::Never, asker: None, kept: None, wait: None }
    }

    /// From now on all ranks end if one shows no sign of life for `stall`, or for a time that follows from the longest round.
    pub fn limit(&mut self, stall: Option<Duration>, asker: Box<dyn Asker>) {
        self.stall = stall.map_or(Stall::Rounds(Duration::ZERO), Stall::Set);
        self.asker = Some(asker);
    }

    /// From now on this rank's note is in a file below `run_directory`, for the others, until the lookout is dropped.
    pub fn keep_notes(&mut self, run_directory: &Path) {
        if self.size > 1 {
            let period = self.period();
            self.kept = Some(KeptNote::new(&run_directory.join(NAME), self.rank, self.own.clone(), period));
        }
    }

    pub fn own(&self) -> OwnNote {
        self.own.clone()
    }

    pub fn round_took(&mut self, time: Duration) {
        if let Stall::Rounds(longest) = &mut self.stall {
            *longest = time.max(*longest);
        }
    }

    fn stall(&self) -> Option<Duration> {
        match self.stall {
            Stall::Never => None,
            Stall::Set(time) => Some(time),
            Stall::Rounds(longest) => Some(LEAST_STALL.max(longest * STALL_ROUNDS)),
        }
    }

    /// How long a wait is before it is spoken of.
    fn speaks_after(&self) -> Duration {
        self.stall().map_or(MINUTE, |stall| MINUTE.min(stall / 6))
    }

    /// How often notes are written and read.
    fn period(&self) -> Duration {
        self.speaks_after() / 6
    }

    /// To be called often while this rank waits. Some: why all ranks must end now.
    pub fn waits(&mut self, waited: Duration) -> Option<String> {
        self.own.edit(|note| (note.waits, note.beat) = (true, note.beat + 1));
        let (now, period, speaks_at) = (Instant::now(), self.period(), self.speaks_after());
        let size = self.size;
        let wait = self.wait.get_or_insert_with(|| Wait {
            looked: now,
            seen: vec![None; size],
            asked: None,
            speaks_at,
            spoke: false,
        });
        if wait.asked.is_none() && self.asker.as_mut().is_some_and(|asker| asker.asks_to_stop()) {
            wait.asked = Some(now);
        }
        if now - wait.looked < period {
            return None;
        }
        wait.looked = now;
        self.look(waited)
    }

    /// The others have come.
    pub fn came(&mut self, waited: Duration) {
        let Some(wait) = self.wait.take() else { return };
        self.own.edit(|note| note.waits = false);
        if wait.spoke {
            log::info!("all ranks have come after {}", text_of(waited));
        }
    }

    fn look(&mut self, waited: Duration) -> Option<String> {
        let late = self.late()?;
        // of several, the one that has been quiet for longest
        let worst = late.ranks.iter().min_by_key(|(rank, _, since)| (*since, *rank));
        let quiet = worst.map_or(waited, |(_, _, since)| since.elapsed());
        let who = match worst {
            Some((rank, note, _)) => describe(*rank, note),
            None if late.unknown => "one of the other ranks".into(),
            None => "all ranks, which wait themselves,".into(),
        };
        if let Some(why) = self.must_end(&who, quiet) {
            if let Some(asker) = &mut self.asker {
                asker.answered();
            }
            return Some(format!("{why}: all ranks end; --resume goes on from what is saved"));
        }
        if late.speaks && waited >= self.wait.as_ref()?.speaks_at {
            let others = match late.ranks.len() {
                0 | 1 => String::new(),
                ranks => format!(" and for {} more", ranks - 1),
            };
            self.speak(waited, quiet, &format!("waiting for {}{others}", who.trim_end_matches(',')));
        }
        None
    }

    /// Those that the others wait for. `None`: a lower rank waits, too, and looks after all.
    fn late(&mut self) -> Option<Late> {
        let (me, alive) = (self.rank, self.period() * 3);
        let mut late = Late { ranks: Vec::new(), unknown: false, speaks: true };
        for rank in (0..self.size).filter(|&rank| rank != me) {
            let Seen { note, since } = self.see(rank)?;
            match note {
                Some(note) if note.waits && since.elapsed() < alive => {
                    if rank < me {
                        return None;
                    }
                }
                Some(note) => late.ranks.push((rank, note, since)),
                None => {
                    late.unknown = true;
                    late.speaks &= rank > me; // it may wait, and speak
                }
            }
        }
        Some(late)
    }

    /// Why all ranks must end when `who` has been quiet for so long.
    fn must_end(&self, who: &str, quiet: Duration) -> Option<String> {
        let stall = self.stall()?;
        if quiet >= stall {
            return Some(format!("{who} has shown no sign of life for {} (run.stall_minutes)", text_of(quiet)));
        }
        let since_asked = self.wait.as_ref()?.asked?.elapsed().min(quiet);
        (since_asked >= STOP_PATIENCE.min(stall / 2))
            .then(|| format!("asked to stop, but {who} has shown no sign of life since then, {}", text_of(since_asked)))
    }

    /// A rank that only is slow is named once, one without a sign of life again and again.
    fn speak(&mut self, waited: Duration, quiet: Duration, text: &str) {
        let stall = self.stall();
        let stuck = quiet + self.period() * 2 >= self.speaks_after();
        let Some(wait) = &mut self.wait else { return };
        if stuck && let Some(stall) = stall {
            let (so_far, end) = (text_of(waited), text_of(stall));
            log::warn!("{text}: {so_far} so far; after {end} without a sign of life all ranks end");
        } else if !wait.spoke {
            log::info!("{text}: {} so far", text_of(waited));
        }
        wait.spoke = true;
        while wait.speaks_at <= waited {
            wait.speaks_at *= 2;
        }
    }

    /// What another rank's file says. A file that is half written or can't be read is as it was.
    fn see(&mut self, rank: usize) -> Option<Seen> {
        let read = |kept: &KeptNote| fs::read_to_string(kept.directory.join(rank.to_string())).ok();
        let found = self.kept.as_ref().and_then(read).and_then(|text| serde_json::from_str(&text).ok());
        let seen = &mut self.wait.as_mut()?.seen[rank];
        let known = seen.as_ref().and_then(|seen: &Seen| seen.note.clone());
        if seen.is_none() || found.is_some() && found != known {
            *seen = Some(Seen { note: found.or(known), since: Instant::now() });
        }
        seen.clone()
    }
}

fn describe(rank: usize, note: &Note) -> String {
    let done = match (note.sample, note.step) {
        (None, _) => "has not trained yet".into(),
        (Some(sample), 0) => format!("has finished no step of sample {sample}"),
        (Some(sample), step) => format!("last finished step {step} of sample {sample}"),
    };
    format!("rank {rank} on node {}, which {done} (process {}),", note.host, note.process)
}

fn text_of(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds => format!("{} minutes", seconds / 60),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    const STALL: Duration = Duration::from_secs(6);

    struct Nobody;

    impl Asker for Nobody {
        fn asks_to_stop(&mut self) -> bool {
            false
        }
        fn answered(&mut self) {}
    }

    /// Somebody who asks at once.
    struct Impatient(Sender<()>);

    impl Asker for Impatient {
        fn asks_to_stop(&mut self) -> bool {
            true
        }
        fn answered(&mut self) {
            self.0.send(()).unwrap();
        }
    }

    fn ranks(directory: &Path, stall: Duration) -> Vec<Lookout> {
        let rank = |rank| {
            let mut lookout = Lookout::new(rank, 3);
            lookout.limit(Some(stall), Box::new(Nobody));
            lookout.keep_notes(directory);
            lookout
        };
        (0..3).map(rank).collect()
    }

    /// Lets the first two of them wait until one says why all must end, or for `longest`; `other` is what the third does.
    fn wait(ranks: &mut [Lookout], longest: Duration, mut other: impl FnMut(&OwnNote)) -> Option<(usize, String)> {
        let (start, third) = (Instant::now(), ranks[2].own());
        while start.elapsed() < longest {
            for rank in [0, 1] {
                if let Some(why) = ranks[rank].waits(start.elapsed()) {
                    return Some((rank, why));
                }
            }
            other(&third);
            std::thread::sleep(Duration::from_millis(10));
        }
        ranks[..2].iter_mut().for_each(|lookout| lookout.came(start.elapsed()));
        None
    }

    #[test]
    fn the_lowest_rank_that_waits_names_the_one_without_a_sign_of_life() {
        let directory = tempfile::tempdir().unwrap();
        let mut ranks = ranks(directory.path(), STALL);
        let third = ranks[2].own();
        third.sample(5, 0);
        (0..812).for_each(|_| third.step());
        let (speaker, why) = wait(&mut ranks, STALL * 10, |_| {}).expect("an end");
        assert_eq!(speaker, 0);
        assert!(why.starts_with("rank 2 on node ") && why.contains("last finished step 812 of sample 5"), "{why}");
        drop(ranks);
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            0,
            "the last rank to leave takes the directory along"
        );
    }

    #[test]
    fn a_rank_that_goes_on_is_waited_for_longer_than_a_stall() {
        let directory = tempfile::tempdir().unwrap();
        let mut ranks = ranks(directory.path(), STALL / 2);
        assert_eq!(wait(&mut ranks, STALL, |third| third.step()), None);
        assert!(!ranks[0].own().get().waits);
    }

    #[test]
    fn where_rank_0_is_stuck_the_next_one_speaks_and_without_notes_all_end_in_time() {
        let directory = tempfile::tempdir().unwrap();
        let mut ranks = ranks(directory.path(), STALL / 3);
        ranks.rotate_left(1);
        let (speaker, why) = wait(&mut ranks, STALL * 10, |_| {}).expect("an end");
        assert_eq!(ranks[speaker].rank, 1);
        assert!(why.starts_with("rank 0 on node ") && why.contains("has not trained yet"), "{why}");

        let mut blind = Lookout::new(1, 3);
        blind.limit(Some(STALL / 3), Box::new(Nobody));
        let mut blind = [blind, Lookout::new(2, 3), Lookout::new(0, 3)];
        let (_, why) = wait(&mut blind, STALL * 10, |_| {}).expect("an end");
        assert!(why.starts_with("one of the other ranks has shown no sign of life for"), "{why}");
    }

    #[test]
    fn who_was_asked_to_stop_waits_for_less_long() {
        let directory = tempfile::tempdir().unwrap();
        let mut ranks = ranks(directory.path(), STALL);
        let (answer, answered) = channel();
        ranks[0].limit(Some(STALL), Box::new(Impatient(answer)));
        let start = Instant::now();
        let (_, why) = wait(&mut ranks, STALL * 10, |_| {}).expect("an end");
        assert!(start.elapsed() >= STALL / 2);
        assert!(why.starts_with("asked to stop, but rank 2 on node "), "{why}");
        assert!(answered.try_recv().is_ok());
    }

    #[test]
    fn long_rounds_make_patient() {
        let mut lookout = Lookout::new(0, 2);
        assert_eq!(lookout.stall(), None);
        lookout.limit(None, Box::new(Nobody));
        assert_eq!((lookout.stall(), lookout.speaks_after()), (Some(LEAST_STALL), MINUTE));
        lookout.round_took(Duration::from_secs(3600));
        lookout.round_took(Duration::from_secs(60));
        assert_eq!((lookout.stall(), lookout.speaks_after()), (Some(Duration::from_secs(5 * 3600)), MINUTE));
    }
}
