//! A data set whose pixels lie on a training device, so that a step copies numbers of images and not images. What is
//! drawn for an image comes from the host and is what the loader draws: the same pixels to the last bit.

use std::sync::Arc;

use tch::{Device, IndexOp, Kind, Tensor, no_grad};

use super::{Augment, Draw, Example, Rectangle, batches};
use crate::data::Dataset;
use crate::error::Result;

/// Images copied to the device at once.
const COPIED_AT_ONCE: usize = 1024;

/// Every image of a data set, on one device.
pub struct Resident {
    /// [N H W, 3] u8.
    pixels: Tensor,
    size: (usize, usize),
    /// [3] u8: the colour of erased rectangles.
    fill: Tensor,
}

/// Images of a `Resident` data set, and what was drawn for each.
pub struct Picks {
    /// [N, 8] i64: position in the data set, first row and column of the crop, mirrored or not, and the erased rectangle's
    /// top, left, height and width, 0 for none.
    pub numbers: Tensor,
    /// Height and width of what comes out.
    crop: (usize, usize),
    erasing: bool,
}

impl Picks {
    pub(super) fn draw(dataset: &Dataset, examples: &[Example], augment: Option<Augment>) -> Picks {
        let size = dataset.images.size();
        let row = |&Example { position, turn }: &Example| {
            let index = dataset.indices[position as usize] as usize;
            let Draw { from, mirror, erased } = augment.map_or(Draw::default(), |a| a.draw((index, turn), size));
            let Rectangle { top, left, height, width } = erased.unwrap_or_default();
            let erased = [top, left, height, width].map(|side| side as i64);
            let drawn = [position as i64, from.0 as i64, from.1 as i64, mirror as i64];
            [drawn, erased].concat()
        };
        let numbers: Vec<i64> = examples.iter().flat_map(row).collect();
        Picks {
            numbers: Tensor::from_slice(&numbers).view([-1, 8]),
            crop: augment.map_or(size, |augment| augment.crop),
            erasing: augment.is_some_and(|augment| augment.erasing > 0.0),
        }
    }

    /// The same with other rows of `numbers`, or with them on another device.
    pub fn with(&self, numbers: Tensor) -> Picks {
        Picks { numbers, ..*self }
    }
}

impl Resident {
    /// Bytes on the device.
    pub fn bytes(dataset: &Dataset) -> u64 {
        let (height, width) = dataset.images.size();
        (dataset.len() * 3 * height * width) as u64
    }

    /// Reads all images of `dataset` once, for each of the devices. Erased rectangles get the colour `fill`. Errors: damaged
    /// images; no memory.
    pub fn on(
        devices: &[Device],
        dataset: &Arc<Dataset>,
        fill: [u8; 3],
        loader_threads: usize,
    ) -> Result<Vec<Resident>> {
        let (height, width) = dataset.images.size();
        let rows = (dataset.len() * height * width) as i64;
        let empty = |&device: &Device| {
            let pixels = Tensor::f_empty([rows, 3], (Kind::Uint8, device))?;
            Ok(Resident { pixels, size: (height, width), fill: Tensor::from_slice(&fill).to_device(device) })
        };
        let residents = devices.iter().map(empty).collect::<Result<Vec<_>>>()?;
        let mut start = 0;
        for batch in batches(dataset, (0..dataset.len() as u32).collect(), 0, COPIED_AT_ONCE, None, loader_threads) {
            let rows = batch?.images.pixels().view([-1, 3]);
            for resident in &residents {
                no_grad(|| resident.pixels.narrow(0, start, rows.size()[0]).copy_(&rows));
            }
            start += rows.size()[0];
        }
        Ok(residents)
    }

