//! Person re-identification: CMC, mean average precision and mINP of ranked galleries, as Market-1501 defines them.
//!
//! No gallery is sorted. A query has some 20 matches; the rank of each is a count of the distances before its own.

pub mod distances;
mod neighbours;
pub mod reranking;

use std::collections::HashMap;
use std::ops::Range;

use tch::Tensor;

pub use distances::Metric;
pub use reranking::Reranking;

use super::kernels::blocks::records_of_all;
use crate::comm::Comm;
use crate::error::{Error, Result};
use distances::{Points, Rows};
use reranking::Reranked;

/// The id of gallery images that are ignored altogether (Market-1501's bad detections); a query of it has no match.
pub const JUNK: i64 = -1;
/// The ranks of the CMC.
pub const RANKS: usize = 50;

/// Queries or a gallery.
pub struct ImageFeatures<'a> {
    /// For errors, such as the file's.
    pub name: &'a str,
    /// [N, D] f32, on the device that is to score.
    pub features: &'a Tensor,
    /// [N]
    pub ids: &'a [i64],
    /// [N]
    pub cameras: &'a [i64],
}

/// Means over the queries that have a match. Matches of a query are the gallery images of its id from other cameras;
/// those of its id and its camera are not in its ranking, nor is junk. Equal distances are ranked in the gallery's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// All queries.
    pub queries: usize,
    /// Those without a match, which are left out (as in torchreid: torchreid/metrics/rank.py).
    pub without_match: usize,
    /// Item r - 1: share of the queries with a match among the first r. `RANKS`, or the gallery without junk if smaller.
    pub cmc: Vec<f64>,
    /// Mean of AP = 1/n sum over the n matches of (matches so far) / rank (torchreid/metrics/rank.py; fast-reid).
    pub map: f64,
    /// Mean of AP = 1/n sum over the n matches, at ranks r, of (P(r - 1) + P(r)) / 2, with the precision P and
    /// P(0) = 1: Market-1501's own code (zhunzhong07/person-re-ranking: evaluation/utils/compute_AP.m).
    pub map_trapezoid: f64,
    /// Mean of n / (rank of the last match) (mINP of Ye et al., arXiv:2001.04193).
    pub minp: f64,
}

/// Ranks the gallery for every query by the distances of `metric`, or by those that `reranking` makes of them. All ranks
/// call this with the same images; results are on all of them, and equal to the bit for any number of ranks and threads
/// (CPU). Errors: no images; lengths that differ; what `Points::new` and `Reranked::new` reject; no query with a match.
pub fn retrieve(
    comm: &Comm,
    query: &ImageFeatures,
    gallery: &ImageFeatures,
    metric: Metric,
    reranking: Option<Reranking>,
    threads: usize,
) -> Result<Figures> {
    query.check()?;
    gallery.check()?;
    let kept: Vec<usize> = (0..gallery.ids.len()).filter(|&i| gallery.ids[i] != JUNK).collect();
    if query.ids.is_empty() || kept.is_empty() {
        return Err(Error::failed(format!(
            "retrieval needs queries and a gallery, not {} and {} images of which {} are junk",
            query.ids.len(),
            gallery.ids.len(),
            gallery.ids.len() - kept.len()
        )));
    }
    let queries: Vec<usize> = (0..query.ids.len()).collect();
    let [from, to] = Points::new([query.rows(&queries), gallery.rows(&kept)], metric)?;
    let ranking = Ranking::new(query, gallery, &kept)?;
    match reranking {
        None => ranking.measure(comm, threads, |queries| from.distances(queries, &to)),
        Some(reranking) => {
            let reranked = Reranked::new(comm, &from, &to, reranking, threads)?;
            drop((from, to)); // memory
            ranking.measure(comm, threads, |queries| reranked.distances(queries))
        }
    }
}

impl<'a> ImageFeatures<'a> {
    fn rows(&self, rows: &'a [usize]) -> Rows<'a> {
        Rows { features: self.features, rows, name: self.name }
    }

    fn check(&self) -> Result<()> {
        let (size, ids, cameras) = (self.features.size(), self.ids.len(), self.cameras.len());
        if size.len() == 2 && size[0] as usize == ids && ids == cameras {
            return Ok(());
        }
        Err(Error::failed(format!("{}: features {size:?} with {ids} ids and {cameras} cameras", self.name)))
    }
}

/// Who is where: what a ranking is measured by.
struct Ranking<'a> {
    query_ids: &'a [i64],
    query_cameras: &'a [i64],
    /// Cameras [G] of the gallery without junk.
    cameras: Vec<i64>,
    /// The gallery's images of each id, ascending.
    of_id: HashMap<i64, Vec<usize>>,
}

