use super::*;

/// The pairs of reference/verification.py.
fn pairs(count: usize, run: usize, grid: bool) -> (Vec<f64>, Vec<bool>) {
    let mut state = 1u64;
    let pair = |i: usize| {
        state = (state * 1_103_515_245 + 12_345) % (1 << 31);
        let u = state as f64 / (1u64 << 31) as f64;
        let genuine = (i / run).is_multiple_of(2);
        let distance = if genuine { 0.2 + 1.6 * u * u } else { 1.0 + 1.4 * u };
        (if grid { (distance * 100.0).floor() * 0.01 } else { distance }, genuine)
    };
    (0..count).map(pair).unzip()
}

/// Printed by reference/verification.py: numpy, sklearn's KFold and scipy, threshold by threshold.
/// Accuracy: mean, deviation, threshold; validation rate: mean, deviation, false accepts.
#[rustfmt::skip]
const REFERENCE: [(usize, usize, bool, usize, f64, [f64; 6]); 5] = [
    (6000, 300, false, 10, 0.001, [0.851, 0.011185307823708352, 1.002, 0.7053333333333333, 0.02286190426597632, 0.0013333333333333335]),
    (1003, 7, false, 10, 0.001, [0.8544158415841585, 0.03766634380376696, 1.012, 0.7189968602825746, 0.0778410572265924, 0.002040816326530612]),
    (1003, 7, true, 10, 0.05, [0.8544158415841585, 0.03766634380376696, 1.012, 0.7490472804506417, 0.07959549005618091, 0.055579831932773105]),
    (997, 5, true, 7, 0.01, [0.8424744269814692, 0.027779204230021785, 1.0242857142857142, 0.7139015545764257, 0.040396324786981144, 0.017861769442486623]),
    (2000, 100, false, 10, 0.25, [0.8574999999999999, 0.017923448328934936, 1.0299999999999998, 0.8799999999999999, 0.030659419433511786, 0.25]),
];

#[test]
fn figures_equal_numpy_and_sklearn() {
    for (count, run, grid, folds, far, expected) in REFERENCE {
        let (distances, same) = pairs(count, run, grid);
        let folds = split(count, folds);
        let accuracy = accuracy(&distances, &same, &folds).unwrap();
        let rate = validation_rate(&distances, &same, &folds, far).unwrap().unwrap();
        let found =
            [accuracy.mean, accuracy.deviation, accuracy.threshold, rate.mean, rate.deviation, rate.false_accepts];
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-12, "{count} pairs: {found} instead of {expected}");
        }
    }
}

#[test]
fn folds_that_do_not_divide_the_pairs_are_sized_as_sklearns() {
    let sizes: Vec<usize> = split(23, 10).iter().map(|fold| fold.len()).collect();
    assert_eq!(sizes, [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]);
    assert_eq!(split(23, 10).last(), Some(&(21..23)));
}

#[test]
fn a_pair_at_the_threshold_is_rejected_and_the_first_best_threshold_counts() {
    // thresholds 0.51 .. 1.00 separate; at 0.50 the genuine pairs are rejected
    let distances = [0.5, 1.0].repeat(10);
    let same = [true, false].repeat(10);
    let found = accuracy(&distances, &same, &split(same.len(), 10)).unwrap();
    assert_eq!((found.mean, found.deviation), (1.0, 0.0));
    assert!((found.threshold - 0.51).abs() < 1e-12);
}

#[test]
fn a_rate_that_is_never_reached_accepts_nothing() {
    let distances = [0.5, 9.0].repeat(10);
    let same = [true, false].repeat(10);
    let found = validation_rate(&distances, &same, &split(same.len(), 10), 1e-3).unwrap();
    assert_eq!(found, Some(ValidationRate { mean: 0.0, deviation: 0.0, false_accepts: 0.0, folds: 10 }));
}

#[test]
fn input_without_an_answer_is_an_error() {
    let (distances, same) = pairs(100, 5, false);
    let fails = |distances: &[f64], same: &[bool]| {
        let folds = split(distances.len(), 10);
        accuracy(distances, same, &folds).is_err() && validation_rate(distances, same, &folds, 1e-3).is_err()
    };
    assert!(!fails(&distances, &same));
    assert!(fails(&[], &[]), "no pairs");
    assert!(fails(&distances[..9], &same[..9]), "fewer pairs than folds");
    assert!(fails(&distances, &same[1..]), "lengths differ");
    assert!(fails(&distances, &[true; 100]) && fails(&distances, &[false; 100]), "one kind of pairs");
    let mut broken = distances.clone();
    broken[17] = f64::NAN;
    assert!(fails(&broken, &same));
    assert!(accuracy(&broken, &same, &split(same.len(), 10)).unwrap_err().to_string().contains("pair 17"));
    assert!(
        validation_rate(&distances, &same, &split(same.len(), 10), 0.0).is_err()
            && validation_rate(&distances, &same, &split(same.len(), 10), 1.1).is_err()
    );
}

