//! Glyphs in the form of Market-1501: identities seen by six cameras, split into training set, queries and gallery.

use std::fs;
use std::path::Path;

use image::RgbImage;
use rand::RngExt;

use super::face_tree::write_jpeg;
use crate::data::{Glyphs, resize};
use crate::error::{Error, Result};
use crate::rng::{Purpose, rng};

const CAMERAS: usize = 6;
/// The most classes that `Glyphs` can draw.
const MAX_CLASSES: usize = 100_000;

pub struct MarketTree {
    /// The first half is to train on, the others are to test.
    pub identities: usize,
    /// Images of each identity, taken by the cameras in turn. Test identities have a query for each camera in addition.
    pub images: usize,
    /// Height and width.
    pub size: (usize, usize),
    /// 0 (clean) to 1 (hardly readable).
    pub difficulty: f64,
    pub seed: u64,
}

impl MarketTree {
    /// Writes bounding_box_train, query and bounding_box_test below `out`. Besides, the gallery has a distractor (person
    /// 0) and an image of junk (-1) for every ten images, of other glyphs, and Thumbs.db. `progress` hears how many
    /// identities are done.
    ///
    /// Errors: a file that can't be written; fewer than two images of each identity; more glyphs than there are.
    pub fn write(&self, out: &Path, progress: &mut dyn FnMut(usize)) -> Result<()> {
        let to_train = self.identities / 2;
        // distractors, and as many images of junk
        let others = ((self.identities - to_train) * self.images / 10).max(1);
        let classes = self.identities + (2 * others).div_ceil(self.images);
        if self.images < 2 {
            return Err(Error::config("--images must be at least 2 for --layout market: a query and its match"));
        }
        if classes > MAX_CLASSES {
            let why = format!("--identities and distractors are {classes} glyphs; there are {MAX_CLASSES}");
            return Err(Error::config(why));
        }
        for directory in ["bounding_box_train", "query", "bounding_box_test"] {
            let directory = out.join(directory);
            fs::create_dir_all(&directory).map_err(|why| Error::file(&directory, why))?;
        }
        let painter = self.painter(classes);
        let write = |directory: &str, person: &str, class: usize, camera: usize, number: usize| {
            let name = format!("{person}_c{}s1_{number:06}_00.jpg", camera + 1);
            write_jpeg(&out.join(directory).join(name), &painter.image(class, camera, number))
        };
        for identity in 0..self.identities {
            let person = format!("{:04}", identity + 1);
            // with few images, too, all cameras see someone
            let camera = |turn: usize| (identity + turn) % CAMERAS;
            let directory = if identity < to_train { "bounding_box_train" } else { "bounding_box_test" };
            for number in 0..self.images {
                write(directory, &person, identity, camera(number), number)?;
            }
            if identity >= to_train {
                for turn in 0..self.images.min(CAMERAS) {
                    write("query", &person, identity, camera(turn), self.images + turn)?;
                }
            }
            progress(identity + 1);
        }
        for other in 0..2 * others {
            let person = if other < others { "0000" } else { "-1" };
            let class = self.identities + other / self.images;
            write("bounding_box_test", person, class, other % CAMERAS, other)?;
        }
        let thumbs = out.join("bounding_box_test/Thumbs.db");
        fs::write(&thumbs, b"no image").map_err(|why| Error::file(&thumbs, why))
    }

    fn painter(&self, classes: usize) -> Painter {
        let (height, width) = self.size;
        Painter {
            glyphs: Glyphs::new(self.seed, classes, height.max(width), self.difficulty),
            cameras: std::array::from_fn(|number| Camera::new(self.seed, number)),
            size: self.size,
        }
    }
}

struct Painter {
    glyphs: Glyphs,
    cameras: [Camera; CAMERAS],
    size: (usize, usize),
}

impl Painter {
    /// The glyph, squeezed into the shape of a person, as the camera shows it.
    fn image(&self, class: usize, camera: usize, number: usize) -> RgbImage {
        let side = self.glyphs.size() as u32;
        let mut square = RgbImage::new(side, side);
        self.glyphs.draw(class, number as u64, &mut square);
        let mut image = RgbImage::new(self.size.1 as u32, self.size.0 as u32);
        resize(&square, self.size, &mut image);
        self.cameras[camera].apply(&mut image);
        image
    }
}

/// What a camera does to every image: tint and stripes, so that images of one camera resemble each other.
struct Camera {
    gain: [f32; 3],
    offset: [f32; 3],
    /// Stripes per image along height and width.
    stripes: [f32; 2],
}

impl Camera {
    fn new(seed: u64, number: usize) -> Camera {
        let mut rng = rng(seed, Purpose::Cameras, &[number as u64]);
        let gain = [(); 3].map(|()| rng.random_range(0.5..0.9));
        let offset = [(); 3].map(|()| rng.random_range(0.0..60.0));
        let stripes = [(); 2].map(|()| rng.random_range(-6.0..6.0));
        Camera { gain, offset, stripes }
    }

