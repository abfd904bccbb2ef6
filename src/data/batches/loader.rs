//! Batches, prepared ahead of training by worker threads. Their content and order are a function of the arguments,
//! never of the threads.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use tch::{Device, Kind, Tensor};

use super::{Augment, Picks};
use crate::data::Dataset;
use crate::error::Result;
use crate::tensor_memory::numbers_mut;

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

/// The examples of `dataset` at the positions `order` of an epoch from the `from`-th on, in batches of `batch_size` (the last may
/// be smaller).
/// Images have the source's size, or the crop's with `augment`. Items are errors where an image is damaged. Dropping the
/// iterator ends its threads.
pub fn batches(
    dataset: &Arc<Dataset>,
    order: Vec<u32>,
    from: usize,
    batch_size: usize,
    augment: Option<Augment>,
    threads: usize,
) -> impl Iterator<Item = Result<Batch>> + use<> {
    ahead(dataset, order, from, batch_size, threads, move |dataset, examples| {
        Ok(BatchImages::Pixels(pixels(dataset, examples, augment)?))
    })
}

/// The same batches of a data set that is `Resident` where it is trained on. Drawing takes one thread little time.
pub fn picked_batches(
    dataset: &Arc<Dataset>,
    order: Vec<u32>,
    from: usize,
    batch_size: usize,
    augment: Option<Augment>,
) -> impl Iterator<Item = Result<Batch>> + use<> {
    ahead(dataset, order, from, batch_size, 1, move |dataset, examples| {
        Ok(BatchImages::Picks(Picks::draw(dataset, examples, augment)))
    })
}

/// An image of an epoch.
#[derive(Clone, Copy)]
pub struct Example {
    /// In the data set.
    pub position: u32,
    /// How often the epoch has had the image before: each time something else is drawn for it.
    pub turn: u32,
}

/// The positions of a whole epoch as examples.
fn examples(order: &[u32]) -> Vec<Example> {
    let mut turns = vec![0; order.iter().max().map_or(0, |&last| last as usize + 1)];
    let example = |&position: &u32| {
        let next = &mut turns[position as usize];
        *next += 1;
        Example { position, turn: *next - 1 }
    };
    order.iter().map(example).collect()
}

/// Batches whose images `prepare` makes from examples of the data set, on threads of their own.
fn ahead<P: Fn(&Dataset, &[Example]) -> Result<BatchImages> + Copy + Send + 'static>(
    dataset: &Arc<Dataset>,
    order: Vec<u32>,
    from: usize,
    batch_size: usize,
    threads: usize,
    prepare: P,
) -> impl Iterator<Item = Result<Batch>> + use<P> {
    let examples = Arc::new(examples(&order).split_off(from));
    let count = examples.len().div_ceil(batch_size);
    // worker w prepares batches w, w + threads, ...: taking from the workers in turn keeps the order
    let workers: Vec<Receiver<Result<Batch>>> = (0..threads)
        .map(|worker| {
            let (sender, receiver) = sync_channel(AHEAD);
            let (dataset, examples) = (dataset.clone(), examples.clone());
            std::thread::spawn(move || {
                for examples in examples.chunks(batch_size).skip(worker).step_by(threads) {
                    let label = |example: &Example| dataset.labels[example.position as usize] as i64;
                    let labels: Vec<i64> = examples.iter().map(label).collect();
                    let images = prepare(&dataset, examples);
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
fn pixels(dataset: &Dataset, examples: &[Example], augment: Option<Augment>) -> Result<Tensor> {
    let size = dataset.images.size();
    let (height, width) = augment.map_or(size, |augment| augment.crop);
    let image = 3 * height * width;
    let shape = [examples.len() as i64, height as i64, width as i64, 3];
    let tensor = Tensor::empty(shape, (Kind::Uint8, Device::Cpu));
    // SAFETY: nothing else refers to it
    let bytes = unsafe { numbers_mut::<u8>(&tensor) };
    let mut plain = vec![0; 3 * size.0 * size.1];
    for (&Example { position, turn }, out) in examples.iter().zip(bytes.chunks_exact_mut(image)) {
        let index = dataset.indices[position as usize];
        match augment {
            Some(augment) => augment.read(&*dataset.images, (index as usize, turn), &mut plain, out)?,
            None => dataset.images.read(index as usize, out)?,
        }
    }
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::super::shuffled;
    use super::*;
    use std::collections::HashSet;

    use crate::data::dataset::tests::{Numbered, Numbers};

    fn all(threads: usize, augment: Option<Augment>) -> Vec<(Vec<u8>, Vec<i64>)> {
        let dataset = Arc::new(Dataset::whole(Arc::new(Numbers { count: 50, classes: 5 })));
        batches(&dataset, shuffled(50, 50, 1, 2, 0), 0, 8, augment, threads)
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
    fn an_image_that_comes_again_in_an_epoch_gets_another_draw_also_after_a_pause() {
        let dataset = Arc::new(Dataset::whole(Arc::new(Numbered)));
        let augment = Augment { padding: 0, crop: (2, 2), erasing: 0.0, ..AUGMENT };
        let order = [7, 7, 3, 7, 3, 7, 7, 7];
        let bytes = |from: usize| -> Vec<Vec<u8>> {
            batches(&dataset, order.to_vec(), from, 1, Some(augment), 2)
                .map(|batch| Vec::try_from(batch.unwrap().images.pixels().reshape(-1)).unwrap())
                .collect()
        };
        let whole = bytes(0);
        let sevens: HashSet<&Vec<u8>> = order.iter().zip(&whole).filter(|(i, _)| **i == 7).map(|(_, b)| b).collect();
        assert!(sevens.len() >= 4, "of 40 crops: {sevens:?}");
        assert_eq!(whole[3..], bytes(3));
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
        let mut few = batches(&dataset, shuffled(50, 50, 1, 2, 0), 0, 2, None, 3);
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
