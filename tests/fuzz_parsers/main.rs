//! Every parser of files that others wrote, on arbitrary bytes and on valid files that were flipped, cut and spliced:
//! no panic, and what is accepted obeys its invariants. Inputs per parser: PROPTEST_CASES, or 20000.

mod devkit;
mod lfw;
mod name_list;
mod npy;
mod recordio;
mod weights;

use std::cell::Cell;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Runs `check`, which tells whether the parser accepted its input, on that many inputs.
fn fuzz<S: Strategy>(name: &str, inputs: S, check: impl Fn(S::Value) -> bool) {
    let cases = std::env::var("PROPTEST_CASES").map_or(20000, |cases| cases.parse().expect("PROPTEST_CASES"));
    let (accepted, tried) = (Cell::new(0_u64), Cell::new(0_u64));
    let start = std::time::Instant::now();
    let config = Config { failure_persistence: None, ..Config::with_cases(cases) };
    let result = TestRunner::new(config).run(&inputs, |input| {
        accepted.set(accepted.get() + check(input) as u64);
        tried.set(tried.get() + 1);
        Ok(())
    });
    println!("{name}: {} inputs, {} accepted, {:.1} s", tried.get(), accepted.get(), start.elapsed().as_secs_f64());
    result.unwrap_or_else(|failure| panic!("{name}: {failure}"));
    assert!(cases < 1000 || accepted.get() > 0, "{name}: nothing was accepted, so nothing was checked");
}

/// What happens to a valid file. Positions are taken modulo its length.
#[derive(Debug, Clone)]
enum Damage {
    Flip(usize, u8),
    Set(usize, u8),
    Word(usize, u32),
    Truncate(usize),
    Remove(usize, usize),
    Insert(usize, Vec<u8>),
    /// A piece of the file itself: from, length, to.
    Copy(usize, usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = 0..4096_usize;
    let word = prop_oneof![
        Just(0),
        Just(1),
        Just(u32::MAX),
        Just(i32::MAX as u32),
        Just(i32::MIN as u32),
        Just(f32::NAN.to_bits()),
        (0..8_u32, 0..64_u32).prop_map(|(kind, length)| kind << 29 | length),
        (-2..9_i32).prop_map(|value| (value as f32).to_bits()),
        any::<u32>(),
    ];
    prop_oneof![
        (at.clone(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, 1 << bit)),
        (at.clone(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (at.clone(), word).prop_map(|(at, word)| Damage::Word(at, word)),
        at.clone().prop_map(Damage::Truncate),
        (at.clone(), 1..16_usize).prop_map(|(at, length)| Damage::Remove(at, length)),
        (at.clone(), vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (at.clone(), 1..64_usize, at).prop_map(|(from, length, to)| Damage::Copy(from, length, to)),
    ]
}

fn apply(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let place = |at: usize| at % (bytes.len() + 1);
        let piece = |at: usize, length: usize| place(at)..(place(at) + length).min(bytes.len());
        match damage {
            Damage::Flip(at, mask) => piece(*at, 1).for_each(|at| bytes[at] ^= mask),
            Damage::Set(at, byte) => piece(*at, 1).for_each(|at| bytes[at] = *byte),
            Damage::Word(at, word) => {
                // aligned, as the words of a record are
                let at = place(*at) / 4 * 4;
                if let Some(old) = bytes.get_mut(at..at + 4) {
                    old.copy_from_slice(&word.to_le_bytes());
                }
            }
            Damage::Truncate(at) => bytes.truncate(place(*at)),
            Damage::Remove(at, length) => drop(bytes.drain(piece(*at, *length))),
            Damage::Insert(at, new) => drop(bytes.splice(place(*at)..place(*at), new.iter().copied())),
            Damage::Copy(from, length, to) => {
                let new = bytes[piece(*from, *length)].to_vec();
                drop(bytes.splice(place(*to)..place(*to), new));
            }
        }
    }
    bytes
}

/// One in five inputs is arbitrary bytes; of the others each is `valid` with 0 to 3 damages.
fn bytes(valid: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let damaged = (valid, vec(damage(), 0..4)).prop_map(|(valid, damages)| apply(valid, &damages));
    prop_oneof![1 => vec(any::<u8>(), 0..200), 4 => damaged]
}
