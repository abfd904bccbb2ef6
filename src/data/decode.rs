//! Image files to RGB pixels of the wanted size.
//!
//! Decoders are told to be strict: half an image with grey below would train as if it were a face. Orientation tags are
//! ignored, as by PIL and torchvision, but where people's own photographs are classified (`upright`).

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

pub use super::jpeg::is_jpeg;
use super::jpeg::{Jpeg, check_pixels};

const MAX_BYTES: u64 = 1 << 29;

/// Decodes a JPEG of exactly `size` (height, width) into `pixels`, RGB [H, W, 3]. Grey, CMYK and others become RGB.
///
/// Errors: not a JPEG, damaged, truncated, of another size.
pub fn jpeg_into(bytes: &[u8], size: (usize, usize), pixels: &mut [u8]) -> Result<(), String> {
    let jpeg = Jpeg::open(bytes)?;
    let found = jpeg.size;
    if found != size {
        return Err(format!("{} x {} pixels instead of {} x {}", found.0, found.1, size.0, size.1));
    }
    if pixels.len() != size.0 * size.1 * 3 {
        return Err(format!("no room for {} x {} pixels in {} bytes", size.0, size.1, pixels.len()));
    }
    jpeg.read(pixels)
}

/// Decodes JPEG, PNG or PNM, told apart by their first bytes. Alpha is dropped, 16 bits become 8.
///
/// Errors: another format, damaged, truncated, more than 16384 pixels a side or 64 megapixels.
pub fn any(bytes: &[u8]) -> Result<RgbImage, String> {
    if bytes.is_empty() {
        return Err("empty".into());
    }
    if is_jpeg(bytes) {
        return whole(Jpeg::open(bytes)?);
    }
    Ok(DynamicImage::from_decoder(other_decoder(bytes)?).map_err(|why| why.to_string())?.into_rgb8())
}

fn whole(jpeg: Jpeg) -> Result<RgbImage, String> {
    let (height, width) = jpeg.size;
    let mut image = RgbImage::new(width as u32, height as u32);
    jpeg.read(&mut image)?;
    Ok(image)
}

/// The same, turned or mirrored as the EXIF tag says: Pillow's `ImageOps.exif_transpose`.
pub fn upright(bytes: &[u8]) -> Result<RgbImage, String> {
    let (image, orientation) = if is_jpeg(bytes) {
        let jpeg = Jpeg::open(bytes)?;
        let orientation = jpeg.orientation();
        (whole(jpeg)?, orientation)
    } else {
        let image = any(bytes)?;
        (image, other_decoder(bytes)?.orientation().unwrap_or(Orientation::NoTransforms))
    };
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// A decoder of PNG or PNM that has read the header.
fn other_decoder(bytes: &[u8]) -> Result<impl ImageDecoder + '_, String> {
    let format = image::guess_format(bytes).ok();
    let Some(format @ (ImageFormat::Png | ImageFormat::Pnm)) = format else {
        return Err("neither JPEG nor PNG nor PNM".into());
    };
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|why| why.to_string())?;
    let (width, height) = decoder.dimensions();
    check_pixels((height as usize, width as usize))?;
    Ok(decoder)
}

/// Looks whether the bytes can be a whole image, without decoding it: format, size, and that they end as such an image does.
/// Errors: those of `any` that this tells, and no others.
pub fn looks_whole(bytes: &[u8]) -> Result<(), String> {
    if bytes.is_empty() {
        return Err("empty".into());
    }
    if is_jpeg(bytes) {
        return Jpeg::open(bytes).map(|_| ());
    }
    let decoder = other_decoder(bytes)?;
    let pixels = decoder.total_bytes();
    match bytes {
        [0x89, ..] if !has_png_data(bytes) => Err("truncated: a PNG without the end of its data".into()),
        // binary ones; the others' pixels take other numbers of bytes
        [b'P', b'5'..=b'7', ..] if (bytes.len() as u64) < pixels => {
            Err(format!("truncated: {} bytes for {pixels} of pixels", bytes.len()))
        }
        _ => Ok(()),
    }
}