/// What the figures need of one query.
struct Ranked {
    /// Rank of the first match; 0: there is no match.
    first: f64,
    ap: f64,
    ap_trapezoid: f64,
    inp: f64,
}

impl<'a> Ranking<'a> {
    fn new(query: &ImageFeatures<'a>, gallery: &ImageFeatures, kept: &[usize]) -> Result<Ranking<'a>> {
        let mut of_id: HashMap<i64, Vec<usize>> = HashMap::new();
        for (i, &image) in kept.iter().enumerate() {
            of_id.entry(gallery.ids[image]).or_default().push(i);
        }
        let cameras = kept.iter().map(|&image| gallery.cameras[image]).collect();
        let ranking = Ranking { query_ids: query.ids, query_cameras: query.cameras, cameras, of_id };
        if (0..query.ids.len()).all(|query| ranking.matches(query).0.is_empty()) {
            let queries = query.ids.len();
            return Err(Error::failed(format!(
                "none of the {queries} queries has an image of its id from another camera in the gallery"
            )));
        }
        Ok(ranking)
    }

    /// The gallery's images of the query's id: from other cameras, and from its own.
    fn matches(&self, query: usize) -> (Vec<usize>, Vec<usize>) {
        let of_id = self.of_id.get(&self.query_ids[query]).map_or(&[][..], |of_id| of_id);
        of_id.iter().partition(|&&image| self.cameras[image] != self.query_cameras[query])
    }

    /// `distances` of a block of queries to the gallery without junk: [block, G], finite.
    fn measure(
        &self,
        comm: &Comm,
        threads: usize,
        distances: impl Fn(Range<usize>) -> Result<Vec<f32>> + Sync,
    ) -> Result<Figures> {
        let queries = self.query_ids.len();
        let records = records_of_all(comm, threads, queries, 4, |block| {
            let mut distances = distances(block.clone())?;
            let rows = distances.chunks_exact_mut(self.cameras.len());
            let ranked = block.zip(rows).map(|(query, row)| {
                let (matches, dropped) = self.matches(query);
                dropped.into_iter().for_each(|image| row[image] = f32::INFINITY);
                Ranked::new(&ranks(row, &matches))
            });
            Ok(ranked.flat_map(|of| [of.first, of.ap, of.ap_trapezoid, of.inp]).collect())
        })?;
        let ranked: Vec<&[f64]> = records.chunks_exact(4).filter(|of| of[0] > 0.0).collect();
        let mean = |number: usize| ranked.iter().map(|of| of[number]).sum::<f64>() / ranked.len() as f64;
        let within = |rank: usize| ranked.iter().filter(|of| of[0] <= rank as f64).count();
        Ok(Figures {
            queries,
            without_match: queries - ranked.len(),
            cmc: (1..=RANKS.min(self.cameras.len())).map(|r| within(r) as f64 / ranked.len() as f64).collect(),
            map: mean(1),
            map_trapezoid: mean(2),
            minp: mean(3),
        })
    }
}

/// distances [G]; matches, indices into it -> their ranks, ascending. Without branches, for the vectoriser.
fn ranks(distances: &[f32], matches: &[usize]) -> Vec<u32> {
    let rank = |&image: &usize| {
        let distance = distances[image];
        let (earlier, later) = distances.split_at(image);
        let before: u32 = earlier.iter().map(|&other| u32::from(other <= distance)).sum();
        1 + before + later.iter().map(|&other| u32::from(other < distance)).sum::<u32>()
    };
    let mut ranks: Vec<u32> = matches.iter().map(rank).collect();
    ranks.sort_unstable();
    ranks
}

impl Ranked {
    /// The figures of a query whose matches have these ranks, ascending.
    fn new(ranks: &[u32]) -> Ranked {
        let (Some(&first), Some(&last)) = (ranks.first(), ranks.last()) else {
            return Ranked { first: 0.0, ap: 0.0, ap_trapezoid: 0.0, inp: 0.0 };
        };
        let count = ranks.len() as f64;
        let (mut sum, mut sum_trapezoid) = (0.0, 0.0);
        for (&rank, hits) in ranks.iter().zip(1..) {
            let (rank, hits) = (f64::from(rank), f64::from(hits));
            let precision = hits / rank;
            let before = if rank == 1.0 { 1.0 } else { (hits - 1.0) / (rank - 1.0) };
            sum += precision;
            sum_trapezoid += (before + precision) / 2.0;
        }
        Ranked {
            first: f64::from(first),
            ap: sum / count,
            ap_trapezoid: sum_trapezoid / count,
            inp: count / f64::from(last),
        }
    }
}

#[cfg(test)]
mod tests;
