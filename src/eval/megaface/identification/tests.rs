use super::*;
use crate::eval::normalise_rows;

const DIMENSIONS: usize = 5;

/// Small integers, so that scores are exact and many tie.
struct Case {
    probes: Vec<i64>,
    labels: Vec<i64>,
    distractors: Vec<i64>,
}

fn case(seed: u64, probes: usize, distractors: usize) -> Case {
    let mut state = seed;
    let mut below = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % n) as i64
    };
    // identities of several images around a centre, in no order, and some of one image
    let centres: Vec<i64> = (0..probes * DIMENSIONS).map(|_| below(7) - 3).collect();
    let labels: Vec<i64> =
        (0..probes).map(|i| if i % 11 == 0 { i as i64 } else { below(1 + probes as u64 / 6) }).collect();
    let of_probe = |label: &i64| centres[*label as usize * DIMENSIONS..][..DIMENSIONS].to_vec();
    let probes = labels.iter().flat_map(of_probe).map(|centre| centre + below(3) - 1).collect();
    let distractors = (0..distractors * DIMENSIONS).map(|_| below(7) - 3).collect();
    Case { probes, labels, distractors }
}

fn matrix(features: &[i64]) -> Tensor {
    Tensor::from_slice(features).to_kind(Kind::Float).view([-1, DIMENSIONS as i64])
}

fn run(case: &Case, keep: usize, impostors: usize, threads: usize, block: usize) -> Identification {
    let mut found = Identification::new(&matrix(&case.probes), keep, impostors, threads).unwrap();
    matrix(&case.distractors).split(block as i64, 0).iter().for_each(|block| found.add(block).unwrap());
    found
}

/// Of all probes: [probes, keep], each descending.
fn sorted_top(found: &Identification) -> Vec<f32> {
    found.tiles.iter().flat_map(|tile| &tile.best).flat_map(Largest::sorted).collect()
}

fn score(a: &[i64], b: &[i64]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum()
}

/// The definition, word by word: (CMC, verification rates).
fn brute_force(case: &Case, keep: usize, fars: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let probes: Vec<&[i64]> = case.probes.chunks(DIMENSIONS).collect();
    let distractors: Vec<&[i64]> = case.distractors.chunks(DIMENSIONS).collect();
    let (mut ranks, mut mates) = (Vec::new(), Vec::new());
    for i in 0..probes.len() {
        for j in 0..probes.len() {
            if i != j && case.labels[i] == case.labels[j] {
                let mate = score(probes[i], probes[j]);
                ranks.push(distractors.iter().filter(|d| score(d, probes[j]) > mate).count());
                mates.push(mate);
            }
        }
    }
    let share = |count: usize| count as f64 / mates.len() as f64;
    let cmc = (1..=keep).map(|n| share(ranks.iter().filter(|&&rank| rank < n).count())).collect();
    let mut impostors: Vec<f64> = probes.iter().flat_map(|p| distractors.iter().map(move |d| score(p, d))).collect();
    impostors.sort_by(|a, b| b.total_cmp(a));
    let rate = |&far: &f64| {
        let k = (far * impostors.len() as f64).floor() as usize;
        share(mates.iter().filter(|&&mate| mate > impostors[k]).count())
    };
    (cmc, fars.iter().map(rate).collect())
}

const FARS: [f64; 6] = [0.0, 1e-4, 1e-3, 0.013, 0.1, 0.9];

