use super::*;

const DIMENSIONS: i64 = 64;

/// Query and gallery, 300 rows in 3 groups, each of which `place` is given with its number.
fn sets(place: impl Fn(Tensor, f64) -> Tensor) -> [Tensor; 2] {
    tch::manual_seed(8);
    [130, 300].map(|count| {
        let noise = Tensor::randn([count, DIMENSIONS], (Kind::Double, Device::Cpu));
        let group = Tensor::arange(count, (Kind::Double, Device::Cpu)).remainder(3.0).view([-1, 1]);
        let groups = (0..3).map(|number| place(noise.shallow_clone(), f64::from(number)) * group.eq(f64::from(number)));
        groups.reduce(|a, b| a + b).unwrap().to_kind(Kind::Float)
    })
}

/// The largest relative error of all distances, and the share of those that were measured again.
fn worst(sets: &[Tensor; 2], metric: Metric) -> f64 {
    let all: Vec<Vec<usize>> = sets.iter().map(|set| (0..set.size()[0] as usize).collect()).collect();
    let of = |i: usize| Rows { features: &sets[i], rows: &all[i], name: "features" };
    let [query, gallery] = Points::new([of(0), of(1)], metric).unwrap();
    let unit = if metric == Metric::Cosine { 1.0 } else { query.scales[0] };
    let exact = |set: &Tensor| -> Vec<Vec<f64>> {
        let rows = set.to_kind(Kind::Double);
        let rows = match metric {
            Metric::Cosine => &rows / rows.square().sum_dim_intlist([1i64].as_slice(), true, Kind::Double).sqrt(),
            Metric::Euclidean => rows * unit,
        };
        rows.try_into().unwrap()
    };
    let (rows, others) = (exact(&sets[0]), exact(&sets[1]));
    let joined = Points::join(&query, &gallery).unwrap().on_cpu();
    let mut worst = 0f64;
    for range in blocks::blocks(rows.len()) {
        let found = query.distances(range.clone(), &gallery).unwrap();
        for (i, found) in range.zip(found.chunks_exact(others.len())) {
            for (j, found) in found.iter().enumerate() {
                let expected: f64 = rows[i].iter().zip(&others[j]).map(|(a, b)| (a - b) * (a - b)).sum();
                for found in [*found, joined.distance(i, rows.len() + j)] {
                    worst = worst.max((f64::from(found) - expected).abs() / expected);
                }
            }
        }
    }
    worst
}

#[test]
fn distances_have_f32s_precision_whatever_the_features_are() {
    type Place = fn(Tensor, f64) -> Tensor;
    let places: [(&str, Place); 7] = [
        ("around 0", |noise, _| noise),
        ("a common offset", |noise, _| noise + 1000.0),
        ("a large one", |noise, _| noise * 0.1 + 3e5),
        ("groups far from each other", |noise, group| noise * 1e-3 + 1e3 * (group - 1.0)),
        ("groups of other sizes", |noise, group| (noise + 5.0) * (10.0 * group).exp2()),
        ("large numbers", |noise, group| noise * 1e36 + group * 1e37),
        ("small numbers", |noise, group| noise * 1e-36 + group * 1e-35),
    ];
    for (name, place) in places {
        let sets = sets(place);
        for metric in [Metric::Euclidean, Metric::Cosine] {
            let worst = worst(&sets, metric);
            assert!(worst < 3e-6, "{name}, {metric:?}: {worst}");
        }
    }
}

#[test]
fn features_that_need_no_other_origin_are_not_copied() {
    let [features, _] = sets(|noise, _| noise.relu());
    let rows: Vec<usize> = (0..features.size()[0] as usize).collect();
    let [points] =
        Points::new([Rows { features: &features, rows: &rows, name: "features" }], Metric::Euclidean).unwrap();
    assert_eq!(points.moved.data_ptr(), features.data_ptr());
    assert_eq!(points.given.data_ptr(), features.data_ptr());
}