    fn apply(&self, image: &mut RgbImage) {
        let (width, height) = image.dimensions();
        for (x, y, pixel) in image.enumerate_pixels_mut() {
            let phase = self.stripes[0] * y as f32 / height as f32 + self.stripes[1] * x as f32 / width as f32;
            // a triangle wave from -12 to 12
            let stripe = 48.0 * (phase - phase.floor() - 0.5).abs() - 12.0;
            for (channel, value) in pixel.0.iter_mut().enumerate() {
                // clamps
                *value = (self.gain[channel] * *value as f32 + self.offset[channel] + stripe + 0.5) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap, HashSet};

    use super::*;
    use crate::data::{
        Dataset, Images, Market, PackingReport, Persons, PrepareOptions, Resized, Split, Store, batches,
        hold_out_by_camera, prepare,
    };

    const TREE: MarketTree = MarketTree { identities: 12, images: 9, size: (64, 32), difficulty: 0.3, seed: 1 };

    fn names(directory: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn packed(directory: &Path, max_skipped: f64) -> Result<(Market, PackingReport)> {
        let market = Market::open(&directory.join("tree"), false)?;
        let mut options = PrepareOptions::new((0, 0), Store::Files, "test");
        (options.max_skipped, options.threads) = (max_skipped, 2);
        let report = prepare(&market, &options, &directory.join("out.h5"), &mut |_, _| {})?;
        Ok((market, report))
    }

    #[test]
    fn a_tree_has_markets_form() {
        let directory = tempfile::tempdir().unwrap();
        TREE.write(directory.path(), &mut |_| {}).unwrap();
        let [train, query, gallery] =
            ["bounding_box_train", "query", "bounding_box_test"].map(|name| names(&directory.path().join(name)));
        assert_eq!((train.len(), query.len(), gallery.len()), (6 * 9, 6 * 6, 6 * 9 + 5 + 5 + 1));
        assert!(query.is_disjoint(&gallery));
        assert!(train.contains("0001_c1s1_000000_00.jpg") && gallery.contains("0007_c1s1_000000_00.jpg"));
        assert!(gallery.contains("0000_c3s1_000002_00.jpg") && gallery.contains("-1_c6s1_000005_00.jpg"));
        let person = |name: &String| name.split_once('_').unwrap().0.to_owned();
        let people = |names: &BTreeSet<String>| names.iter().map(person).collect::<BTreeSet<_>>();
        assert!(people(&train).is_disjoint(&people(&query)));
        let expected = ["0007", "0008", "0009", "0010", "0011", "0012"].map(String::from);
        assert_eq!(people(&query), expected.into());
        let cameras: HashSet<String> = train.iter().map(|name| name[4..7].to_owned()).collect();
        assert_eq!(cameras.len(), 6);
        // a second writing gives the same files
        let again = tempfile::tempdir().unwrap();
        TREE.write(again.path(), &mut |_| {}).unwrap();
        let file = "query/0008_c2s1_000009_00.jpg";
        assert_eq!(fs::read(directory.path().join(file)).unwrap(), fs::read(again.path().join(file)).unwrap());
    }

    #[test]
    fn trees_that_cannot_be_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = |tree: MarketTree| tree.write(directory.path(), &mut |_| {}).unwrap_err().to_string();
        let expected = "--images must be at least 2 for --layout market: a query and its match";
        assert_eq!(error(MarketTree { images: 1, ..TREE }), expected);
        let expected = "--identities and distractors are 110000 glyphs; there are 100000";
        assert_eq!(error(MarketTree { identities: 100_000, images: 10, ..TREE }), expected);
        assert_eq!(names(directory.path()).len(), 0);
    }

    /// Mean colour of each camera's images, and the spread of single images around it.
    #[test]
    fn cameras_are_visible_and_glyphs_too() {
        let painter = TREE.painter(12);
        let colour = |class, camera, number| {
            let image = painter.image(class, camera, number);
            let sums = image.pixels().fold([0.0; 3], |sums: [f64; 3], pixel| {
                std::array::from_fn(|channel| sums[channel] + pixel[channel] as f64)
            });
            sums.map(|sum| sum / (64.0 * 32.0))
        };
        let distance = |a: [f64; 3], b: [f64; 3]| (0..3).map(|c| (a[c] - b[c]).powi(2)).sum::<f64>().sqrt();
        // the same drawing as each camera shows it
        let shown: Vec<_> = (0..CAMERAS).map(|camera| colour(0, camera, 0)).collect();
        for (one, other) in (0..CAMERAS).flat_map(|one| (0..one).map(move |other| (one, other))) {
            assert!(distance(shown[one], shown[other]) > 5.0, "cameras {one} and {other}: {shown:?}");
        }
        // no image is almost of one colour: the glyph is there
        for (class, camera) in (0..12).flat_map(|class| (0..CAMERAS).map(move |camera| (class, camera))) {
            let image = painter.image(class, camera, 1);
            let (low, high) = (image.iter().min().unwrap(), image.iter().max().unwrap());
            assert!(high - low > 60, "{class} {camera}: {low} to {high}");
        }
    }

    #[test]
    fn a_packed_tree_has_its_images_people_cameras_and_splits() {
        let directory = tempfile::tempdir().unwrap();
        TREE.write(&directory.path().join("tree"), &mut |_| {}).unwrap();
        let (market, report) = packed(directory.path(), 0.0).unwrap();
        assert_eq!((report.images, report.identities, market.junk()), (54 + 36 + 54 + 5, 13, 5));
        assert!(report.skipped.is_empty() && report.empty.is_empty());

        let persons = Persons::open(&directory.path().join("out.h5")).unwrap();
        assert_eq!((persons.train.len(), persons.query.len(), persons.gallery.len()), (54, 36, 59));
        let names = persons.packed.names().unwrap();
        let splits = &persons.packed.cameras_and_splits().unwrap().splits;
        for (index, name) in names.iter().enumerate() {
            let (folder, file) = name.split_once('/').unwrap();
            assert!(file.starts_with(&format!("{:04}_c{}s1_", persons.ids[index], persons.cameras[index])), "{name}");
            let split = [("bounding_box_train", Split::Train), ("query", Split::Query)]
                .into_iter()
                .find_map(|(directory, split)| (directory == folder).then_some(split));
            assert_eq!(splits[index], split.unwrap_or(Split::Gallery));
            let bytes = fs::read(directory.path().join("tree").join(name)).unwrap();
            assert_eq!(persons.packed.stored(index).unwrap(), bytes, "copied as it was");
        }
        let mut matches = HashMap::new();
        for &index in &persons.gallery {
            matches.entry(persons.ids[index as usize]).or_insert_with(Vec::new).push(persons.cameras[index as usize]);
        }
        assert_eq!(matches[&0].len(), 5);
        for &query in &persons.query {
            let (id, camera) = (persons.ids[query as usize], persons.cameras[query as usize]);
            assert!(matches[&id].iter().any(|&other| other != camera));
        }
    }

    #[test]
    fn a_packed_tree_is_trained_on_in_another_size() {
        let directory = tempfile::tempdir().unwrap();
        TREE.write(&directory.path().join("tree"), &mut |_| {}).unwrap();
        packed(directory.path(), 0.0).unwrap();
        let persons = Persons::open(&directory.path().join("out.h5")).unwrap();
        let images: std::sync::Arc<dyn Images> =
            std::sync::Arc::new(Resized { packed: persons.packed.clone(), size: (48, 40) });
        let held_out = hold_out_by_camera(&images, &persons.train, &persons.cameras, 2, 4, 1);
        assert_eq!((held_out.classes, held_out.training.len(), held_out.gallery.len()), (4, 36, 8));
        let query = std::sync::Arc::new(Dataset::part(images.clone(), held_out.query));
        let batch = batches(&query, vec![0, 1], 0, 2, None, 1).next().unwrap().unwrap();
        assert_eq!(batch.images.pixels().size(), [2, 48, 40, 3]);
        assert_eq!(batch.labels.int64_value(&[0]), query.labels[0] as i64);
    }

    #[test]
    fn images_that_cannot_be_decoded_are_skipped_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        TREE.write(&directory.path().join("tree"), &mut |_| {}).unwrap();
        let image = directory.path().join("tree/query/0008_c2s1_000009_00.jpg");
        let bytes = fs::read(&image).unwrap();
        fs::write(&image, &bytes[..bytes.len() / 2]).unwrap();
        let error = packed(directory.path(), 0.0).err().unwrap().to_string();
        assert!(error.contains("1 of 149 images can't be used, more than the 0 % allowed:\n  query/0008_c2s1_000009"));
        let (_, report) = packed(directory.path(), 0.01).unwrap();
        // what was done is kept
        assert_eq!((report.images, report.unusable, report.resumed), (148, 1, 148));
        assert_eq!(Persons::open(&directory.path().join("out.h5")).unwrap().query.len(), 35);
    }

    #[test]
    fn images_damaged_after_packing_are_errors_with_file_and_name() {
        let directory = tempfile::tempdir().unwrap();
        TREE.write(&directory.path().join("tree"), &mut |_| {}).unwrap();
        packed(directory.path(), 0.0).unwrap();
        let path = directory.path().join("out.h5");
        let stored = Persons::open(&path).unwrap().packed.stored(3).unwrap().to_vec();
        let mut file = fs::read(&path).unwrap();
        let at = file.windows(stored.len()).position(|window| window == stored).unwrap();
        file[at + 100] ^= 1;
        fs::write(&path, file).unwrap();
        let persons = Persons::open(&path).unwrap();
        let resized = Resized { packed: persons.packed, size: (16, 8) };
        let error = resized.read(3, &mut [0; 16 * 8 * 3]).unwrap_err().to_string();
        let expected = "out.h5: image 3 (bounding_box_train/0001_c2s1_000007_00.jpg): damaged: it does not match its";
        assert!(error.contains(expected), "{error}");
        assert!(resized.read(2, &mut [0; 16 * 8 * 3]).is_ok());
    }
}
