use super::*;
use tch::Kind;

const DIMENSIONS: usize = 4;

/// Small integers, so that distances are exact and many tie.
struct Set {
    features: Vec<i64>,
    ids: Vec<i64>,
    cameras: Vec<i64>,
}

fn generator(mut state: u64) -> impl FnMut(u64) -> i64 {
    move |n| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % n) as i64
    }
}

impl Set {
    /// Ids from -1 to `ids` around centres of their own; every id and feature has `cameras` to be seen by.
    fn new(seed: u64, count: usize, ids: u64, cameras: u64, feature: impl Fn(i64, i64) -> i64) -> Set {
        let mut below = generator(seed);
        let mut set = Set { features: Vec::new(), ids: Vec::new(), cameras: Vec::new() };
        for _ in 0..count {
            let id = below(ids + 1) - 1;
            let mut centre = generator((id as u64).wrapping_add(77));
            (0..DIMENSIONS).for_each(|_| set.features.push(feature(centre(1 << 20), below(1 << 20))));
            set.ids.push(id);
            set.cameras.push(below(cameras));
        }
        set
    }

    fn tensor(&self) -> Tensor {
        Tensor::from_slice(&self.features).to_kind(Kind::Float).view([-1, DIMENSIONS as i64])
    }

    fn row(&self, i: usize) -> &[i64] {
        &self.features[i * DIMENSIONS..][..DIMENSIONS]
    }
}

fn run(query: &Set, gallery: &Set, metric: Metric, reranking: Option<Reranking>, threads: usize) -> Result<Figures> {
    let (q, g) = (query.tensor(), gallery.tensor());
    let query = ImageFeatures { name: "query", features: &q, ids: &query.ids, cameras: &query.cameras };
    let gallery = ImageFeatures { name: "gallery", features: &g, ids: &gallery.ids, cameras: &gallery.cameras };
    retrieve(&Comm::single(), &query, &gallery, metric, reranking, threads)
}