#[test]
fn every_figure_equals_the_definition() {
    // probes and distractors: within one tile and piece, across several, at their edges
    for (seed, probes, distractors) in [(1, 30, 40), (2, 70, 2000), (3, 300, 1100), (4, 256, 1024), (5, 513, 7)] {
        let case = case(seed, probes, distractors);
        let impostors = impostors_needed(0.9, probes, distractors as u64);
        for keep in [1, 2, 10, 100] {
            let (cmc, rates) = brute_force(&case, keep, &FARS);
            assert!(keep > 1 || 0.0 < cmc[0] && cmc[0] < 1.0, "a telling case");
            for threads in [1, 3] {
                let found = run(&case, keep, impostors, threads, 1500);
                assert_eq!(found.cmc(&found.mates(&case.labels).unwrap()).unwrap(), cmc);
                assert_eq!(found.rank1(&case.labels).unwrap(), cmc[0]);
                for (far, rate) in FARS.iter().zip(&rates) {
                    assert_eq!(
                        found.verification(&found.mates(&case.labels).unwrap(), *far).unwrap(),
                        *rate,
                        "far {far}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_path_of_other_devices_and_the_plain_product_give_the_same() {
    let case = case(6, 300, 1500);
    let expected = run(&case, 50, 700, 2, 1024);
    let mut on_device = Identification::new(&matrix(&case.probes), 50, 700, 1).unwrap();
    let mut plain = Identification::new(&matrix(&case.probes), 50, 700, 2).unwrap();
    plain.set_fast(Fast::Single { one_dnn: false });
    for block in matrix(&case.distractors).split(600, 0) {
        let all = vec![true; block.size()[0] as usize];
        add_on_device(&mut [(&mut on_device, all)], &block).ok().unwrap();
        plain.add(&block).unwrap();
    }
    for found in [on_device, plain] {
        assert_eq!(sorted_top(&found), sorted_top(&expected));
        assert_eq!(found.impostors(), expected.impostors());
    }
}

#[test]
fn several_sets_in_one_pass_are_each_as_if_alone_on_every_path() {
    let case = case(7, 300, 2500);
    let chosen: [fn(usize) -> bool; 4] = [|_| true, |row| row < 10, |row| row % 3 == 1, |row| row >= 2000];
    type Add = fn(&mut [(&mut Identification, Vec<bool>)], &Tensor);
    let paths: [Add; 2] = [
        |sets, block| add_to_all(sets, block).unwrap(),
        |sets, block| {
            add_on_device(sets, block).ok().unwrap();
            for (set, members) in sets {
                set.distractors += members.iter().filter(|&&member| member).count() as u64;
            }
        },
    ];
    for add in paths {
        let new = || Identification::new(&matrix(&case.probes), 30, 200, 2).unwrap();
        let mut sets: Vec<Identification> = chosen.iter().map(|_| new()).collect();
        for start in (0..2500).step_by(1100) {
            let rows = start..(start + 1100).min(2500);
            let members = chosen.iter().map(|chosen| rows.clone().map(chosen).collect());
            let mut all: Vec<_> = sets.iter_mut().zip(members).collect();
            add(&mut all, &matrix(&case.distractors[rows.start * DIMENSIONS..rows.end * DIMENSIONS]));
        }
        for (found, chosen) in sets.iter().zip(chosen) {
            let own: Vec<i64> = (0..).zip(0..2500).filter(|(_, row)| chosen(*row)).map(|(i, _)| i).collect();
            let mut alone = new();
            alone.add(&matrix(&case.distractors).index_select(0, &Tensor::from_slice(&own))).unwrap();
            assert_eq!(found.distractors(), own.len() as u64);
            assert_eq!(sorted_top(found), sorted_top(&alone));
            assert_eq!(found.impostors(), alone.impostors());
        }
    }
}

impl Identification {
    fn set_fast(&mut self, fast: Fast) {
        self.fast = fast;
        for tile in &mut self.tiles {
            (tile.prepared, tile.extents) = fast.prepare(&tile.features, Side::Right).unwrap();
        }
    }
}

fn unit(rows: i64) -> Tensor {
    normalise_rows(&Tensor::randn([rows, 64], (Kind::Float, Device::Cpu)), 0).unwrap()
}

fn bits(scores: &[f32]) -> Vec<u32> {
    scores.iter().map(|score| score.to_bits()).collect()
}

fn share_levels(parts: &mut [Identification]) {
    let count = parts.len();
    let levels: Vec<f32> = parts.iter_mut().flat_map(|part| part.levels(count)).collect();
    parts.iter_mut().for_each(|part| part.raise(&levels));
}

#[test]
fn parts_that_share_their_levels_find_what_one_finds_and_look_at_less() {
    let case = case(8, 300, 4000);
    let whole = run(&case, 50, 700, 1, 1024);
    let mut parts: Vec<Identification> =
        (0..4).map(|_| Identification::new(&matrix(&case.probes), 50, 700, 1).unwrap()).collect();
    let blocks = matrix(&case.distractors).split(250, 0);
    for (round, blocks) in blocks.chunks(4).enumerate() {
        parts.iter_mut().zip(blocks).for_each(|(part, block)| part.add(block).unwrap());
        if round == 0 {
            let alone: Vec<f32> = parts[0].tiles[1].best.iter().map(Largest::threshold).collect();
            share_levels(&mut parts);
            let shared = parts[0].tiles[1].best.iter().map(Largest::threshold);
            let above = shared.zip(alone).filter(|(shared, alone)| shared > alone).count();
            assert!(above > TILE / 8, "raised for {above}");
        }
    }
    let top: Vec<f32> = parts.iter().flat_map(|part| part.top(0..300)).collect();
    let impostors: Vec<f32> = parts.iter().flat_map(Identification::impostors).collect();
    for part in &mut parts {
        part.merge_top(0..300, &top);
        part.merge_impostors(&impostors, 4000);
        assert_eq!(sorted_top(part), sorted_top(&whole));
        assert_eq!(part.impostors(), whole.impostors());
    }
}

#[test]
fn one_two_and_four_parts_are_equal_to_the_last_bit_whatever_the_fast_scores_are() {
    const KEEP: usize = 20;
    let (probes, distractors) = (unit(300), unit(3 * DISTRACTORS_PER_BLOCK as i64 + 5));
    let labels: Vec<i64> = (0..300).map(|i| i % 70).collect();
    let blocks = distractors.split(DISTRACTORS_PER_BLOCK as i64, 0);
    let mut first: Option<Identification> = None;
    let single = |one_dnn| Fast::Single { one_dnn };
    for (parts, threads, fast) in [
        (1, 1, Fast::Brain),
        (2, 1, Fast::Brain),
        (4, 2, Fast::Brain),
        (1, 2, Fast::Integer),
        (2, 2, single(false)),
        (2, 1, single(true)),
    ] {
        let part = || {
            let mut part = Identification::new(&probes, KEEP, 100, threads).unwrap();
            part.set_fast(fast);
            part
        };
        let mut states: Vec<Identification> = (0..parts).map(|_| part()).collect();
        for round in blocks.chunks(parts) {
            states.iter_mut().zip(round).for_each(|(state, block)| state.add(block).unwrap());
            share_levels(&mut states);
        }
        for probes in [0..200, 200..300] {
            let gathered: Vec<f32> = states.iter().flat_map(|state| state.top(probes.clone())).collect();
            states.iter_mut().for_each(|state| state.merge_top(probes.clone(), &gathered));
        }
        let gathered: Vec<f32> = states.iter().flat_map(|state| state.impostors()).collect();
        let distractors = states.iter().map(Identification::distractors).sum();
        states.iter_mut().for_each(|state| state.merge_impostors(&gathered, distractors));
        for state in states {
            let Some(first) = &first else {
                first = Some(state);
                continue;
            };
            assert_eq!(bits(&sorted_top(&state)), bits(&sorted_top(first)));
            assert_eq!(bits(&state.impostors()), bits(&first.impostors()));
            assert_eq!(state.distractors(), first.distractors());
            let mates = state.mates(&labels).unwrap();
            assert_eq!(state.cmc(&mates).unwrap(), first.cmc(&mates).unwrap());
            assert_eq!(state.verification(&mates, 1e-6).unwrap(), first.verification(&mates, 1e-6).unwrap());
        }
    }
}

#[test]
fn a_distractor_that_equals_the_mate_ties_with_it() {
    let probes = unit(40);
    let mut found = Identification::new(&probes, 1, 0, 1).unwrap();
    found.add(&probes.narrow(0, 1, 1)).unwrap();
    let mut labels: Vec<i64> = (0..40).collect();
    labels[1] = 0; // the only pairs: 0 and 1
    let to_itself = 0.5; // as a probe, 1 finds its own copy above its mate
    assert_eq!(found.rank1(&labels).unwrap(), to_itself);
}

#[test]
fn features_that_are_not_finite_are_errors() {
    for broken in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let spoilt = |rows: i64, row: i64| {
            let features = unit(rows);
            let _ = features.get(row).get(63).fill_(broken);
            features
        };
        assert!(Identification::new(&spoilt(10, 3), 1, 0, 1).err().unwrap().to_string().contains("probe 3"));
        let mut found = Identification::new(&unit(300), 5, 10, 2).unwrap();
        found.add(&unit(7)).unwrap();
        let error = found.add(&spoilt(2000, 1500)).unwrap_err().to_string();
        assert!(error.contains("distractor 1507 "), "{error}");
        let error = normalise_rows(&spoilt(10, 3), 100).unwrap_err().to_string();
        assert!(error.contains("row 103"), "{error}");
    }
    let zero = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
    assert!(normalise_rows(&zero, 0).unwrap_err().to_string().contains("row 0"));
}

#[test]
fn input_without_an_answer_is_an_error() {
    let probes = unit(6);
    let new = |keep, threads| Identification::new(&probes, keep, 3, threads);
    assert!(new(0, 1).is_err() && new(1, 0).is_err());
    assert!(Identification::new(&probes.narrow(0, 0, 0), 1, 0, 1).is_err(), "no probes");
    assert!(Identification::new(&probes.to_kind(Kind::Double), 1, 0, 1).is_err());
    let mut found = new(1, 1).unwrap();
    assert!(found.rank1(&[0; 6]).is_err(), "no distractors");
    assert!(found.add(&unit(5).narrow(1, 0, 63)).is_err(), "other features");
    found.add(&unit(5)).unwrap();
    assert!(found.rank1(&[0; 5]).is_err(), "fewer labels than probes");
    assert!(found.rank1(&[0, 1, 2, 3, 4, 5]).is_err(), "no pairs");
    let mates = found.mates(&[0; 6]).unwrap();
    assert!(found.rank1(&[0; 6]).is_ok() && found.verification(&mates, 0.0).is_ok());
    let error = found.verification(&mates, 0.5).unwrap_err().to_string();
    assert!(error.contains("needs the 16 largest"), "{error}");
    assert!(found.verification(&mates, 1.0).is_err() && found.verification(&mates, f64::NAN).is_err());
}