#[test]
fn tar_accepts_as_many_impostors_as_far_allows() {
    let impostor: Vec<f32> = (0..100).map(|i| ((i * 37) % 100) as f32).collect(); // 0 ..= 99
    let genuine = [98.0, 99.0, 99.5, 69.0, 71.0, 70.5, 1000.0, -1.0];
    for (far, above) in [(0.0, 99.0), (0.009, 99.0), (0.01, 98.0), (0.29, 70.0), (0.999, 0.0)] {
        let expected = genuine.iter().filter(|&&score| score > above).count() as f64 / 8.0;
        assert_eq!(tar_at_far(&genuine, &impostor, far).unwrap(), expected, "far {far}");
    }
    assert_eq!(tar_at_far(&[1.0, 2.0], &[1.0; 5], 0.4).unwrap(), 0.5, "ties with impostors are rejected");
    for (genuine, impostor, far) in [
        (&[][..], &[1.0][..], 0.1),
        (&[1.0], &[], 0.1),
        (&[f32::NAN], &[1.0], 0.1),
        (&[1.0], &[f32::NAN], 0.1),
        (&[1.0], &[1.0], 1.0),
        (&[1.0], &[1.0], f64::NAN),
    ] {
        assert!(tar_at_far(genuine, impostor, far).is_err());
    }
}

#[test]
fn folds_that_lack_one_kind_have_an_accuracy_and_no_rate() {
    // all genuine pairs first: no fold has both kinds
    let same: Vec<bool> = (0..100).map(|i| i < 50).collect();
    let distances: Vec<f64> = (0..100).map(|i| if i < 50 { 0.5 } else { 1.5 }).collect();
    assert_eq!(accuracy(&distances, &same, &split(same.len(), 10)).unwrap().mean, 1.0);
    assert_eq!(validation_rate(&distances, &same, &split(same.len(), 10), 1e-3).unwrap(), None);
    // the fifth fold has both
    let same: Vec<bool> = (0..100).map(|i| i < 45).collect();
    let found = validation_rate(&distances, &same, &split(same.len(), 10), 1e-3).unwrap().unwrap();
    assert_eq!(found.folds, 1);
}

#[test]
fn a_threshold_at_the_edge_of_the_grid_is_told() {
    let same = [true, false].repeat(50);
    for (collapsed, expected) in [(vec![1e-9; 100], true), ([0.5, 1.0].repeat(50), false), (vec![0.0; 100], true)] {
        assert_eq!(accuracy(&collapsed, &same, &split(same.len(), 10)).unwrap().at_edge, expected);
    }
}

#[test]
fn pairs_that_are_left_out_leave_the_others_in_their_folds() {
    let (distances, same) = pairs(100, 5, false);
    let folds = split(100, 10);
    // three pairs of the first fold, and all of the fifth
    let kept: Vec<bool> = (0..100).map(|pair| !(pair < 3 || (40..50).contains(&pair))).collect();
    let left = folds_of_kept(&folds, &kept);
    assert_eq!((left.len(), &left[0], &left[3], &left[4], &left[8]), (9, &(0..7), &(27..37), &(37..47), &(77..87)));
    let of_kept = |pair: &usize| kept[*pair];
    let distances: Vec<f64> = (0..100).filter(of_kept).map(|pair| distances[pair]).collect();
    let same: Vec<bool> = (0..100).filter(of_kept).map(|pair| same[pair]).collect();
    let found = accuracy(&distances, &same, &left).unwrap();
    assert_ne!(found, accuracy(&distances, &same, &split(87, 9)).unwrap(), "other folds");
    let whole = [&[true; 40][..], &[false; 60]].concat();
    assert_eq!(folds_of_kept(&folds, &whole), split(40, 4));
    let one = folds_of_kept(&folds, &[&[true; 10][..], &[false; 90]].concat());
    let error = accuracy(&distances[..10], &same[..10], &one).unwrap_err().to_string();
    assert_eq!(error, "10 pairs can't be split into 1 folds");
}
