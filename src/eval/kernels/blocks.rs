//! Work in blocks of items, dealt out to ranks and threads.

use std::ops::Range;
use std::sync::Mutex;

use super::inner_products::OneThread;
use crate::comm::Comm;
use crate::error::Result;

/// Items of a block. Fixed: then what is computed, and its bits, depends on neither ranks nor threads.
pub const ITEMS_PER_BLOCK: usize = 128;

/// Computes `record` numbers for each of `count` items, shared out over ranks and threads. All ranks call this and get
/// all of them, [count, record]. `work` computes a block's, [block, record].
pub fn records_of_all(
    comm: &Comm,
    threads: usize,
    count: usize,
    record: usize,
    work: impl Fn(Range<usize>) -> Result<Vec<f64>> + Sync,
) -> Result<Vec<f64>> {
    let mut share = comm.agree(on_threads(threads, own_blocks(comm, count), work))?.concat();
    // ranks send equal numbers; only the last block is shorter, and nothing of its rank's comes after it
    let length = blocks(count).len().div_ceil(comm.size()) * ITEMS_PER_BLOCK * record;
    share.resize(length, 0.0);
    let shares = comm.all_gather(&share);
    let of_block = |(b, block): (usize, Range<usize>)| {
        let start = b % comm.size() * length + b / comm.size() * ITEMS_PER_BLOCK * record;
        &shares[start..][..block.len() * record]
    };
    Ok(blocks(count).enumerate().map(of_block).collect::<Vec<_>>().concat())
}

/// This rank's: block b goes to rank b % ranks.
pub fn own_blocks(comm: &Comm, count: usize) -> Vec<Range<usize>> {
    blocks(count).skip(comm.rank()).step_by(comm.size()).collect()
}

pub fn blocks(count: usize) -> impl ExactSizeIterator<Item = Range<usize>> {
    (0..count.div_ceil(ITEMS_PER_BLOCK)).map(move |b| b * ITEMS_PER_BLOCK..((b + 1) * ITEMS_PER_BLOCK).min(count))
}

/// `work` of each block, in their order. While it runs, libtorch has one thread.
pub fn on_threads<T: Send>(
    threads: usize,
    blocks: Vec<Range<usize>>,
    work: impl Fn(Range<usize>) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let threads = threads.min(blocks.len());
    let next = Mutex::new(blocks.into_iter().enumerate());
    let run = || {
        tch::set_num_threads(1); // OpenMP counts per thread; these threads are the parallelism
        let mut done = Vec::new();
        loop {
            let Some((b, block)) = next.lock().expect("no thread panics").next() else { return done };
            done.push((b, work(block)));
        }
    };
    let _one = OneThread::new();
    let mut done = if threads <= 1 {
        run()
    } else {
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
            running.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        })
    };
    done.sort_by_key(|&(b, _)| b);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn records_come_in_the_order_of_items() {
        for (count, threads) in [(0, 2), (1, 1), (128, 3), (300, 1), (1000, 3)] {
            let work = |block: Range<usize>| Ok(block.flat_map(|item| [item as f64, 1.0]).collect());
            let expected: Vec<f64> = (0..count).flat_map(|item| [item as f64, 1.0]).collect();
            assert_eq!(records_of_all(&Comm::single(), threads, count, 2, work).unwrap(), expected);
        }
    }

    #[test]
    fn the_first_error_is_told() {
        let work = |block: Range<usize>| match block.start {
            0 => Ok(vec![]),
            start => Err(Error::failed(start.to_string())),
        };
        assert_eq!(records_of_all(&Comm::single(), 3, 1000, 0, work).unwrap_err().to_string(), "128");
    }
}