/// Whether the chunks with the pixels end within the bytes; what comes after them may be missing.
fn has_png_data(bytes: &[u8]) -> bool {
    let (mut rest, mut found) = (bytes.get(8..).unwrap_or_default(), false);
    while let Some((&[a, b, c, d, ref kind @ ..], _)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let is_data = kind == b"IDAT";
        // length, kind, data, checksum
        let Some(next) = rest.get(12 + length..) else { return found && !is_data };
        (rest, found) = (next, found || is_data);
    }
    found
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::data::Rectangle;
    use crate::data::jpeg::tests as jpegs;
    use crate::data::jpeg_encoder::to_jpeg;
    use image::{GrayImage, Luma, Rgb, imageops};
    use proptest::prelude::{ProptestConfig, any as arbitrary, prop, proptest};

    fn gradient(height: u32, width: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([(x * 2) as u8, (y * 2) as u8, ((x + y) % 256) as u8]))
    }

    fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn jpeg_png_and_pnm_are_told_apart_by_content() {
        let image = gradient(20, 30);
        for format in [ImageFormat::Png, ImageFormat::Pnm] {
            assert_eq!(any(&encoded(&image.clone().into(), format)).unwrap(), image);
        }
        let decoded = any(&to_jpeg(&image).unwrap()).unwrap();
        let worst = decoded.iter().zip(image.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst < 12, "{worst}");
        assert_eq!(any(b"").unwrap_err(), "empty");
        assert_eq!(any(b"GIF89a.............").unwrap_err(), "neither JPEG nor PNG nor PNM");
    }

    /// The JPEG with an EXIF tag.
    pub fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
        // APP1: "Exif", a little-endian TIFF with one entry, the orientation (0x0112, a short)
        let tiff = [b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".as_slice(), &[orientation, 0, 0, 0], &[0; 4]];
        let exif = [b"Exif\0\0".as_slice(), &tiff.concat()].concat();
        let length = (exif.len() as u16 + 2).to_be_bytes();
        [&jpeg[..2], &[0xFF, 0xE1], &length, &exif, &jpeg[2..]].concat()
    }

    #[test]
    fn photographs_are_turned_as_their_tag_says() {
        let image = gradient(20, 30);
        let jpeg = to_jpeg(&image).unwrap();
        let plain = any(&jpeg).unwrap();
        assert_eq!(upright(&jpeg).unwrap(), plain);
        let tagged = |orientation| with_orientation(&jpeg, orientation);
        for (orientation, expected) in [
            (1, plain.clone()),
            (2, imageops::flip_horizontal(&plain)),
            (3, imageops::rotate180(&plain)),
            (6, imageops::rotate90(&plain)),
            (8, imageops::rotate270(&plain)),
        ] {
            assert!(upright(&tagged(orientation)).unwrap() == expected, "orientation {orientation}");
            assert!(any(&tagged(orientation)).unwrap() == plain, "faces stay as they are");
        }
    }

    #[test]
    fn what_looks_whole_is_whole_but_for_its_middle() {
        let image = DynamicImage::ImageRgb8(gradient(20, 30));
        for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Pnm] {
            let bytes = encoded(&image, format);
            assert_eq!(looks_whole(&bytes), Ok(()));
            assert_eq!(looks_whole(&[&bytes[..], b"more"].concat()), Ok(()), "what any decoder ignores");
            let cut = match format {
                ImageFormat::Pnm => 100,
                ImageFormat::Png => 13,
                _ => 3,
            };
            assert!(looks_whole(&bytes[..bytes.len() - cut]).unwrap_err().starts_with("truncated"), "{format:?}");
            assert!(looks_whole(&bytes[..10]).is_err());
        }
        assert!(looks_whole(b"P5 16384 16384 255\n0").unwrap_err().contains("too many"));
        assert_eq!(looks_whole(b"P1 2 2 1 0 0 1"), Ok(()));
        assert_eq!(looks_whole(b""), Err("empty".into()));
        assert_eq!(looks_whole(b"text"), Err("neither JPEG nor PNG nor PNM".into()));
    }

    #[test]
    fn grey_images_become_rgb() {
        let grey = GrayImage::from_fn(24, 16, |x, y| Luma([(x * 5 + y) as u8]));
        for format in [ImageFormat::Png, ImageFormat::Pnm, ImageFormat::Jpeg] {
            let image = any(&encoded(&grey.clone().into(), format)).unwrap();
            assert_eq!(image.dimensions(), (24, 16));
            for (pixel, grey) in image.pixels().zip(grey.pixels()) {
                assert!(pixel[0] == pixel[1] && pixel[1] == pixel[2] && pixel[0].abs_diff(grey[0]) < 8, "{format:?}");
            }
        }
    }

    #[test]
    fn jpegs_are_decoded_in_place_and_their_size_is_checked() {
        let bytes = to_jpeg(&gradient(112, 96)).unwrap();
        let mut pixels = vec![0; 112 * 96 * 3];
        jpeg_into(&bytes, (112, 96), &mut pixels).unwrap();
        assert_eq!(pixels, any(&bytes).unwrap().into_raw());
        assert_eq!(jpeg_into(&bytes, (96, 112), &mut pixels).unwrap_err(), "112 x 96 pixels instead of 96 x 112");
        assert!(jpeg_into(&bytes, (112, 96), &mut pixels[1..]).is_err());
    }

    #[test]
    fn images_cut_off_anywhere_are_refused() {
        let image = gradient(33, 47);
        for format in [ImageFormat::Jpeg, ImageFormat::Pnm] {
            let bytes = encoded(&image.clone().into(), format);
            for length in 0..bytes.len() {
                assert!(any(&bytes[..length]).is_err(), "{format:?} {length}");
            }
        }
        let bytes = encoded(&image.into(), ImageFormat::Png);
        // without PNG's end chunk (12 bytes) all pixels are there
        for length in 0..bytes.len() - 12 {
            assert!(any(&bytes[..length]).is_err(), "PNG {length}");
        }
    }

    #[test]
    fn decompression_bombs_are_refused() {
        assert_eq!(any(b"P5 60000 60000 255\n0").unwrap_err(), "60000 x 60000 pixels are too many");
        let long = encoded(&GrayImage::new(30_000, 10).into(), ImageFormat::Png);
        assert_eq!(any(&long).unwrap_err(), "10 x 30000 pixels are too many");
        assert!(any(b"P5 16384 16384 255\n0").unwrap_err().contains("too many"));
        let mut bytes = to_jpeg(&gradient(8, 8)).unwrap();
        let frame = bytes.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
        bytes[frame + 5..frame + 9].copy_from_slice(&[0x40, 0, 0x40, 0]);
        assert!(any(&bytes).unwrap_err().contains("too many"), "{:?}", any(&bytes));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn damaged_images_never_cause_a_panic_and_what_can_be_decoded_looks_whole(
            which in 0..7usize,
            changes in prop::collection::vec((arbitrary::<prop::sample::Index>(), arbitrary::<u8>()), 1..8),
        ) {
            let mut bytes = samples()[which].clone();
            for (index, value) in changes {
                let at = index.index(bytes.len());
                bytes[at] = value;
            }
            if any(&bytes).is_ok() {
                assert_eq!(looks_whole(&bytes), Ok(()));
            }
            let _ = jpeg_into(&bytes, (33, 47), &mut [0; 33 * 47 * 3]);
            if let Ok(jpeg) = Jpeg::open(&bytes) {
                let (height, width) = jpeg.size;
                let part = Rectangle { top: height / 3, left: width / 3, height: height.div_ceil(2), width: width.div_ceil(2) };
                let _ = jpeg.read_region(part, 1 << (which % 3));
            }
        }
    }

    /// JPEG with full and with halved chroma, grey, progressive and CMYK JPEG, PNG, PNM.
    fn samples() -> &'static [Vec<u8>] {
        static SAMPLES: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
        SAMPLES.get_or_init(|| {
            let image = DynamicImage::from(gradient(33, 47));
            let grey = DynamicImage::from(image.to_luma8());
            let full = to_jpeg(&image.to_rgb8()).unwrap();
            let mut halved = full.clone();
            // the first component's sampling factors, in the frame's header
            let frame = full.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
            halved[frame + 11] = 0x22;
            vec![
                full,
                halved,
                encoded(&grey, ImageFormat::Jpeg),
                encoded(&image, ImageFormat::Png),
                encoded(&image, ImageFormat::Pnm),
                jpegs::SAMPLES[4].1.to_vec(),
                jpegs::SAMPLES[6].1.to_vec(),
            ]
        })
    }

    fn cases() -> u32 {
        std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2000)
    }
}
