//! Holding identities out of training where cameras matter: the reward's queries and gallery for re-identification.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use rand::seq::SliceRandom;

use super::identities::renumbered;
use crate::data::{Dataset, Images};
use crate::rng::{Purpose, rng};

pub struct HeldOutByCamera {
    /// Labels renumbered 0..`classes`, in the order of the source's labels.
    pub training: Dataset,
    pub classes: usize,
    /// Numbers of images: of each held-out identity one image per camera. They are in the gallery, too: there a query
    /// doesn't count itself, since matches of its own camera are dropped, and always has one of another camera.
    pub query: Vec<u32>,
    /// Numbers of all held-out images.
    pub gallery: Vec<u32>,
}

/// Draws `identities` of those among the images `train` that at least two cameras have seen, and takes at most
/// `images_per_identity` images of each, of at least two cameras; all other identities are trained on. `cameras` has
/// an element per image of `images`. Needs what `misfit::people` checks, and two images for each at least.
pub fn hold_out_by_camera(
    images: &Arc<dyn Images>,
    train: &[u32],
    cameras: &[i64],
    identities: usize,
    images_per_identity: usize,
    seed: u64,
) -> HeldOutByCamera {
    assert!(images_per_identity > 1, "a query and its match");
    let mut by_identity = BTreeMap::<u32, Vec<u32>>::new();
    for &index in train {
        by_identity.entry(images.label(index as usize)).or_default().push(index);
    }
    let camera = |index: &u32| cameras[*index as usize];
    let mut eligible: Vec<u32> = by_identity.keys().copied().collect();
    eligible.retain(|identity| by_identity[identity].iter().map(camera).collect::<HashSet<_>>().len() > 1);
    eligible.shuffle(&mut rng(seed, Purpose::HeldOut, &[0]));
    eligible.truncate(identities);
    eligible.sort_unstable();

    let (mut query, mut gallery) = (Vec::new(), Vec::new());
    for identity in eligible {
        let mut taken = by_identity.remove(&identity).expect("one of them");
        taken.shuffle(&mut rng(seed, Purpose::HeldOut, &[identity as u64 + 1]));
        // a second camera's first image comes second, so that it is taken whatever the limit is
        let other = taken.iter().position(|index| camera(index) != camera(&taken[0])).expect("two cameras");
        taken[1..=other].rotate_right(1);
        taken.truncate(images_per_identity);
        let mut seen = HashSet::new();
        query.extend(taken.iter().filter(|&index| seen.insert(camera(index))));
        gallery.extend(taken);
    }
    query.sort_unstable();
    gallery.sort_unstable();
    let training = renumbered(images, by_identity.values());
    HeldOutByCamera { training, classes: by_identity.len(), query, gallery }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::dataset::tests::Labels;

    /// 40 identities with labels 3, 5, ... and 2 to 12 images; every fourth is seen by one camera only, the others by up
    /// to 5. The last 10 images are not to train on.
    fn people() -> (Arc<dyn Images>, Vec<u32>, Vec<i64>) {
        let (mut labels, mut cameras) = (Vec::new(), Vec::new());
        for identity in 0..40 {
            for image in 0..2 + identity % 11 {
                labels.push(3 + 2 * identity);
                // most images are of camera 1
                cameras.push(if identity % 4 == 0 || image % 3 > 0 {
                    1
                } else {
                    2 + (identity + image / 3) as i64 % 4
                });
            }
        }
        let train = (0..labels.len() as u32).collect();
        labels.extend([3; 10]);
        cameras.extend([6; 10]);
        (Arc::new(Labels(labels)), train, cameras)
    }

    #[test]
    fn every_query_has_a_match_of_another_camera_and_training_shares_no_identity() {
        let (images, train, cameras) = people();
        let label = |index: &u32| images.label(*index as usize);
        for (seed, most) in [(1, 2), (2, 3), (3, 5), (4, 100)] {
            let HeldOutByCamera { training, classes, query, gallery } =
                hold_out_by_camera(&images, &train, &cameras, 15, most, seed);
            let held_out: HashSet<u32> = gallery.iter().map(label).collect();
            assert_eq!((held_out.len(), classes), (15, 25));
            for &identity in &held_out {
                let of = |part: &[u32]| -> Vec<u32> { part.iter().copied().filter(|i| label(i) == identity).collect() };
                let (mine, all) = (of(&gallery), of(&train));
                assert_eq!(mine.len(), all.len().min(most));
                let seen: HashSet<i64> = mine.iter().map(|&index| cameras[index as usize]).collect();
                assert!(seen.len() > 1, "{identity}");
                let asked: Vec<i64> = of(&query).iter().map(|&index| cameras[index as usize]).collect();
                assert_eq!((asked.len(), asked.into_iter().collect::<HashSet<_>>()), (seen.len(), seen));
            }
            assert!(query.iter().all(|index| gallery.contains(index)));
            assert!(training.indices.iter().all(|index| !held_out.contains(&label(index))));
            let kept = train.iter().filter(|index| !held_out.contains(&label(index))).count();
            assert_eq!((training.len(), training.labels.iter().collect::<HashSet<_>>().len()), (kept, 25));
            assert!(training.labels.is_sorted() && training.labels.last() == Some(&24));
        }
    }

    #[test]
    fn the_choice_is_seeded_and_may_be_of_nobody() {
        let (images, train, cameras) = people();
        let held_out = |identities, seed| hold_out_by_camera(&images, &train, &cameras, identities, 3, seed);
        assert_eq!(held_out(10, 1).query, held_out(10, 1).query);
        assert_ne!(held_out(10, 1).query, held_out(10, 2).query);
        let HeldOutByCamera { training, classes, query, gallery } = held_out(0, 1);
        assert_eq!((training.indices, classes, query.len(), gallery.len()), (train, 40, 0, 0));
    }
}
