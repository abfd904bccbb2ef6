use super::*;
use crate::eval::retrieval::distances::{Metric, Rows};
use tch::{Device, Kind, Tensor};

fn points(query: &Tensor, gallery: &Tensor) -> [Points; 2] {
    let all = |features: &Tensor| (0..features.size()[0] as usize).collect::<Vec<_>>();
    let (of_query, of_gallery) = (all(query), all(gallery));
    let set = |features, rows| Rows { features, rows, name: "features" };
    Points::new([set(query, &of_query), set(gallery, &of_gallery)], Metric::Euclidean).unwrap()
}

/// Squared distances [R, R] in f64.
fn squared(features: &Tensor) -> Vec<Vec<f64>> {
    let rows: Vec<Vec<f64>> = features.try_into().unwrap();
    let squared = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum();
    rows.iter().map(|a| rows.iter().map(|b| squared(a, b)).collect()).collect()
}

/// What re_ranking_ranklist.py does, step by step with dense matrices; `original` [R, R] is squared already, and rows
/// are divided by their maxima. [queries, gallery]
fn brute_force(mut original: Vec<Vec<f64>>, queries: usize, reranking: Reranking) -> Vec<f64> {
    let Reranking { k1, k2, lambda } = reranking;
    let count = original.len();
    for row in &mut original {
        let largest = row.iter().copied().fold(0.0, f64::max);
        row.iter_mut().for_each(|distance| *distance /= largest);
    }
    let order = |row: &Vec<f64>| {
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&a, &b| row[a].total_cmp(&row[b]));
        order
    };
    let ranks: Vec<Vec<usize>> = original.iter().map(order).collect();
    let first = |i: usize, k: usize| ranks[i][..k.min(count)].to_vec();
    let reciprocal =
        |i: usize, k: usize| -> Vec<usize> { first(i, k).into_iter().filter(|&j| first(j, k).contains(&i)).collect() };
    let half = k1 / 2 + usize::from(k1 % 4 == 3) + 1; // int(np.around(k1 / 2.)) + 1
    let mut v = vec![vec![0.0; count]; count];
    for i in 0..count {
        let own = reciprocal(i, k1 + 1);
        let mut expanded = own.clone();
        for &j in &own {
            let theirs = reciprocal(j, half);
            let common = theirs.iter().filter(|&x| own.contains(x)).count();
            if common as f64 > 2.0 / 3.0 * theirs.len() as f64 {
                expanded.extend(theirs);
            }
        }
        expanded.sort();
        expanded.dedup();
        let sum: f64 = expanded.iter().map(|&j| (-original[i][j]).exp()).sum();
        expanded.iter().for_each(|&j| v[i][j] = (-original[i][j]).exp() / sum);
    }
    if k2 != 1 {
        let mean = |i: usize| -> Vec<f64> {
            let rows = first(i, k2);
            (0..count).map(|j| rows.iter().map(|&r| v[r][j]).sum::<f64>() / rows.len() as f64).collect()
        };
        v = (0..count).map(mean).collect();
    }
    let last = |i: usize, g: usize| {
        let common: f64 = v[i].iter().zip(&v[g]).map(|(a, b)| a.min(*b)).sum();
        (1.0 - common / (2.0 - common)) * (1.0 - lambda) + original[i][g] * lambda
    };
    (0..queries).flat_map(|i| (queries..count).map(move |g| (i, g))).map(|(i, g)| last(i, g)).collect()
}

fn reranked(features: &Tensor, queries: i64, reranking: Reranking, threads: usize) -> Vec<f32> {
    let (query, gallery) = (features.narrow(0, 0, queries), features.slice(0, queries, None, 1));
    let [query, gallery] = points(&query, &gallery);
    let reranked = Reranked::new(&Comm::single(), &query, &gallery, reranking, threads).unwrap();
    let distances = |block| reranked.distances(block).unwrap();
    blocks(queries as usize).flat_map(distances).collect()
}

fn check(features: &Tensor, queries: i64, reranking: Reranking) {
    let found = reranked(features, queries, reranking, 1);
    let expected = brute_force(squared(features), queries as usize, reranking);
    let largest = found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    assert!(found.len() == expected.len() && largest < 1e-5, "{reranking:?}: {largest}");
    assert_eq!(reranked(features, queries, reranking, 3), found);
}

const PARAMETERS: [(usize, usize, f64); 6] =
    [(20, 6, 0.3), (7, 3, 0.5), (5, 1, 0.1), (1, 2, 0.0), (3, 9, 0.8), (11, 4, 1.0)];

#[test]
fn distances_are_those_of_the_published_code() {
    tch::manual_seed(1);
    let options = (Kind::Float, Device::Cpu);
    let identities = Tensor::randint(40, [600], (Kind::Int64, Device::Cpu));
    let features = Tensor::randn([40, 24], options).index_select(0, &identities) + Tensor::randn([600, 24], options);
    for (k1, k2, lambda) in PARAMETERS {
        check(&features, 150, Reranking { k1, k2, lambda });
    }
}

#[test]
fn equal_distances_are_ordered_by_index() {
    tch::manual_seed(2);
    // 81 distinct features for 400 images
    let features = Tensor::randint(3, [400, 4], (Kind::Float, Device::Cpu));
    for (k1, k2, lambda) in PARAMETERS {
        check(&features, 100, Reranking { k1, k2, lambda });
    }
}

#[test]
fn few_images_are_all_neighbours() {
    tch::manual_seed(3);
    for (queries, images) in [(1, 2), (3, 8), (4, 21)] {
        let features = Tensor::randn([images, 5], (Kind::Float, Device::Cpu));
        check(&features, queries, Reranking::default());
        check(&features, queries, Reranking { k1: 20, k2: 30, lambda: 0.3 });
    }
}

#[test]
fn parameters_are_checked() {
    let features = Tensor::randn([4, 5], (Kind::Float, Device::Cpu));
    let [points, _] = points(&features, &features);
    for (k1, k2, lambda) in [(0, 6, 0.3), (20, 0, 0.3), (20, 6, 1.5), (20, 6, f64::NAN)] {
        let error = Reranked::new(&Comm::single(), &points, &points, Reranking { k1, k2, lambda }, 1).err().unwrap();
        assert!(error.to_string().contains(&format!("not {k1}, {k2} and {lambda}")), "{error}");
    }
}
