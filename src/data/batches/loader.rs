//! Batches, prepared ahead of training by worker threads. Their content and order are a function of the arguments,
//! never of the threads.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use tch::{Kind, Tensor};

use super::{Augment, Picks};
use crate::data::Dataset;
use crate::error::Result;

/// Batches that each worker holds ready: enough to hide a slow one, few enough to cost no memory.
const AHEAD: usize = 2;

pub struct Batch {
    pub images: BatchImages,
    /// [N] i64.
    pub labels: Tensor,
}

pub enum BatchImages {
    /// [N, H, W, 3] u8.
    Pixels(Tensor),
    /// Which pixels of a `Resident` data set they are.
    Picks(Picks),
}

impl BatchImages {
    /// [N, H, W, 3] u8 of a batch that the loader read.
    pub fn pixels(self) -> Tensor {
        match self {
            BatchImages::Pixels(pixels) => pixels,
            BatchImages::Picks(_) => panic!("a batch of numbers alone has no pixels"),
        }
    }
}

/// The examples of `dataset` at the positions `order`, in batches of `batch_size` (the last may be smaller).
/// Images have the source's size, or the crop's with `augment`. Items are errors where an image is damaged. Dropping the
/// iterator ends its threads.
pub fn batches(
    dataset: &Arc<Dataset>,
    order: Vec<u32>,
    batch_size: usize,
    augment: Option<Augment>,
    threads: usize,
) -> impl Iterator<Item = Result<Batch>> + use<> {
    ahead(dataset, order, batch_size, threads, move |dataset, positions| {
        Ok(BatchImages::Pixels(pixels(dataset, positions, augment)?))
    })
}

/// The same batches of a data set that is `Resident` where it is trained on. Drawing takes one thread little time.
pub fn picked_batches(
    dataset: &Arc<Dataset>,
    order: Vec<u32>,
    batch_size: usize,
    augment: Option<Augment>,
) -> impl Iterator<Item = Result<Batch>> + use<> {
    ahead(dataset, order, batch_size, 1, move |dataset, positions| {
        Ok(BatchImages::Picks(Picks::draw(dataset, positions, augment)))
    })
}

/// Batches whose images `prepare` makes from positions in the data set, on threads of their own.
fn ahead<P: Fn(&Dataset, &[u32]) -> Result<BatchImages> + Copy + Send + 'static>(
    dataset: &Arc<Dataset>,
    order: Vec<u32>,
    batch_size: usize,
    threads: usize,
    prepare: P,
) -> impl Iterator<Item = Result<Batch>> + use<P> {
    let count = order.len().div_ceil(batch_size);
    let order = Arc::new(order);
    // worker w prepares batches w, w + threads, ...: taking from the workers in turn keeps the order
    let workers: Vec<Receiver<Result<Batch>>> = (0..threads)
        .map(|worker| {
            let (sender, receiver) = sync_channel(AHEAD);
            let (dataset, order) = (dataset.clone(), order.clone());
            std::thread::spawn(move || {
                for positions in order.chunks(batch_size).skip(worker).step_by(threads) {
                    let labels: Vec<i64> = positions.iter().map(|&i| dataset.labels[i as usize] as i64).collect();
                    let images = prepare(&dataset, positions);
                    let batch = images.map(|images| Batch { images, labels: Tensor::from_slice(&labels) });
                    if sender.send(batch).is_err() {
                        return; // nobody listens any more
                    }
                }
            });
            receiver
        })
        .collect();
    (0..count).map(move |i| workers[i % threads].recv().expect("a loader thread panicked"))
}

/// [N, H, W, 3] u8.
fn pixels(dataset: &Dataset, positions: &[u32], augment: Option<Augment>) -> Result<Tensor> {
    let size = dataset.images.size();
    let (height, width) = augment.map_or(size, |augment| augment.crop);
    let mut bytes = vec![0; positions.len() * 3 * height * width];
    let mut plain = vec![0; 3 * size.0 * size.1];
    for (&position, out) in positions.iter().zip(bytes.chunks_exact_mut(3 * height * width)) {
        let index = dataset.indices[position as usize];
        match augment {
            Some(augment) => augment.read(&*dataset.images, index as usize, &mut plain, out)?,
            None => dataset.images.read(index as usize, out)?,
        }
    }
    let size = [positions.len() as i64, height as i64, width as i64, 3];
    Ok(Tensor::from_data_size(&bytes, &size, Kind::Uint8))
}

#[cfg(test)]
mod tests {
    use super::super::shuffled;
    use super::*;
    use crate::data::dataset::tests::Numbers;

    fn all(threads: usize, augment: Option<Augment>) -> Vec<(Vec<u8>, Vec<i64>)> {
        let dataset = Arc::new(Dataset::whole(Arc::new(Numbers { count: 50, classes: 5 })));
        batches(&dataset, shuffled(50, 50, 1, 2, 0), 8, augment, threads)
            .map(|batch| {
                let batch = batch.unwrap();
                let bytes = Vec::<u8>::try_from(batch.images.pixels().reshape(-1)).unwrap();
                (bytes, Vec::<i64>::try_from(batch.labels).unwrap())
            })
            .collect()
    }

    #[test]
    fn every_example_comes_once_with_its_label_and_the_last_batch_is_smaller() {
        let batches = all(1, None);
        assert_eq!(batches.iter().map(|(_, labels)| labels.len()).collect::<Vec<_>>(), [8, 8, 8, 8, 8, 8, 2]);
        let mut seen: Vec<u8> = Vec::new();
        for (bytes, labels) in &batches {
            for (image, &label) in bytes.chunks_exact(48).zip(labels) {
                assert_eq!(image[0] as i64 % 5, label);
                seen.push(image[0]);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..50).collect::<Vec<u8>>());
    }

    const AUGMENT: Augment = Augment {
        padding: 1,
        zoom: None,
        crop: (4, 4),
        mirror: true,
        erasing: 0.5,
        fill: [7; 3],
        seed: 1,
        epoch: 2,
        stream: 0,
    };

    #[test]
    fn batches_are_the_same_for_any_number_of_threads() {
        let one = all(1, Some(AUGMENT));
        assert_eq!(one, all(2, Some(AUGMENT)));
        assert_eq!(one, all(5, Some(AUGMENT)));
        assert_ne!(one, all(1, None));
    }

    #[test]
    fn batches_have_the_crops_size_with_augmentation() {
        let augment = Augment { padding: 0, crop: (3, 2), erasing: 0.0, ..AUGMENT };
        let batches = all(1, Some(augment));
        assert_eq!(batches[0].0.len(), 8 * 3 * 2 * 3);
        for (bytes, labels) in &batches {
            for (image, &label) in bytes.chunks_exact(18).zip(labels) {
                assert!(image.iter().all(|&byte| byte == image[0]) && image[0] as i64 % 5 == label);
            }
        }
    }

    #[test]
    fn a_loader_that_is_dropped_early_leaves_no_thread_waiting() {
        let dataset = Arc::new(Dataset::whole(Arc::new(Numbers { count: 50, classes: 5 })));
        let mut few = batches(&dataset, shuffled(50, 50, 1, 2, 0), 2, None, 3);
        few.next();
        drop(few);
        // they end on their own; minutes mean never
        for _ in 0..30_000 {
            if Arc::strong_count(&dataset) == 1 {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("threads still hold the data set after 5 minutes");
    }
}
