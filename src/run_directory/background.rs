//! Work on a thread of its own, one piece at a time.

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use crate::error::{Error, Result};

/// Dropping it waits for the piece in hand: what was begun is done, however the run ends.
pub struct Background<W> {
    /// `None`: the thread is told to end.
    pieces: Option<Sender<W>>,
    outcomes: Receiver<Result<()>>,
    busy: bool,
    thread: Option<JoinHandle<()>>,
}

impl<W: Send + 'static> Background<W> {
    /// Error: no thread can be had.
    pub fn new(name: &str, mut work: impl FnMut(W) -> Result<()> + Send + 'static) -> Result<Background<W>> {
        let ((pieces, todo), (done, outcomes)) = (channel(), channel());
        let all = move || todo.into_iter().map(&mut work).try_for_each(|outcome| done.send(outcome)).unwrap_or(());
        let thread = Builder::new().name(name.into()).spawn(all);
        let thread = thread.map_err(|why| Error::failed(format!("can't start a thread for the {name}: {why}")))?;
        Ok(Background { pieces: Some(pieces), outcomes, busy: false, thread: Some(thread) })
    }

    /// Begins a piece. It waits for the one before, whose error ends this one before it begins.
    pub fn begin(&mut self, piece: W) -> Result<()> {
        self.wait()?;
        let sent = self.pieces.as_ref().expect("not dropped").send(piece);
        self.busy = sent.is_ok();
        if sent.is_err() { self.pass_panic_on() } else { Ok(()) }
    }

    /// Waits for the piece in hand, if there is one, and tells its outcome.
    pub fn wait(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.busy) {
            return Ok(());
        }
        self.outcomes.recv().unwrap_or_else(|_| self.pass_panic_on())
    }

    /// The thread is gone. In the program its panic has ended all ranks already (`process.rs`).
    fn pass_panic_on(&mut self) -> ! {
        let outcome = self.thread.take().expect("the thread ends once").join();
        resume_unwind(outcome.expect_err("the thread does all work that it gets"))
    }
}

impl<W> Drop for Background<W> {
    fn drop(&mut self) {
        drop(self.pieces.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panic has been told
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Work that takes until the test allows a piece's end, and the pieces that it has ended. Piece 13 can't be done.
    fn held() -> (Background<usize>, Sender<()>, Arc<Mutex<Vec<usize>>>) {
        let (allow, allowed) = channel();
        let done = Arc::new(Mutex::new(Vec::new()));
        let ended = done.clone();
        let work = move |piece| {
            let _ = allowed.recv();
            ended.lock().unwrap().push(piece);
            if piece == 13 { Err(Error::failed("unlucky")) } else { Ok(()) }
        };
        (Background::new("test", work).unwrap(), allow, done)
    }

    #[test]
    fn a_piece_is_done_while_its_giver_goes_on_and_one_at_a_time() {
        let (mut background, allow, done) = held();
        background.wait().unwrap(); // for nothing
        background.begin(1).unwrap();
        assert!(done.lock().unwrap().is_empty(), "begin came back, and the piece is not done");
        let (begun, began) = (Arc::new(AtomicUsize::new(0)), channel());
        let second = begun.clone();
        let giver = std::thread::spawn(move || {
            began.0.send(()).unwrap();
            background.begin(2).unwrap();
            second.store(2, Ordering::SeqCst);
            background
        });
        began.1.recv().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(begun.load(Ordering::SeqCst), 0, "the first is not done");
        allow.send(()).unwrap();
        let mut background = giver.join().unwrap();
        assert_eq!(*done.lock().unwrap(), [1]);
        allow.send(()).unwrap();
        background.wait().unwrap();
        assert_eq!(*done.lock().unwrap(), [1, 2]);
    }

    #[test]
    fn an_error_is_told_once_by_whatever_comes_next() {
        let (mut background, allow, done) = held();
        for _ in 0..4 {
            allow.send(()).unwrap();
        }
        background.begin(13).unwrap();
        assert_eq!(background.begin(1).unwrap_err().to_string(), "unlucky");
        background.begin(2).unwrap();
        background.begin(13).unwrap();
        assert_eq!(background.wait().unwrap_err().to_string(), "unlucky");
        background.wait().unwrap();
        assert_eq!(*done.lock().unwrap(), [13, 2, 13], "what could not begin was not done");
    }

    #[test]
    fn what_was_begun_is_done_before_it_is_dropped() {
        let (mut background, allow, done) = held();
        background.begin(1).unwrap();
        allow.send(()).unwrap();
        drop(background);
        assert_eq!(*done.lock().unwrap(), [1]);
    }

    #[test]
    fn a_panic_in_a_piece_is_its_givers() {
        let mut background = Background::new("test", |piece: usize| -> Result<()> { panic!("piece {piece}") }).unwrap();
        background.begin(7).unwrap();
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| background.wait())).unwrap_err();
        assert_eq!(panic.downcast_ref::<String>().unwrap(), "piece 7");
        drop(background);
    }
}