fn distance(a: &[i64], b: &[i64], metric: Metric) -> f64 {
    let dot = |a: &[i64], b: &[i64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<i64>() as f64;
    match metric {
        Metric::Euclidean => dot(a, a) + dot(b, b) - 2.0 * dot(a, b),
        Metric::Cosine => 2.0 - 2.0 * dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
    }
}

/// The definitions, by sorting.
fn brute_force(query: &Set, gallery: &Set, metric: Metric) -> Figures {
    let size = gallery.ids.iter().filter(|&&id| id != -1).count();
    let mut figures = Figures {
        queries: query.ids.len(),
        without_match: 0,
        cmc: vec![0.0; size.min(50)],
        map: 0.0,
        map_trapezoid: 0.0,
        minp: 0.0,
    };
    for q in 0..query.ids.len() {
        let same = |g: usize| gallery.ids[g] == query.ids[q];
        let valid = |&g: &usize| gallery.ids[g] != -1 && !(same(g) && gallery.cameras[g] == query.cameras[q]);
        let mut ranking: Vec<usize> = (0..gallery.ids.len()).filter(valid).collect();
        let distance = |g: usize| distance(query.row(q), gallery.row(g), metric);
        ranking.sort_by(|&a, &b| distance(a).total_cmp(&distance(b))); // stable
        let total = ranking.iter().filter(|&&g| same(g)).count() as f64;
        if total == 0.0 {
            figures.without_match += 1;
            continue;
        }
        let (mut hits, mut precision, mut last) = (0.0, 1.0, 0);
        for (position, &g) in ranking.iter().enumerate() {
            let before = precision;
            hits += f64::from(same(g));
            precision = hits / (position + 1) as f64;
            if same(g) {
                figures.map += precision / total;
                figures.map_trapezoid += (before + precision) / 2.0 / total;
                last = position + 1;
            }
            if position < figures.cmc.len() && hits > 0.0 {
                figures.cmc[position] += 1.0;
            }
        }
        // a ranking shorter than the CMC: found is found
        (ranking.len()..figures.cmc.len()).for_each(|position| figures.cmc[position] += 1.0);
        figures.minp += total / last as f64;
    }
    let measured = (figures.queries - figures.without_match) as f64;
    figures.cmc.iter_mut().for_each(|share| *share /= measured);
    figures.map /= measured;
    figures.map_trapezoid /= measured;
    figures.minp /= measured;
    figures
}

fn check(query: &Set, gallery: &Set, metric: Metric) -> Figures {
    let (found, expected) = (run(query, gallery, metric, None, 1).unwrap(), brute_force(query, gallery, metric));
    assert_eq!((found.queries, found.without_match), (expected.queries, expected.without_match));
    assert_eq!(found.cmc, expected.cmc);
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
    close(found.map, expected.map);
    close(found.map_trapezoid, expected.map_trapezoid);
    close(found.minp, expected.minp);
    assert_eq!(run(query, gallery, metric, None, 3).unwrap(), found);
    found
}

#[test]
fn figures_are_those_of_sorting() {
    let near = |centre, noise| centre % 9 + noise % 5;
    let query = Set::new(1, 300, 60, 4, near);
    let figures = check(&query, &Set::new(2, 2500, 40, 4, near), Metric::Euclidean);
    assert!(figures.without_match > 50 && figures.map > 0.1 && figures.map < 0.9, "{figures:?}");
    // few distinct distances
    check(&query, &Set::new(3, 1100, 60, 4, |centre, noise| (centre + noise) % 2), Metric::Euclidean);
    // one image per id or none, a gallery smaller than the CMC
    check(&query, &Set::new(4, 30, 60, 4, near), Metric::Euclidean);
    // junk is most of the gallery
    check(&query, &Set::new(5, 400, 1, 4, near), Metric::Euclidean);
}

#[test]
fn cosine_is_of_the_angle_alone() {
    // +-1 and +-2: lengths are powers of two, cosines are exact
    let unit = |centre, noise| if (centre + noise / 7 * (noise % 2)) % 2 == 0 { 1 } else { -1 };
    let query = Set::new(1, 140, 12, 3, unit);
    let mut gallery = Set::new(2, 600, 12, 3, unit);
    let before = check(&query, &gallery, Metric::Cosine);
    gallery.features.iter_mut().take(300 * DIMENSIONS).for_each(|feature| *feature *= 4);
    assert_eq!(check(&query, &gallery, Metric::Cosine), before);
    assert_ne!(check(&query, &gallery, Metric::Euclidean), before);
}

/// One query; the gallery's first feature is the distance.
fn ranked(gallery: &[(i64, i64, i64)]) -> Result<Figures> {
    let query = Set { features: vec![0; DIMENSIONS], ids: vec![5], cameras: vec![1] };
    let gallery = Set {
        features: gallery.iter().flat_map(|&(distance, ..)| [distance, 0, 0, 0]).collect(),
        ids: gallery.iter().map(|&(_, id, _)| id).collect(),
        cameras: gallery.iter().map(|&(.., camera)| camera).collect(),
    };
    run(&query, &gallery, Metric::Euclidean, None, 1)
}

#[test]
fn a_ranking_by_hand() {
    // in order: junk, own camera, other, match, background, match
    let gallery = [(9, 5, 2), (1, 5, 1), (0, -1, 2), (3, 7, 1), (4, 5, 3), (5, 0, 1)];
    let figures = ranked(&gallery).unwrap();
    assert_eq!(figures.cmc, [0.0, 1.0, 1.0, 1.0, 1.0]);
    assert_eq!(figures.map, (1.0 / 2.0 + 2.0 / 4.0) / 2.0);
    assert!((figures.map_trapezoid - (0.25 + (1.0 / 3.0 + 0.5) / 2.0) / 2.0).abs() < 1e-15);
    assert_eq!(figures.minp, 2.0 / 4.0);
    // ties by index
    assert_eq!(ranked(&[(2, 7, 1), (2, 5, 2), (2, 8, 1)]).unwrap().map, 1.0 / 2.0);
}

#[test]
fn what_can_not_be_measured_is_said() {
    let message = |result: Result<Figures>| result.unwrap_err().to_string();
    assert!(message(ranked(&[(2, 7, 1), (2, 5, 1)])).contains("none of the 1 queries"));
    assert!(message(ranked(&[(2, -1, 1)])).contains("1 images of which 1 are junk"));
    assert!(message(ranked(&[])).contains("0 images"));
    let set = |count| Set::new(1, count, 1, 3, |_, noise| noise % 5 + 1);
    let mut short = set(9);
    short.ids.pop();
    assert!(message(run(&set(9), &short, Metric::Cosine, None, 1)).contains("gallery: features [9, 4] with 8 ids"));
    let mut zero = set(9);
    zero.ids.fill(3);
    zero.ids[0] = JUNK;
    zero.features[7 * DIMENSIONS..][..DIMENSIONS].fill(0);
    let error = message(run(&set(9), &zero, Metric::Cosine, None, 1));
    assert!(error.contains("gallery: features of row 7: their norm is 0"), "{error}");
    let features = set(9).tensor();
    let _ = features.get(4).get(2).fill_(f64::NAN);
    let (ids, gallery) = (vec![0; 9], set(9));
    let bad = ImageFeatures { name: "query", features: &features, ids: &ids, cameras: &ids };
    let other = gallery.tensor();
    let good = ImageFeatures { name: "gallery", features: &other, ids: &ids, cameras: &ids };
    for metric in [Metric::Cosine, Metric::Euclidean] {
        let error = message(retrieve(&Comm::single(), &bad, &good, metric, None, 1));
        assert!(error.contains("query: features of row 4: their norm is NaN"), "{error}");
    }
    let narrow = other.narrow(1, 0, 3);
    let narrow = ImageFeatures { name: "narrow", features: &narrow, ids: &ids, cameras: &ids };
    assert!(
        message(retrieve(&Comm::single(), &good, &narrow, Metric::Cosine, None, 1))
            .contains("gallery has 4 features for each image, narrow has 3: they are not of one network")
    );
}

#[test]
fn reranking_leaves_junk_out_and_takes_any_features() {
    let near = |centre, noise| centre % 30 + noise % 16;
    let (query, mut gallery) = (Set::new(1, 150, 30, 4, near), Set::new(2, 500, 30, 4, near));
    let rerank = |query: &Set, gallery: &Set| {
        let reranking = Some(Reranking::default());
        let one = run(query, gallery, Metric::Euclidean, reranking, 1).unwrap();
        assert_eq!(run(query, gallery, Metric::Euclidean, reranking, 3).unwrap(), one);
        one
    };
    let with_junk = rerank(&query, &gallery);
    assert!(with_junk.map > run(&query, &gallery, Metric::Euclidean, None, 1).unwrap().map);
    let kept: Vec<usize> = (0..500).filter(|&i| gallery.ids[i] != JUNK).collect();
    let without_junk = Set {
        features: kept.iter().flat_map(|&i| gallery.row(i)).copied().collect(),
        ids: kept.iter().map(|&i| gallery.ids[i]).collect(),
        cameras: kept.iter().map(|&i| gallery.cameras[i]).collect(),
    };
    assert!(kept.len() < 500);
    assert_eq!(rerank(&query, &without_junk), with_junk);
    // a network that has collapsed: the order is the gallery's
    let query = Set { features: vec![3; query.features.len()], ..query };
    gallery.features.fill(3);
    let collapsed = rerank(&query, &gallery);
    assert!(collapsed.map > 0.0 && collapsed.map < 0.2, "{collapsed:?}");
}