    /// The images of `picks`, whose numbers are on this device: [N, H, W, 3] u8.
    pub fn pick(&self, picks: &Picks) -> Tensor {
        no_grad(|| {
            let (numbers, options) = (&picks.numbers, (Kind::Int64, self.pixels.device()));
            let number = |i: i64| numbers.i((.., i..i + 1)); // [N, 1]
            let (height, width) = (picks.crop.0 as i64, picks.crop.1 as i64);
            let (y, x) = (Tensor::arange(height, options), Tensor::arange(width, options));
            // of the image, for each row and column of the crop
            let rows = number(1) + &y; // [N, H]
            let columns = number(2) + &x + number(3) * (width - 1 - &x * 2); // [N, W]
            let below = |number: &Tensor, side: usize| number.ge(0).logical_and(&number.lt(side as i64));
            let over_both =
                |of_rows: Tensor, of_columns: Tensor| of_rows.unsqueeze(2).logical_and(&of_columns.unsqueeze(1));
            let inside = over_both(below(&rows, self.size.0), below(&columns, self.size.1));

            let clamped = |number: &Tensor, side: usize| number.clamp(0, side as i64 - 1);
            let line = number(0) * self.size.0 as i64 + clamped(&rows, self.size.0);
            let place = (line * self.size.1 as i64).unsqueeze(2) + clamped(&columns, self.size.1).unsqueeze(1);
            let mut pixels = self.pixels.index_select(0, &place.view(-1)).view([-1, height, width, 3]);
            pixels *= inside.unsqueeze(3);
            if picks.erasing {
                let within = |at: &Tensor, start: i64, length: i64| {
                    let at = at - number(start);
                    at.ge(0).logical_and(&at.lt_tensor(&number(length)))
                };
                let erased = over_both(within(&y, 4, 6), within(&x, 5, 7)).unsqueeze(3);
                pixels = self.fill.where_self(&erased, &pixels);
            }
            pixels
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Batch, BatchImages, picked_batches, shuffled};
    use super::*;
    use crate::data::dataset::tests::Numbered;

    /// Pixels of all batches, the loader's and a resident data set's.
    fn both(augment: Option<Augment>) -> [Vec<Vec<u8>>; 2] {
        let dataset = Arc::new(Dataset { indices: (3..40).collect(), labels: vec![0; 37], images: Arc::new(Numbered) });
        let order = shuffled(37, 37, 1, 0, 0);
        let fill = augment.map_or([0; 3], |augment| augment.fill);
        let resident = Resident::on(&[Device::Cpu], &dataset, fill, 2).unwrap().remove(0);
        let bytes = |batch: Batch| match batch.images {
            BatchImages::Pixels(pixels) => Vec::try_from(pixels.reshape(-1)).unwrap(),
            BatchImages::Picks(picks) => Vec::try_from(resident.pick(&picks).reshape(-1)).unwrap(),
        };
        let loaded = batches(&dataset, order.clone(), 0, 8, augment, 2).map(|batch| bytes(batch.unwrap())).collect();
        [loaded, picked_batches(&dataset, order, 0, 8, augment).map(|batch| bytes(batch.unwrap())).collect()]
    }

    #[test]
    fn a_resident_data_set_gives_the_loaders_pixels_to_the_last_bit() {
        let plain = Augment {
            padding: 0,
            zoom: None,
            crop: Numbered::SIZE,
            mirror: false,
            erasing: 0.0,
            fill: [9, 8, 7],
            seed: 1,
            epoch: 2,
            stream: 3,
        };
        let cases = [
            None,
            Some(plain),
            Some(Augment { mirror: true, ..plain }),
            Some(Augment { padding: 2, zoom: None, mirror: true, ..plain }),
            Some(Augment { crop: (5, 4), mirror: true, erasing: 0.5, ..plain }),
            Some(Augment { padding: 9, zoom: None, crop: (12, 11), mirror: true, erasing: 1.0, ..plain }),
        ];
        let mut seen = std::collections::HashSet::new();
        for augment in cases {
            let [loaded, resident] = both(augment);
            assert_eq!(loaded.len(), 5);
            assert!(loaded == resident, "{augment:?}");
            seen.insert(loaded);
        }
        assert_eq!(seen.len(), 5, "only no augmentation and one that changes nothing are the same");
    }
}
